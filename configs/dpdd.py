r"""Trains the published model on DPDD, the Canon dual-pixel data set: its combined views.

    python train.py --config=configs/dpdd.py --config.data.root=DPDD \
        --config.initial.encoder=mae_pretrain_vit_base.pth --workdir=RUN

Published: the architecture, crop 360, horizontal flips, losses and their weights, AdamW
with weight decay 1e-2, a stepwise learning rate schedule, and MAE's ViT-B as tokenizer and primary
encoder, both frozen. To train the primary encoder at a low rate instead, add
`--config.optimizer.lr_mults='(("tokenizer/.*", 0), ("primary_encoder/.*", 0.1))'`.

Our choice, because the authors released no values: learning rate, milestones, batch size and
length. The learning rate is between NRKNet's 1e-4 (Adam, batch 4, 5000 epochs) and Restormer's 3e-4
(AdamW, 8 GPUs, 300 000 steps, crops from 128 to 384); MAXIM also uses 2e-4. 100 000 steps of 16 are
4600 epochs of DPDD's 350 images. The contextual terms have large gradients while h_s is
small, so the config clips the gradient and warms up the learning rate.

Needs a GPU with 80 GB, or several smaller ones, in bfloat16. Rematerialization takes a third more
time and saves most of the memory. No run is complete yet, so there are no results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("base")
    config.data.layout = "dpdd"
    config.numerics.update(dtype="bfloat16", precision="default", remat=True)
    config.num_steps = 100_000
    config.batch_size = 16
    config.crop = 360
    config.optimizer.update(
        learning_rate=2e-4,
        warmup_steps=1000,
        schedule="multistep",
        milestones=(50_000, 75_000, 90_000),
        gamma=0.5,
        clip_norm=1.0,
    )
    config.optimizer.lr_mults = (("tokenizer/.*", 0.0), ("primary_encoder/.*", 0.0))
    config.ema_decay = 0.999
    config.data.workers = 8
    config.validation.every = 2500
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
