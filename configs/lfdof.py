r"""Trains the published model on LFDOF, light-field images with several focus settings per scene.

    python train.py --config=configs/lfdof.py --config.data.root=LFDOF \
        --config.initial.encoder=mae_pretrain_vit_base.pth --workdir=RUN

configs/dpdd.py lists the published settings and our choices. LFDOF has no validation split. The
config holds out 20 of its 790 training scenes completely, so that no image of them is trained on,
and validates on 40 of their images. 200 000 steps of 16 are about 290 epochs of the rest of
its 11,261 images.

Needs a GPU with 80 GB, or several smaller ones. No run is complete yet, so there are no results.
"""

import ml_collections

from configs import dpdd


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = dpdd.get_config()
    config.data.layout = "lfdof"
    config.data.hold_out = 20
    config.num_steps = 200_000
    config.optimizer.milestones = (100_000, 150_000, 180_000)
    config.validation.every = 5000
    config.validation.num_images = 40
    return config
