r"""A first training run: no download, no preparation, three minutes on two CPU cores.

    python train.py --config=configs/first_run.py --workdir=RUN

This trains on three of the images in `examples/images/sharp`, with synthetic defocus, and
validates on the fourth. Three images in three minutes teach the model little: the loss
falls, and PSNR begins to rise above that of the blurred input. `configs/tiny.py` trains for half an
hour on your own images.
"""

from pathlib import Path

import ml_collections

from configs import tiny

_IMAGES = Path(__file__).parent.parent / "examples/images/sharp"


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = tiny.get_config()
    config.num_steps = 120
    config.data.root = str(_IMAGES)
    config.data.hold_out = 1
    config.optimizer.warmup_steps = 20
    config.ema_decay = 0.95
    config.log_every = 10
    config.save_every = 60
    config.validation.update(every=60, num_images=1, stride=90)
    config.afterwards = (
        "your own images: python train.py --config=configs/tiny.py "
        "--config.data.root=IMAGES --workdir=RUN",
        "DPDD, the published model: python train.py --config=configs/dpdd.py "
        "--config.data.root=DPDD --config.initial.encoder=mae_pretrain_vit_base.pth --workdir=RUN",
    )
    return config
