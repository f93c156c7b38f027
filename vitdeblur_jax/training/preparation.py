"""The setup of a run: network, optimizer, compiled step and initial state."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh

from vitdeblur_jax.distributed.sharding import (
    FSDP,
    global_array,
    replicated,
    spec_of,
    state_sharding,
)
from vitdeblur_jax.models.network import abstract_variables, own_loss_terms, params_without_gradient
from vitdeblur_jax.models.networks import config_of
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.initialization import given_variables, starting_variables
from vitdeblur_jax.training.loss_schedule import changing_weights, largest_weights
from vitdeblur_jax.training.losses import LPIPS, read_lpips_loss
from vitdeblur_jax.training.lr_mults import frozen_by_lr_mults
from vitdeblur_jax.training.objective import Objective, weighted_objective
from vitdeblur_jax.training.objective_checks import check_is_function, check_objective
from vitdeblur_jax.training.optimizer import (
    make_optimizer,
    make_schedule,
    trained_part,
)
from vitdeblur_jax.training.stages import stages
from vitdeblur_jax.training.state import TrainState, create_state
from vitdeblur_jax.training.step import compile_train_step
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.table import format_table


class Run(NamedTuple):
    """The parts of a run that do not change.

    Attributes:
      network: The network.
      train_step: Jitted function of state and batch; donates the state.
      schedule: Maps a step to its learning rate; with a time limit, before its decay.
      create: Maps the network's variables to the initial state.
      frozen: Paths of the parameters that are not trained.
      mesh: Mesh of the devices.
    """

    network: nn.Module
    train_step: Callable
    schedule: optax.Schedule
    create: Callable[[dict], TrainState]
    frozen: tuple[tuple[str, ...], ...]
    mesh: Mesh


def prepare(
    config: ml_collections.ConfigDict,
    network: nn.Module,
    mesh: Mesh,
    objective: Callable[..., Objective] | None = None,
) -> Run:
    """Returns the parts of a run; compiles nothing, and allocates only the weights of LPIPS.

    Args:
      config: Config of the run.
      network: The network to train.
      mesh: Mesh of the devices.
      objective: See `train`.

    Raises:
      UserError: A batch cannot be sharded over the devices of the mesh, a parameter is frozen at
        random values, the weights of LPIPS cannot be read, or the objective is invalid.
    """
    _check_batches(config, mesh)
    weights = largest_weights(config)
    own = frozenset(name for name in own_loss_terms(network) if weights.get(name))
    params = abstract_variables(network)["params"]
    frozen = frozen_by_lr_mults(params, config.optimizer.lr_mults)
    _check_frozen(config)
    frozen = (*frozen, *params_without_gradient(network, own))
    num_steps = None if config.time_limit_s else config.num_steps
    schedule = make_schedule(config.optimizer, num_steps)
    optimizer = make_optimizer(config.optimizer, schedule)

    def create(variables):
        trained = trained_part(variables["params"], frozen)
        return create_state(variables, trained, optimizer, with_ema=config.ema_decay > 0)

    weights_at = None if objective is not None else changing_weights(config)
    objective, constants = _objective(config, network, mesh, weights, objective)
    train_step = compile_train_step(
        mesh,
        objective=objective,
        constants=constants,
        weights_at=weights_at,
        optimizer=optimizer,
        frozen=frozen,
        ema_decay=config.ema_decay,
        grad_accum_steps=config.grad_accum_steps,
        seed=config.seed,
    )
    return Run(network, train_step, schedule, create, frozen, mesh)


def _check_frozen(config):
    frozen = [pattern for pattern, multiplier in config.optimizer.lr_mults if multiplier == 0]
    if frozen and not any(config.initial.values()):
        raise UserError(
            f"optimizer.lr_mults freezes {frozen[0]!r} at random values; name pretrained weights "
            "with --config.initial.checkpoint or another of initial.*, or raise the multiplier "
            "above 0"
        )


def _objective(config, network, mesh, weights, objective):
    """Returns the objective, checked if it runs code of the user's, and its constants."""
    constants = {}
    is_own = objective is not None or config_of(network) is None
    if objective is not None:
        check_is_function(objective)
        if config.loss_schedule:
            raise UserError(
                "loss_schedule changes the weights in loss, but an objective of your own replaces "
                "these losses; set loss_schedule to ()"
            )
        objective = partial(objective, network)
    else:
        objective = partial(weighted_objective, network, weights, border=config.loss.border)
        if weights[LPIPS]:
            place = partial(global_array, sharding=replicated(mesh))
            constants = {LPIPS: jax.tree.map(place, read_lpips_loss(config.loss))}
    if is_own:
        batch_size = config.batch_size // config.grad_accum_steps
        check_objective(objective, network, batch_size, config.crop, constants)
    return objective, constants


def _check_batches(config, mesh):
    for stage in stages(config):
        if stage.batch_size // config.grad_accum_steps % mesh.size:
            raise UserError(
                f"a batch of {stage.batch_size} in {config.grad_accum_steps} part(s) cannot be "
                f"sharded over {mesh.size} devices; make batch_size a multiple of "
                f"{config.grad_accum_steps * mesh.size}"
            )


def first_state(
    config: ml_collections.ConfigDict,
    run: Run,
    checkpoints: TrainingCheckpoints,
    given: dict | None = None,
) -> tuple[TrainState, dict]:
    """Returns the first state of a run, and the `resume_state` saved with it, empty in a new run.

    The state is that of the newest checkpoint, or the initial state that the config describes.

    Args:
      config: Config of the run.
      run: The parts of the run.
      checkpoints: Checkpoints of the run.
      given: The result of `given_variables`, if already computed.

    Raises:
      UserError: A checkpoint is damaged or does not fit.
    """
    latest = checkpoints.latest_step()
    if latest is None:
        if given is None:
            given = given_variables(config, run.network)
        return _new_state(config, run, given), {}
    return checkpoints.restore(latest, placed(abstract_state(run), run.mesh))


def _new_state(config, run: Run, given: dict) -> TrainState:
    given = {path: np.asarray(leaf) for path, leaf in given.items()}
    given = jax.tree.map(global_array, given, state_sharding(run.mesh, given))
    initial = ml_collections.FrozenConfigDict({key: config[key] for key in ("seed", "initial")})
    return _created(run.create, run.network, run.mesh, initial, given)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _created(create, network, mesh, initial, given) -> TrainState:
    """Creates the state with its final sharding, so no device holds all of it."""
    state = create(starting_variables(initial, network, given))
    return jax.lax.with_sharding_constraint(state, state_sharding(mesh, state))


def abstract_state(run: Run) -> TrainState:
    """Returns the shapes and dtypes of the state; allocates nothing."""
    return jax.eval_shape(run.create, abstract_variables(run.network))


def describe(run: Run) -> str:
    """Returns the table of parameters; the last line has their total.

    The table includes the axis of each parameter that is sharded over the mesh axis "fsdp".
    """
    # clu.parameter_overview needs no TensorFlow, but would be a new dependency for one table, and
    # has no columns for bytes per device and for trained parameters.
    state = abstract_state(run)
    params = traverse_util.flatten_dict(state.params, sep="/")
    trained = traverse_util.flatten_dict(trained_part(state.params, run.frozen), sep="/")
    rows = [
        (
            *(name, " x ".join(map(str, leaf.shape)), f"{leaf.size:,}"),
            *(_axis_on_fsdp(leaf, run.mesh), f"{bytes_a_device(leaf, run.mesh):,}"),
            "yes" if name in trained else "",
        )
        for name, leaf in params.items()
    ]
    total = sum(leaf.size for leaf in params.values())
    learned = sum(leaf.size for leaf in trained.values())
    size = bytes_a_device(state, run.mesh)
    line = (
        f"{total / 1e6:.2f} M parameters, {learned / 1e6:.2f} M of them trained; the state takes "
        f"{size / 1e6:.0f} MB on each device"
    )
    header = ("parameter", "shape", "values", "axis on fsdp", "bytes a device", "trained")
    return f"{format_table(header, rows)}\n{line}\n"


def bytes_a_device(tree: Any, mesh: Mesh) -> int:
    """Returns the bytes on each device of a tree of arrays, or of their shapes."""
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(state_sharding(mesh, tree)), strict=True)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in leaves
    )


def _axis_on_fsdp(leaf, mesh):
    spec = spec_of(leaf.shape, mesh.shape[FSDP])
    return str(len(spec) - 1) if spec else "-"


def placed(abstract: Any, mesh: Mesh) -> Any:
    """Returns shapes and dtypes with `state_sharding`; allocates nothing."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_sharding(mesh, abstract),
    )
