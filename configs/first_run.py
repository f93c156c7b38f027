r"""See it learn: nothing to download or to prepare, three minutes on two CPU cores.

    python train.py --config=configs/first_run.py --workdir=RUN

learns from three of the photographs in `examples/photographs/sharp`, which it puts out of focus
itself, and measures on the fourth. So few photographs in so short a time teach it little: the loss
falls, and PSNR begins to rise over that of the blurred input. `configs/tiny.py` learns for half an
hour from photographs of your own.
"""

from pathlib import Path

import ml_collections

from configs import tiny

_PHOTOGRAPHS = Path(__file__).parent.parent / "examples/photographs/sharp"


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = tiny.get_config()
    config.steps = 120
    config.data.root = str(_PHOTOGRAPHS)
    config.data.hold_out = 1
    config.optimizer.warmup_steps = 20
    config.averaging = 0.95
    config.log_every = 10
    config.save_every = 60
    config.validation.update(every=60, photographs=1, stride=90)
    config.afterwards = (
        "your own photographs: python train.py --config=configs/tiny.py "
        "--config.data.root=PHOTOGRAPHS --workdir=RUN",
        "DPDD, the published model: python train.py --config=configs/dpdd.py "
        "--config.data.root=DPDD --config.initial.encoder=mae_pretrain_vit_base.pth --workdir=RUN",
    )
    return config
