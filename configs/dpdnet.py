r"""Trains DPDNet on DPDD, the Canon dual-pixel data set: the left and the right view.

    python train.py --config=configs/dpdnet.py --config.data.root=DPDD --workdir=RUN

Published: crop 512, batch 5, images of 16 bits, MSE, dropout 0.4, and 200 epochs of Adam with
learning rate 2e-5, halved every 60 epochs. An epoch has about 1372 steps: an image gives 28
patches, of which the 70 % that are sharpest are kept.

The training loop crops whole images at random instead of keeping the sharpest patches. For
DPDNet-S, give `default_config` the name "dpdnet_single", and set `data.layout` to "dpdd".

The authors name no hardware; one GPU with 24 GB should do. No run is complete yet, so there are no
results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config

EPOCH = 1372  # steps


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("dpdnet")
    config.data.update(layout="dpdd_dual_pixel", bit_depth=16, workers=8)
    config.data.horizontal_flip = False
    config.numerics.precision = "default"
    config.num_steps = 200 * EPOCH
    config.batch_size = 5
    config.crop = 512
    config.loss.update(charbonnier=0.0, mse=1.0)
    config.optimizer.update(
        learning_rate=2e-5,
        schedule="multistep",
        milestones=(60 * EPOCH, 120 * EPOCH, 180 * EPOCH),
        gamma=0.5,
        epsilon=1e-7,  # Keras's
        weight_decay=0.0,
    )
    config.validation.every = 5000
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
