"""Training: state, optimizer, step and loop."""

from vitdeblur_jax.training.defaults import default_config as default_config
from vitdeblur_jax.training.loop import train as train
