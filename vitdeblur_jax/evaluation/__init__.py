"""Measuring a model over a data set."""

from vitdeblur_jax.evaluation.run import evaluate as evaluate
