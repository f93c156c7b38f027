r"""Trains NRKNet on DPDD, the Canon dual-pixel data set: its combined views.

    python train.py --config=configs/nrknet.py --config.data.root=DPDD --workdir=RUN

Published: crop 256, batch 4, flips and quarter turns, Adam with learning rate 1e-4, 5000 epochs of
350 images, and the losses of the outputs at all scales (MSE + 0.1 Fourier). After epoch 1000, the
last 99 of every 200 epochs minimize 1 - SSIM instead. The learning rate is halved at epochs 2000
and 3000 and is 1e-5 from epoch 4000 on.

Not reproduced: the published training also reloads the best model and resets Adam at epochs 2000,
3000 and 4000. The training loop does not return to an earlier model. The paper's reblurring loss is
not part of the published loss either.

For LFDOF, `--config.data.layout=lfdof --config.data.hold_out=20` changes the data only. Published
for LFDOF: an epoch has 2815 steps, the SSIM phases begin at epoch 100 and repeat every 20 epochs,
and the learning rate falls at epochs 100, 200 and 300.

The authors name no hardware; one GPU with 24 GB should do. No run is complete yet, so there are no
results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config

EPOCH = 350 / 4  # steps
PLAIN = (("pyramid_mse", 1.0), ("pyramid_fourier", 0.1), ("pyramid_ssim", 0.0))
SSIM = (("pyramid_mse", 0.0), ("pyramid_fourier", 0.0), ("pyramid_ssim", 1.0))


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("nrknet")
    config.data.update(layout="dpdd", vertical_flip=True, quarter_turns=True, workers=8)
    config.numerics.precision = "default"
    config.num_steps = int(5000 * EPOCH)
    config.batch_size = 4
    config.crop = 256
    config.loss.update(charbonnier=0.0, pyramid_mse=1.0, pyramid_fourier=0.1)
    config.loss_schedule = tuple(
        (int(epoch * EPOCH), terms)
        for start in range(1000, 5000, 200)
        for epoch, terms in ((start + 101, SSIM), (start + 200, PLAIN))
        if epoch < 5000
    )
    config.optimizer.update(
        learning_rate=1e-4,
        schedule="multistep",
        milestones=tuple(int(epoch * EPOCH) for epoch in (2000, 3000, 4000)),
        gammas=(0.5, 0.5, 0.4),
        weight_decay=0.0,
    )
    config.validation.every = 5000
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
