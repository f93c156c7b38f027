r"""The small model that comes with the package, from sharp photographs alone.

    python train.py --config=configs/demo.py --config.data.root=PHOTOGRAPHS --workdir=RUN
    python tools/bundle_weights.py RUN

PHOTOGRAPHS is any folder of sharp photographs; whoever has more does better. The bundled weights
saw 247 photographs, 128 megapixels with the twelve held out, that MODEL_CARD.md credits: +0.79 dB
after 800 steps, +1.00 dB and SSIM from 0.673 to 0.698 after 1600, on six of those held out (input
24.82 dB), still rising. That took 30 minutes on two cores of an EPYC of the first generation.

The recipe is that of `configs/tiny.py` with other photographs.
"""

import ml_collections

from configs import tiny


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = tiny.get_config()
    config.steps = 1600
    config.data.hold_out = 12
    config.log_every = 50
    config.validation.update(every=800, photographs=6)
    return config
