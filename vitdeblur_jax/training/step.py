"""The training step: a pure function of state and batch; jitted, it donates the state."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from vitdeblur_jax.data.transforms import unit_range
from vitdeblur_jax.distributed.sharding import gathered, local_mesh, replicated, state_sharding
from vitdeblur_jax.training.objective import Objective
from vitdeblur_jax.training.objective_checks import check_result
from vitdeblur_jax.training.optimizer import Frozen, frozen_paths, merge, trained_part
from vitdeblur_jax.training.state import TrainState, create_state
from vitdeblur_jax.utils.errors import UserError

# XLA's default CPU scheduler starts each operation as early as possible, so all recomputed
# activations of the backward pass would be in memory at the same time.
SAVE_MEMORY_ON_CPU = {"xla_cpu_enable_concurrency_optimized_scheduler": False}

Metrics = dict[str, Float[Array, ""] | Bool[Array, ""] | Bool[Array, " batch"]]


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    objective: Callable[[dict, Array, Array, Array], Objective],
    optimizer: optax.GradientTransformation,
    frozen: Frozen = (),
    ema_decay: float = 0.0,
    grad_accum_steps: int = 1,
    seed: int = 0,
    lr_scale: Float[Array, ""] | None = None,
) -> tuple[TrainState, Metrics]:
    """Returns the state after a step, and its metrics.

    If the loss or the gradient norm is not finite, parameters, statistics, average and optimizer
    state stay unchanged, and the step counts as skipped.

    Args:
      state: State before the step.
      batch: `blurred` (B x H x W x 3 or 6) and `sharp` (B x H x W x 3), uint8 or uint16.
      objective: Function of variables, blurred and sharp images in [0, 1], and a key for dropout.
      optimizer: Optimizer of the trained parameters.
      frozen: The parameters that are not trained; see `frozen_paths` in `optimizer.py`.
      ema_decay: Decay of the moving average. Early steps use (1 + step) / (10 + step), if smaller.
      grad_accum_steps: Number of parts of a batch. Loss and gradient are means over the parts: the
        same as of the whole batch, except that batch norm and VICReg see each part separately.
      seed: Seed of the keys for dropout; each step has its own key.
      lr_scale: Factor of the learning rate; None: 1.

    Returns:
      The new state, and the metrics: `loss`, its terms, `gradient_norm` (of the trained
      parameters), `finite`, and `images_finite` (B): whether the loss of each image is finite.
    """
    trained = trained_part(state.params, frozen)
    images = unit_range(batch["blurred"]), unit_range(batch["sharp"])
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    result, gradients = _accumulated(objective, state, trained, images, rng, grad_accum_steps)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(result.loss) & jnp.isfinite(norm)
    updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
    if lr_scale is not None:
        updates = jax.tree.map(lambda update: lr_scale * update, updates)
    params = merge(optax.apply_updates(trained, updates), state.params)
    new = TrainState(
        step=state.step + 1,
        skipped=state.skipped,
        params=params,
        model_state=result.model_state,
        opt_state=opt_state,
        ema_params=_ema(state, params, ema_decay),
    )
    left = state.replace(step=state.step + 1, skipped=state.skipped + 1)
    new = jax.tree.map(partial(jnp.where, finite), new, left)
    metrics = {"loss": result.loss, **result.terms, "gradient_norm": norm}
    return new, {**metrics, "finite": finite, "images_finite": jnp.isfinite(result.per_image)}


def compile_train_step(
    mesh: Mesh,
    *,
    objective: Callable[..., Objective],
    constants: Mapping[str, Any] | None = None,
    weights_at: Callable[[Array], dict[str, Array]] | None = None,
    **settings,
) -> Callable:
    """Returns `train_step`, jitted; `objective` and `settings` are its keyword arguments.

    The returned function takes state and batch, and `lr_scale` as an optional keyword.
    The state has the sharding of `state_sharding` and is donated. The batch is sharded over all
    devices. `constants` are more keyword arguments of the objective, pytrees of replicated arrays;
    they are arguments of the compiled program, not literals in it. With `weights_at`, the objective
    gets the weights at the state's step as its keyword argument `changed`.
    """

    def objective_of_whole(variables, *arguments, **constants):
        whole = {**variables, "params": gathered(mesh, variables["params"])}
        return objective(whole, *arguments, **constants)

    def sharded_train_step(state, batch, lr_scale=None, **constants):
        changed = {} if weights_at is None else {"changed": weights_at(state.step)}
        of_whole = partial(objective_of_whole, **constants, **changed)
        new, metrics = train_step(state, batch, objective=of_whole, lr_scale=lr_scale, **settings)
        shardings = state_sharding(mesh, new), replicated(mesh)
        return jax.lax.with_sharding_constraint((new, metrics), shardings)

    step = jax.jit(
        sharded_train_step,
        donate_argnums=0,
        compiler_options=SAVE_MEMORY_ON_CPU if mesh.devices.flat[0].platform == "cpu" else None,
    )
    return partial(step, **constants) if constants else step


def fit(
    variables: dict,
    batches: Iterable[dict[str, Array | np.ndarray]],
    *,
    objective: Callable[[dict, Array, Array, Array], Objective],
    optimizer: optax.GradientTransformation,
    frozen: Frozen = (),
) -> dict:
    """Returns the variables after one step per batch: a short training run on local devices.

    Args:
      variables: Initial variables; not modified.
      batches: See `train_step`.
      objective: Function of variables, blurred and sharp images in [0, 1], and a key for dropout.
      optimizer: Optimizer of the trained parameters.
      frozen: The parameters that are not trained: "head", ["head/conv", "stem"],
        [("head", "conv")]; see `frozen_paths` in `optimizer.py`.

    Raises:
      UserError: `frozen` matches no parameters, or all of them; or the loss or gradient of a step
        was not finite.
    """
    variables = jax.tree.map(jnp.array, variables)  # the step donates its state
    frozen = frozen_paths(traverse_util.flatten_dict(variables["params"]), frozen)
    trained = trained_part(variables["params"], frozen)
    if not trained:
        raise UserError("frozen: all parameters are frozen, so nothing would be trained")
    mesh = local_mesh()
    state = create_state(variables, trained, optimizer, with_ema=False)
    # The sharding that a step returns; with another one the second step would be recompiled.
    state = jax.device_put(state, state_sharding(mesh, state))
    step = compile_train_step(mesh, objective=objective, optimizer=optimizer, frozen=frozen)
    for batch in batches:
        state, _ = step(state, batch)
    if state.skipped:
        raise UserError(
            f"{state.skipped} of {state.step} steps were not finite; a lower learning rate may help"
        )
    return state.variables


def _accumulated(objective, state, trained, images, rng, parts) -> tuple[Objective, dict]:
    """Returns the objective and its gradient with respect to the trained parameters."""

    def of_part(trained, model_state, rng, blurred, sharp):
        variables = {"params": merge(trained, state.params), **model_state}
        result = check_result(objective(variables, blurred, sharp, rng), model_state, len(blurred))
        return result.loss, result

    gradient = jax.grad(of_part, has_aux=True)
    if parts == 1:
        gradients, result = gradient(trained, state.model_state, rng, *images)
        return result, gradients

    def take(carry, part):
        model_state, total = carry
        number, *images = part
        key = jax.random.fold_in(rng, number)
        gradients, result = gradient(trained, model_state, key, *images)
        return (result.model_state, jax.tree.map(jnp.add, total, gradients)), result

    # Each part takes every `parts`-th image, so it is sharded like the whole batch.
    interleaved = [x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for x in images]
    carry = state.model_state, jax.tree.map(jnp.zeros_like, trained)
    (model_state, total), results = jax.lax.scan(take, carry, [jnp.arange(parts), *interleaved])
    result = Objective(
        loss=results.loss.mean(),
        terms={name: values.mean() for name, values in results.terms.items()},
        per_image=results.per_image.swapaxes(0, 1).reshape(-1),
        model_state=model_state,
    )
    return result, jax.tree.map(lambda x: x / parts, total)


def _ema(state, params, ema_decay):
    if state.ema_params is None:
        return None
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(
        # In this form, parameters that do not change keep their average bit for bit.
        lambda average, new: average + (1 - decay) * (new - average),
        state.ema_params,
        params,
    )
