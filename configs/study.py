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
_LARGE_RADII = {"usual_radius": (0.5, 6.0), "large_share": 0.5}  # half of them above 6 pixels
CHANGES = {
    # Four windows of each crop, at two offsets of the token grid.
    "overlap": {"tiling.train_stride": 4, "crop": 110, "batch_size": 2},
    "larger_crops_late": {"progressive": ((800, 154, 4),)},  # the same number of tokens
    "larger_batch_late": {"progressive": ((800, 106, 32),)},  # for the last third of the time
    "wsd": {"optimizer.schedule": "wsd", "optimizer.decay_share": 0.15},
    "ema_short": {"ema_decay": 0.98},
    "large_radii": {
        "data.sets": {"usual": {}, "large_radii": {"synthesis": _LARGE_RADII}},
        "data.mixture": (("large_radii", 1.0),),
        "validation.sets": ("usual",),
    },
}
# In float32, unlike ViTDeblur: convolutions in bfloat16 are slower on a CPU.
NETWORKS = {
    "unet": ("benchmarks.study_networks:UNET", {}),
    "gkmnet": ("benchmarks.study_networks:GKMNET", {"batch_size": 2}),
}


def get_config(variant: str = "present") -> ml_collections.ConfigDict:
    """Returns the settings of a variant, a key of `STEPS`."""
    config = demo.get_config()
    steps = config.num_steps = STEPS[known("variant of the study", variant, STEPS)]
    config.numerics.dtype = "bfloat16"
    if variant in NETWORKS:
        config = _convolutional(config, *NETWORKS[variant])
    config.update_from_flattened_dict(CHANGES.get(variant, {}))
    config.log_every = 100
    config.save_every = steps
    config.validation.update(every=-(-steps // 3), num_images=12, num_logged_images=0)
    return config


def _convolutional(
    config: ml_collections.ConfigDict, network: str, changes: dict
) -> ml_collections.ConfigDict:
    """Returns the settings for another network, with AdamW."""
    other = default_config(network)
    same = ("num_steps", "batch_size", "data", "ema_decay", "validation")
    other.update({key: config[key] for key in same} | {"crop": 112} | changes)
    other.loss.border = config.loss.border
    other.optimizer.update(learning_rate=1e-3, warmup_steps=50, clip_norm=1.0)
    return other
