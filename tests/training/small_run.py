"""Runs of seconds: the small model, a few made-up images, in this process or by train.py.

It is a config file too: `train.py --config=tests/training/small_run.py:small` trains as
`small_config` says, `:quick` as `quick_config` with `stand_in_objective`. With `:quick,SIGTERM,7`
the process sends that signal to itself and its workers when step 7 is done. `:quick,SIGKILL,13`
waits for the checkpoint of step 10 first; so does `:quick,full,13`, which forbids to write files of
more than 64 KB from then on. With `:quick,pause,0.5` each step takes so many seconds more.
"""

import functools
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from tests.forked import Ended, run_program
from tests.made_up_data import write
from tests.small_model import small_configuration
from vitdeblur_jax.checkpoints.orbax_folders import step_folders
from vitdeblur_jax.training import preparation
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.training.log import TrainingLog
from vitdeblur_jax.training.objective import Objective

ROOT = Path(__file__).parents[2]
SIZE = (52, 60)  # height, width


def images(root: Path, count: int = 6, first: int = 0) -> Path:
    """Writes pairs of random images; returns `root`."""
    for number in range(first, first + count):
        write(root / f"blurred/photo{number}.png", 2 * number, SIZE)
        write(root / f"sharp/photo{number}.png", 2 * number + 1, SIZE)
    return root


def small_config(root: Path | str = "", **changes) -> ml_collections.ConfigDict:
    """Returns the published losses and 20 steps of a small model.

    Args:
      root: of `images`.
      changes: by key, `validation__every` for `validation.every`.
    """
    config = default_config("base")
    config.update(num_steps=20, batch_size=4, crop=46, ema_decay=0.9, log_every=4, save_every=10)
    config.update(small_configuration())
    config.data.update(root=str(root), vertical_flip=True, quarter_turns=True)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=4, clip_norm=1.0)
    config.validation.update(every=0, num_images=0)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def quick_config(root: Path | str = "", **changes) -> ml_collections.ConfigDict:
    """Returns a run with nothing but the image head to train, for `stand_in_objective`."""
    config = small_config(root, ema_decay=0.0)
    config.optimizer.lr_mults = (("(?!image_head/).*", 0.0),)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    config.initial.identity_init = not config.initial.checkpoint  # random values must not be frozen
    return config


def stand_in_objective(model, weights, variables, blurred, sharp, rng, border) -> Objective:
    """Learns a colour to add, without the model; of a white target the loss is not finite."""
    tint = variables["params"]["image_head"]["output_convolution"]["bias"]
    each = ((blurred + tint - sharp) ** 2).mean(axis=(1, 2, 3))
    each = jnp.where(sharp.min(axis=(1, 2, 3)) == 1, jnp.nan, each)
    state = {name: value for name, value in variables.items() if name != "params"}
    return Objective(each.mean(), {"charbonnier": each.mean()}, each, state)


def after_step(step: int, act: Callable[[Path], None]) -> Callable:
    """Returns a `TrainingLog.advance` that calls `act` on the workdir when a step is done."""
    advance = TrainingLog.advance

    def advance_and_act(log, done, **figures):
        advance(log, done, **figures)
        if done == step:
            act(log.folder)

    return advance_and_act


def with_pauses(seconds: float) -> Callable:
    """Returns a `TrainingLog.advance` that takes so much longer."""
    advance = TrainingLog.advance

    def advance_and_pause(log, done, **figures):
        advance(log, done, **figures)
        time.sleep(seconds)

    return advance_and_pause


def get_config(argument: str = "small") -> ml_collections.ConfigDict:
    kind, *event = argument.split(",")
    if event and event[0] == "pause":
        TrainingLog.advance = with_pauses(float(event[1]))
    elif event:
        TrainingLog.advance = after_step(int(event[1]), functools.partial(_happen, event[0]))
    if kind == "quick":
        preparation.weighted_objective = stand_in_objective
    return {"small": small_config, "quick": quick_config}[kind]()


def _happen(what, workdir):
    while what in ("SIGKILL", "full") and 10 not in step_folders(workdir / "checkpoints"):
        time.sleep(0.01)
    if what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    else:
        os.killpg(0, signal.Signals[what])


def train_py(workdir: Path | str, argument: str, *flags: str, **environment: str) -> Ended:
    """Runs train.py.

    Args:
      workdir: for its results.
      argument: of this config file.
      flags: `key=value` of the config.
      environment: more variables.
    """
    config = [f"--config={__file__}:{argument}", *(f"--config.{flag}" for flag in flags)]
    return run_program(["train.py", *config, f"--workdir={workdir}"], ROOT, **environment)


def prepare_once(
    config: ml_collections.ConfigDict,
    network: nn.Module,
    mesh: jax.sharding.Mesh,
    objective: Callable | None = None,
) -> preparation.Run:
    """Returns what `prepare` does, for equal settings the very same."""
    settings = ("loss", "optimizer", "ema_decay", "grad_accum_steps", "seed")
    depends_on_length = not config.time_limit_s and config.optimizer.schedule != "constant"
    num_steps = config.num_steps if depends_on_length else None
    values = json.dumps([num_steps, *(config.to_dict()[key] for key in settings)])
    key = preparation.weighted_objective, objective, network, values
    if key not in _PREPARED:
        _PREPARED[key] = preparation.prepare(config, network, mesh, objective)
    return _PREPARED[key]


_PREPARED: dict[tuple, preparation.Run] = {}
