r"""Trains KPAC on DPDD, the Canon dual-pixel data set: its combined views.

    python train.py --config=configs/kpac.py --config.data.root=DPDD --workdir=RUN

Published: Adam with learning rate 1e-4, batch 8, and the initial values. The training code is not
released; it has a perceptual loss of unknown weight, which this config leaves out. With
`--config.loss.lpips=WEIGHT`, LPIPS can stand in for it.

Our choice: L1 loss, crop 256, flips and quarter turns, and 200 000 steps with the learning rate
halved at 100 000 and at 150 000. For three levels, give `default_config` the name "kpac_3level";
for two views, "kpac_dual", set `data.layout` to "dpdd_dual_pixel", and leave `data.quarter_turns`
out.

One GPU with 24 GB should do. No run is complete yet, so there are no results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("kpac")
    config.data.update(layout="dpdd", vertical_flip=True, quarter_turns=True, workers=8)
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
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
