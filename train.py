"""Trains a model; see configs/ and docs/train.md."""

from vitdeblur_jax.cli.with_config import run_with_config


def train(config, workdir):
    from vitdeblur_jax.training import train  # imports JAX, so after the signal handlers are set

    return train(config, workdir)


if __name__ == "__main__":
    run_with_config(train, smaller="--config.batch_size, or raise --config.grad_accum_steps")
