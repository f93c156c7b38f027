r"""Trains GKMNet on DPDD, the Canon dual-pixel data set: its combined views.

    python train.py --config=configs/gkmnet.py --config.data.root=DPDD --workdir=RUN

Published: crop 256, batch 4, flips and quarter turns, Adam with learning rate 1e-4 and 1e-5 from
epoch 3000 on, 4000 epochs of 350 images, and the sum of the MSE at three scales. From epoch 1000
on, the first 100 of every 200 epochs minimize 1 - SSIM instead. Images are normalized with their
own statistics outside of training too.

The published training draws flips and turns with other probabilities: a flip (horizontal or
vertical) with 1/2, and a turn by 90, 180 or 270 degrees with 1/2.

The authors name no hardware; one GPU with 24 GB should do. No run is complete yet, so there are no
results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config

EPOCH = 350 / 4  # steps
MSE = (("pyramid_mse", 1.0), ("pyramid_ssim", 0.0))
SSIM = (("pyramid_mse", 0.0), ("pyramid_ssim", 1.0))


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("gkmnet")
    config.data.update(layout="dpdd", vertical_flip=True, quarter_turns=True, workers=8)
    config.numerics.precision = "default"
    config.num_steps = int(4000 * EPOCH)
    config.batch_size = 4
    config.crop = 256
    config.loss.update(charbonnier=0.0, pyramid_mse=1.0)
    config.loss_schedule = tuple(
        (int((epoch + half) * EPOCH), terms)
        for epoch in range(1000, 4000, 200)
        for half, terms in ((0, SSIM), (100, MSE))
    )
    config.optimizer.update(
        learning_rate=1e-4,
        schedule="multistep",
        milestones=(int(3000 * EPOCH),),
        gamma=0.1,
        weight_decay=0.0,
    )
    config.validation.every = 5000
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
