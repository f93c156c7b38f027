"""Evaluates a model on a data set; see configs/evaluate.py."""

from vitdeblur_jax.cli.with_config import run_with_config


def evaluate(config, workdir):
    from vitdeblur_jax.evaluation import evaluate  # imports JAX, so after the handlers are set

    return evaluate(config, workdir)


if __name__ == "__main__":
    run_with_config(evaluate, smaller="--config.batch_size or --config.tile")
