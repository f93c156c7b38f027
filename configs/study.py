r"""One run of the study of recipes: `configs/study.py:VARIANT`, see docs/study.md.

    python train.py --config=configs/study.py:overlap --config.data.root=IMAGES --workdir=RUN

All variants start untrained, as the identity, see the same images and take about the same time:
`STEPS` holds the number of steps that each takes in eight minutes on one core of a fifth-generation
EPYC. They are validated with the same synthetic defocus of the same twelve images.
"""

import ml_collections

from configs import demo
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.utils.errors import known

STEPS = {
    "present": 1200,
    "overlap": 1570,
    "larger_crops_late": 1200,
    "larger_batch_late": 910,
    "wsd": 1200,
    "ema_short": 1200,
    "large_radii": 1200,
    "unet": 670,
    "gkmnet": 650,
}


def get_config(variant: str = "present") -> ml_collections.ConfigDict:
    """Returns the settings of a variant, a key of `STEPS`."""
    config = demo.get_config()
    steps = config.num_steps = STEPS[known("variant of the study", variant, STEPS)]
    config.numerics.dtype = "bfloat16"
    if variant == "overlap":  # four windows of each crop, at two offsets of the token grid
        config.tiling.train_stride = 4
        config.crop, config.batch_size = 110, 2
    elif variant == "larger_crops_late":  # the same number of tokens
        config.progressive = ((steps * 2 // 3, 154, 4),)
    elif variant == "larger_batch_late":  # for the last third of the time
        config.progressive = ((800, 106, 32),)
    elif variant == "wsd":
        config.optimizer.update(schedule="wsd", decay_share=0.15)
    elif variant == "ema_short":
        config.ema_decay = 0.98
    elif variant == "large_radii":  # half of them above 6 pixels
        config.data.sets = {
            "usual": {},
            "large_radii": {"synthesis": {"usual_radius": (0.5, 6.0), "large_share": 0.5}},
        }
        config.data.mixture = (("large_radii", 1.0),)
        config.validation.sets = ("usual",)
    elif variant in ("unet", "gkmnet"):
        config = _convolutional(config, variant)
    config.log_every = 100
    config.save_every = steps
    config.validation.update(every=-(-steps // 3), num_images=12, num_logged_images=0)
    return config


def _convolutional(config, variant):
    """Returns the settings for another network, with AdamW."""
    network = {"unet": "UNET", "gkmnet": "GKMNET"}[variant]
    other = default_config(f"benchmarks.study_networks:{network}")
    same = ("num_steps", "batch_size", "data", "ema_decay", "validation")
    other.update({key: config[key] for key in same})
    other.crop = 112
    if variant == "gkmnet":
        other.batch_size = 2
    other.loss.border = config.loss.border
    other.optimizer.update(learning_rate=1e-3, warmup_steps=50, clip_norm=1.0)
    return other
