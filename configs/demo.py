r"""The recipe of the bundled model: five runs on sharp images only.

    DATA="--config.data.root=IMAGES"
    SHARP="--config.data.synthesis.focused_share=0.15"
    python train.py --config=configs/demo.py $DATA --workdir=FIRST
    python train.py --config=configs/demo.py:FIRST $DATA --workdir=SECOND
    python train.py --config=configs/demo.py:SECOND $DATA $SHARP --workdir=THIRD \
      --config.seed=2 --config.num_steps=8000 --config.validation.every=2000

    LATE="--config.num_steps=1000000 --config.numerics.dtype=bfloat16 \
      --config.optimizer.schedule=wsd --config.optimizer.learning_rate=4e-3 \
      --config.optimizer.warmup_steps=50"
    python train.py --config=configs/demo.py:THIRD $DATA $SHARP $LATE --workdir=FOURTH \
      --config.seed=5 --config.time_limit_s=4500 --config.optimizer.decay_share=0.35 \
      --config.tiling.train_stride=4 --config.crop=110 --config.batch_size=4
    python train.py --config=configs/demo.py:FOURTH $DATA $SHARP $LATE --workdir=FIFTH \
      --config.seed=11 --config.time_limit_s=5500 --config.optimizer.decay_share=0.7 \
      --config.data.synthesis.falloff="(-0.5, 1.0)" --config.data.synthesis.tone="(0.75, 1.1)"
    python tools/bundle_weights.py FOURTH/checkpoints/LAST FIFTH/checkpoints/LAST

IMAGES is any folder of sharp images; more images give a better model. The bundled weights
were trained on 247 images. Together with the twelve held out, these have 128 megapixels;
MODEL_CARD.md credits them. LAST is the last step of a run.

- The first run uses the recipe of `configs/tiny.py`, a third longer and on other images, with more
  defocus beyond 8 pixels and less below half a pixel.
- The second run starts from its weights and takes 9000 steps, with seed 1 and learning rate 6e-3.
- The third run starts from the second's weights and takes 8000 steps. 15 % of the blur radii are
  below half a pixel instead of 5 %, so that the model learns to leave sharp areas unchanged.
- The fourth run trains on overlapping windows whose feature maps are averaged, as in restoration.
- The fifth run trains on single windows again, and on more kinds of lenses and cameras.
- The bundled weights are the mean of the last two, which is better than either.

Results on held-out images, as gain in PSNR:

- First run, six images (input 24.58 dB, SSIM 0.662): +0.72 dB after 1375 steps, +0.85 after 2750,
  +0.97 after 4125, +1.06 and SSIM 0.693 after 5500. 1 hour 52 minutes on one core of a
  first-generation EPYC.
- Second run, twelve images (input 24.14 dB, SSIM 0.686): +1.18 after 2250 steps, +1.36 after 4500,
  +1.54 after 6750, +1.62 and SSIM 0.749 after 9000. 1 hour 23 minutes on two cores of a Xeon of
  2023.
- Third run, twelve images, more of them nearly in focus (input 26.21 dB, SSIM 0.763): +0.89 after
  2000 steps, +0.97 after 4000, +1.09 after 6000, +1.15 and SSIM 0.796 after 8000. 1 hour 11
  minutes on the same machine. On the twelve images of the second run: +1.67.
- Fourth and fifth run, on one core of a fifth-generation EPYC: 6076 steps in 75 minutes and 9316
  steps in 92 minutes. MODEL_CARD.md has their results.

The machines had other load at the same time. The validations of the first three runs used a window
stride of 48. The model's stride is now 45; MODEL_CARD.md has the figures for it.
"""

import ml_collections

from configs import tiny


def get_config(before: str = "") -> ml_collections.ConfigDict:
    """Returns the settings of the first run, or of a run that starts from another one.

    Args:
      before: workdir of the run to start from, or another checkpoint; empty: the first run.
    """
    config = tiny.get_config()
    config.num_steps = 5500
    config.data.hold_out = 12
    config.data.synthesis.update(focused_share=0.05, large_share=0.15)
    config.log_every = 50
    config.validation.update(every=1375, num_images=6)
    if before:
        config.initial.update(checkpoint=before, identity_init=False, dct_init=False)
        config.seed = 1
        config.num_steps = 9000
        config.optimizer.learning_rate = 6e-3
        config.validation.update(every=2250, num_images=12)
    return config
