"""Restores and measures a data set; see configs/evaluate.py."""

from vitdeblur_jax.entry_points import run_with_config
from vitdeblur_jax.evaluation import evaluate

if __name__ == "__main__":
    run_with_config(evaluate)
