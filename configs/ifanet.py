r"""Trains IFANet on DPDD, the Canon dual-pixel data set: its combined views.

    python train.py --config=configs/ifanet.py --config.data.root=DPDD --workdir=RUN

Published: crop 256, batch 8, MSE of the restored image, RAdam with weight decay 0.01, gradients
clipped to norm 0.5, and 600 000 steps with learning rate 1e-4, halved at 500 000 and at 550 000.
The crops for 26, 35 and 44 iterations are 512, 576 and 704.

For two views, give `default_config` the name "ifanet_dual", and set `data.layout` to
"dpdd_dual_pixel". The published loss of the right view, warped by the disparity to the left one, is
then included (`loss.disparity`). The published training has it for one view, too: it reads the
views beside the combined image, which this training loop does not.

Not included: the loss of the sharp image that a second network reblurs; and noise, grayscale and
rescaling as augmentation.

The authors name no hardware; one GPU with 24 GB should do. No run is complete yet, so there are no
results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("ifanet")
    config.data.update(layout="dpdd", horizontal_flip=False, workers=8)
    config.numerics.precision = "default"
    config.num_steps = 600_000
    config.batch_size = 8
    config.crop = 256
    config.loss.update(charbonnier=0.0, mse=1.0)
    config.optimizer.update(
        name="radam",
        learning_rate=1e-4,
        schedule="multistep",
        milestones=(500_000, 550_000),
        gamma=0.5,
        weight_decay=0.01,
        clip_norm=0.5,
    )
    config.validation.every = 5000
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
