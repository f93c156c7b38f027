"""Training: state, optimizer, step and loop.

`train` is imported on first use: its input pipeline needs Grain, and a training step does not.
"""

from vitdeblur_jax.training.defaults import default_config as default_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vitdeblur_jax.training.loop import train as train


def __getattr__(name: str):
    if name != "train":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vitdeblur_jax.training.loop import train

    globals()[name] = train
    return train
