r"""Trains NRKNet on DPDD, the Canon dual-pixel data set: its combined views.

    python train.py --config=configs/nrknet.py --config.data.root=DPDD --workdir=RUN

Published: crop 256, batch 4, flips and quarter turns, Adam with learning rate 1e-4, 5000 epochs of
350 images, and the losses of the outputs at all scales (MSE + 0.1 Fourier). The published learning
rate is halved at epochs 2000 and 3000 and is 1e-5 from epoch 4000 on; here it is halved each time.

The training loop cannot alternate losses, nor return to the best model: the published training
minimizes 1 - SSIM (`loss.pyramid_ssim`) instead in half of the epochs from 1000 on, and reloads the
best model and resets Adam at epochs 2000, 3000 and 4000.

For LFDOF, set `--config.data.layout=lfdof --config.data.hold_out=20`; the published schedule there
is the same with a tenth of the epochs.

The authors name no hardware; one GPU with 24 GB should do. No run is complete yet, so there are no
results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config

EPOCH = 350 / 4  # steps


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("nrknet")
    config.data.update(layout="dpdd", vertical_flip=True, quarter_turns=True, workers=8)
    config.numerics.precision = "default"
    config.num_steps = int(5000 * EPOCH)
    config.batch_size = 4
    config.crop = 256
    config.loss.update(charbonnier=0.0, pyramid_mse=1.0, pyramid_fourier=0.1)
    config.optimizer.update(
        learning_rate=1e-4,
        schedule="multistep",
        milestones=tuple(int(epoch * EPOCH) for epoch in (2000, 3000, 4000)),
        gamma=0.5,
        weight_decay=0.0,
    )
    config.validation.every = 5000
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
