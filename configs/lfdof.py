r"""Train the published model on LFDOF, light-field photographs with several focus settings a scene.

    python train.py --config=configs/lfdof.py --config.data.root=LFDOF \
        --config.initial.encoder=mae_pretrain_vit_base.pth --workdir=RUN

The published parts and our choices are those of configs/dpdd.py. LFDOF has no validation part: 20
of its 790 training scenes are held out, whole, so that no photograph of them is trained on, and 40
photographs of these are measured. 200 000 steps of 16 are some 290 epochs of what is left of
its 11,261 photographs.

For a GPU of 80 GB, or several smaller ones. Not run to its end yet: there is no figure to state.
"""

import ml_collections

from configs import dpdd


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = dpdd.get_config()
    config.data.layout = "lfdof"
    config.data.hold_out = 20
    config.steps = 200_000
    config.optimizer.milestones = (100_000, 150_000, 180_000)
    config.validation.every = 5000
    config.validation.photographs = 40
    return config
