"""Trains a model; see configs/ and docs/train.md."""

from vitdeblur_jax.entry_points import run_with_config
from vitdeblur_jax.training import train

if __name__ == "__main__":
    run_with_config(train)
