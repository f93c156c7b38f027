r"""The small model that comes with the package, from sharp photographs alone.

    python train.py --config=configs/demo.py --config.data.root=PHOTOGRAPHS --workdir=RUN
    python tools/bundle_weights.py RUN

PHOTOGRAPHS is any folder of sharp photographs; whoever has more does better. The bundled weights
saw 247 photographs, 128 megapixels with the twelve held out, that MODEL_CARD.md credits. On six of
those held out (input 24.58 dB, SSIM 0.662): +0.72 dB after 1375 steps, +0.85 after 2750, +0.97
after 4125, +1.06 and SSIM 0.693 after 5500. That took 1 hour 52 minutes on one core of an EPYC of
the first generation, the other one busy with other work.

The recipe is that of `configs/tiny.py` for half as long again, on other photographs, with more
defocus beyond 8 pixels and less below half a pixel.
"""

import ml_collections

from configs import tiny


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = tiny.get_config()
    config.steps = 5500
    config.data.hold_out = 12
    config.data.synthesis.update(focused_share=0.05, large_share=0.15)
    config.log_every = 50
    config.validation.update(every=1375, photographs=6)
    return config
