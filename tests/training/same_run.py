"""Compares what two runs have saved and logged."""

import json

import jax
import numpy as np

from tests.training.small_run import prepare_once
from vitdeblur_jax.distributed.sharding import local_mesh
from vitdeblur_jax.models.networks import create_network
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.preparation import first_state

RATES = ("steps_per_second", "images_per_second", "waiting_share")


def lines(workdir, kind):
    """Returns the records of the log without what depends on the machine's speed."""
    records = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in record.items() if name not in RATES}
        for record in records
        if record["kind"] == kind
    ]


def last_state(workdir, config):
    run = prepare_once(config, create_network(config), local_mesh())
    with TrainingCheckpoints(workdir / "checkpoints", 2) as checkpoints:
        return first_state(config, run, checkpoints)


def assert_same_run(workdir, expected, config):
    """Asserts equal bits of all that is saved of the last step, and equal logs."""
    (state, resume_state), (other, other_resume_state) = (
        last_state(folder, config) for folder in (workdir, expected)
    )
    assert int(state.step) == config.num_steps
    assert resume_state == other_resume_state
    jax.tree.map(np.testing.assert_array_equal, state, other)
    for kind in ("train", "validation"):
        assert lines(workdir, kind) == lines(expected, kind)
