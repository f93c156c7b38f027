"""Training: state, optimizer, step and loop."""

from vitdeblur_jax.training.loop import train as train
