r"""Trains Restormer on DPDD, the Canon dual-pixel data set: its combined views.

    python train.py --config=configs/restormer.py --config.data.root=DPDD --workdir=RUN

Published: L1 loss, AdamW with weight decay 1e-4 and gradients clipped to norm 0.01; learning rate
3e-4 for 92 000 steps, then a cosine to 1e-6 at step 300 000; crops that grow from 128 to 384 while
the batch shrinks from 64 to 8, with all eight flips and turns. For two views, give `default_config`
the name "restormer_dual", set `data.layout` to "dpdd_dual_pixel" and `data.bit_depth` to 16, and
leave `data.quarter_turns` out.

The training loop crops whole images: the published crops come from patches of 512 pixels, without
the 30 % that are least sharp.

Published on 8 GPUs, with 8 crops of 128 or one of 384 pixels on each. No run is complete yet, so
there are no results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("restormer")
    config.data.update(layout="dpdd", vertical_flip=True, quarter_turns=True, workers=8)
    config.numerics.precision = "default"
    config.num_steps = 300_000
    config.batch_size = 64
    config.crop = 128
    config.progressive = (
        (92_000, 160, 40),
        (156_000, 192, 32),
        (204_000, 256, 16),
        (240_000, 320, 8),
        (276_000, 384, 8),
    )
    config.loss.update(charbonnier=0.0, l1=1.0)
    config.optimizer.update(
        learning_rate=3e-4,
        schedule="cosine",
        constant_steps=92_000,
        final_learning_rate=1e-6,
        weight_decay=1e-4,
        clip_norm=0.01,
    )
    config.validation.every = 5000
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
