r"""Trains IFANet on DPDD, the Canon dual-pixel data set: its combined views.

    python train.py --config=configs/ifanet.py --config.data.root=DPDD --workdir=RUN

Published: crop 256, batch 8, MSE of the restored image, RAdam with weight decay 0.01, gradients
clipped to norm 0.5, and 600 000 steps with learning rate 1e-4, halved at 500 000 and at 550 000.

Not included: the two losses that need networks or data for training alone, MSE of the right view
warped to the left one and of the reblurred sharp image; and noise, grayscale and rescaling as
augmentation. The training loop mirrors crops, the published training does not.

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
