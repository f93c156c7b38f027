r"""Learn to sharpen on two CPU cores, from sharp photographs alone.

    python train.py --config=configs/tiny.py --config.data.root=PHOTOGRAPHS --workdir=RUN

PHOTOGRAPHS is any folder of sharp photographs; each step puts fresh crops of them out of focus by
the thin-lens model. Some of the photographs are held out: put out of focus as a whole and measured.

For two CPU cores and half an hour. What came out so far, with `--config.steps=900`, BSDS500's
training photographs and ten of them held out (input 25.39 dB): +0.17 dB after 450 steps, +0.27 dB
after 900, SSIM from 0.679 to 0.686; still rising, 1.01 steps a second on two cores of an EPYC of
the first generation. Blurred photographs gain 0.2 to 0.3 dB at any radius; what was sharp already
loses. Higher learning rates learned less: at 1.2e-3 and above, the steps' noise outweighs what they
learn (+0.11 dB after 500 steps at 1.5e-3, though with another start of the output kernel).

The model has 2.3 M parameters and starts as the identity, so that it begins at the input's quality.
Its loss leaves out the border that the image head cannot reach, a fifth of so small a crop. The
sharp image is not encoded: the contextual terms have weight 0.
"""

import ml_collections

from vitdeblur_jax.models.configuration import tiny
from vitdeblur_jax.training.configuration import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config()
    config.model = tiny()
    config.initial.identity = True
    config.data.kind = "synthetic"
    config.data.repeats = 100_000  # crops without end
    config.data.hold_out = 10
    config.data.vertical_flip = True
    config.data.quarter_turns = True
    config.steps = 1500
    config.batch_size = 8
    config.crop = 106
    config.loss.update(contextual_cosine=0.0, sharpness=0.0, border=6)
    config.optimizer.update(
        name="muon",
        learning_rate=5e-4,
        warmup_steps=50,
        decay_norms_and_biases=False,
        clip_norm=1.0,
    )
    config.optimizer.learning_rate_factors.image_head = 0.03
    config.averaging = 0.995
    config.log_every = 20
    config.save_every = 100
    config.validation.every = 500
    config.validation.photographs = 10
    return config
