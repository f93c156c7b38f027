r"""The small model that comes with the package, from sharp photographs alone.

    python train.py --config=configs/demo.py --config.data.root=PHOTOGRAPHS --workdir=FIRST
    python train.py --config=configs/demo.py:FIRST --config.data.root=PHOTOGRAPHS --workdir=SECOND
    python train.py --config=configs/demo.py:SECOND --config.seed=2 --config.steps=8000 \
      --config.validation.every=2000 --config.data.synthesis.focused_share=0.15 \
      --config.data.root=PHOTOGRAPHS --workdir=RUN
    python tools/bundle_weights.py RUN

PHOTOGRAPHS is any folder of sharp photographs; whoever has more does better. The bundled weights
saw 247 photographs, 128 megapixels with the twelve held out, that MODEL_CARD.md credits.

The recipe is that of `configs/tiny.py` for a third as long again, on other photographs, with more
defocus beyond 8 pixels and less below half a pixel. Then once more, from the weights that it came
to, for 9000 steps, with a seed of 1 and a learning rate of 6e-3; and again for 8000, with 15 % of
the blur radii below half a pixel instead of 5 %, so that it learns to leave alone what is sharp.

What came out on photographs held out: of the first run on six (input 24.58 dB, SSIM 0.662) +0.72 dB
after 1375 steps, +0.85 after 2750, +0.97 after 4125, +1.06 and SSIM 0.693 after 5500, in 1 hour 52
minutes on one core of an EPYC of the first generation. Of the second on twelve (input 24.14 dB,
SSIM 0.686) +1.18 after 2250 steps, +1.36 after 4500, +1.54 after 6750, +1.62 and SSIM 0.749 after
9000, in 1 hour 23 minutes on two cores of a Xeon of 2023. Of the third on twelve, more of them
nearly in focus (input 26.21 dB, SSIM 0.763), +0.89 after 2000 steps, +0.97 after 4000, +1.09 after
6000, +1.15 and SSIM 0.796 after 8000, in 1 hour 11 minutes there; on the second's twelve +1.67. The
machines were busy with other work besides. These validations used a stride of 48 between
windows; the model's is 45 now, and MODEL_CARD.md has what it gives.
"""

import ml_collections

from configs import tiny


def get_config(before: str = "") -> ml_collections.ConfigDict:
    """Returns the settings of the first run, or of one that goes on from another.

    Args:
      before: the work folder of the run to go on from, or another checkpoint; empty: none.
    """
    config = tiny.get_config()
    config.steps = 5500
    config.data.hold_out = 12
    config.data.synthesis.update(focused_share=0.05, large_share=0.15)
    config.log_every = 50
    config.validation.update(every=1375, photographs=6)
    if before:
        config.initial.update(checkpoint=before, identity=False, transparent=False)
        config.seed = 1
        config.steps = 9000
        config.optimizer.learning_rate = 6e-3
        config.validation.update(every=2250, photographs=12)
    return config
