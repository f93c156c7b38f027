r"""Trains AIFNet on LFDOF, light-field images with several focus settings per scene.

    python train.py --config=configs/aifnet.py --config.data.root=LFDOF --workdir=RUN

Published: the data set, and no training code. The released code has side outputs of the defocus
map at five scales and a discriminator for the map's network; neither is included, so the map is
trained through the restored image alone.

Our choice: L1 loss, crop 256, batch 8, flips and quarter turns, and 200 000 steps of Adam with
learning rate 1e-4, halved at 100 000 and at 150 000. LFDOF has no validation split: 20 of its 790
training scenes are held out completely.

One GPU with 40 GB should do. No run is complete yet, so there are no results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("aifnet")
    config.data.update(layout="lfdof", hold_out=20, workers=8)
    config.data.update(vertical_flip=True, quarter_turns=True)
    config.numerics.precision = "default"
    config.num_steps = 200_000
    config.batch_size = 8
    config.crop = 256
    config.loss.update(charbonnier=0.0, l1=1.0)
    config.optimizer.update(
        learning_rate=1e-4,
        schedule="multistep",
        milestones=(100_000, 150_000),
        gamma=0.5,
        weight_decay=0.0,
    )
    config.validation.every = 5000
    config.validation.num_images = 40
    return config
