"""The optimizer, its learning rate schedule, and which parameters it trains.

`config` is the `optimizer` part of a training configuration:

| key | meaning |
|---|---|
| name | "adamw", or "muon" for the matrices and AdamW for the rest |
| learning_rate | the highest one |
| schedule | "cosine", "multistep" or "constant" |
| warmup_steps | steps over which the learning rate rises linearly; 0: none |
| final_learning_rate | where "cosine" ends |
| milestones, gamma | "multistep" multiplies by gamma at each of these steps |
| weight_decay | decoupled, times the learning rate |
| decay_norms_and_biases | False: only leaves called "kernel" decay |
| b1, b2, epsilon | Adam's |
| clip_norm | largest global norm of the gradient; 0: not clipped |
| learning_rate_factors | by part of the model; a part with 0 is frozen |

The part "prediction" is the decoder's last layer; its factor multiplies the decoder's.
"""

import math
from collections.abc import Collection, Iterable

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import traverse_util

from vitdeblur_jax.utils.config_checks import check_values, choice, flag, integer, number, sequence
from vitdeblur_jax.utils.errors import UserError, nearest

Frozen = str | Iterable[str | tuple[str, ...]]

# Those that are part of another one; the other parts' paths are their names.
_PATHS = {"prediction": ("decoder", "prediction")}

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "multistep", "constant")

PARTS = (
    *("tokenizer", "primary_encoder", "contextual_encoder", "decoder", "prediction"),
    "image_head",
)

# Upper bounds are those of float32, where larger values would turn into infinity, or a rate of
# averaging into 1.
RULES = {
    "name": choice(*OPTIMIZERS),
    "learning_rate": number(0, 1e6, above_low=True),
    "schedule": choice(*SCHEDULES),
    "warmup_steps": integer(0),
    "final_learning_rate": number(0, 1e6),
    "milestones": sequence(integer(1)),
    "gamma": number(0, 1e6, above_low=True),
    "b1": number(0, 0.999999),
    "b2": number(0, 0.999999),
    "epsilon": number(1e-30, 1e6),
    "weight_decay": number(0, 1e6),
    "decay_norms_and_biases": flag(),
    "clip_norm": number(0, 1e9),
    **{f"learning_rate_factors.{part}": number(0, 1e6) for part in PARTS},
}

# The root mean square of AdamW's updates in practice (Liu et al. 2025).
_MUON_UPDATE_SIZE = 0.2


def make_schedule(config: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """Returns the function from a step, counted from 0, to its learning rate (float32 scalar).

    Warm-up multiplies the schedule by min(1, (step + 1) / warmup_steps): the first step is not
    wasted, and milestones stay absolute steps. With "multistep" this is PyTorch's
    `ChainedScheduler([LinearLR(optimizer, 1 / warmup_steps, 1, warmup_steps - 1),
    MultiStepLR(optimizer, milestones, gamma)])`, stepped after each update.

    Args:
      config: the `optimizer` part, checked.
      steps: of the whole run; "cosine" would reach final_learning_rate at the one after the last.
    """
    main = _schedule_without_warmup(config, steps)
    warmup_steps = max(config.warmup_steps, 1)

    def schedule(step):
        return main(step) * jnp.minimum(1, (step + 1) / warmup_steps)

    return schedule


def _schedule_without_warmup(config, steps):
    rate = config.learning_rate
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(rate, steps, config.final_learning_rate / rate)
    if config.schedule == "multistep":
        return optax.piecewise_constant_schedule(
            rate, dict.fromkeys(config.milestones, config.gamma)
        )
    return optax.constant_schedule(rate)


def make_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the optimizer of a nested dict of parameters, parts of the model at its top.

    One after another: clipping by the global norm of all gradients, Adam or Muon, decoupled weight
    decay, the part's learning rate factor, the schedule's learning rate. A factor is what a
    parameter group with its own learning rate is in PyTorch, so it applies to the weight decay too.

    "adamw" is PyTorch's: p -= lr * wd * p, p -= lr * m_hat / (sqrt(v_hat) + epsilon). Its bias
    corrections are computed in float32 here: with b2 = 0.999 the first updates differ from
    PyTorch's by about 1e-5 of their size.

    "muon" orthogonalises the update of each "kernel" that is a matrix (Jordan et al. 2024; momentum
    0.95 and five Newton-Schulz steps as published) and leaves convolutions, biases, norms, tokens
    and what has a side of 1 to Adam. An orthogonal matrix has a root mean square of
    1 / sqrt(longer side). Here it is brought to 0.2, about what AdamW's updates have, whatever the
    shape, so that AdamW's learning rates and weight decay serve both (Liu et al. 2025). Scaling by
    width instead, Muon's first rule, would need a learning rate of its own.

    Its state holds arrays in named tuples and dicts. The schedule's step is counted there, so it is
    the number of updates made.

    Sources:
      Loshchilov, Hutter: "Decoupled Weight Decay Regularization", ICLR 2019; torch.optim.AdamW.
      Jordan et al.: "Muon: An optimizer for hidden layers in neural networks", 2024.
      Liu et al.: "Muon is Scalable for LLM Training", arXiv:2502.16982, 2025.

    Args:
      config: the `optimizer` part, checked.
      schedule: from a step to its learning rate.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adam = optax.scale_by_adam(config.b1, config.b2, config.epsilon)
    decay_mask = None if config.decay_norms_and_biases else _kernels
    return optax.chain(
        clip,
        _muon_for_matrices(adam) if config.name == "muon" else adam,
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        _scale_parts(config.learning_rate_factors.to_dict()),
        optax.scale_by_learning_rate(schedule),
    )


def _muon_for_matrices(adam):
    def as_large_as_adam(update, _):
        return _MUON_UPDATE_SIZE * math.sqrt(max(update.shape)) * update

    muon = optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=_as_matrices),
        optax.stateless_with_tree_map(as_large_as_adam),
    )
    return optax.partition({"muon": muon, "adam": adam}, _muon_or_adam)


def _as_matrices(params):
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), params)


def _muon_or_adam(params):
    def label(is_kernel, leaf):
        return "muon" if is_kernel and leaf.ndim == 2 and min(leaf.shape) > 1 else "adam"

    return jax.tree.map(label, _kernels(params), params)


def _kernels(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _scale_parts(factors):
    def scale(updates, _):
        leaves = traverse_util.flatten_dict(updates)
        scaled = {
            path: math.prod(factor for part, factor in factors.items() if _lies_in(path, part))
            * leaf
            for path, leaf in leaves.items()
        }
        return traverse_util.unflatten_dict(scaled)

    return optax.stateless(scale)


def _lies_in(path, part):
    prefix = _PATHS.get(part, (part,))
    return path[: len(prefix)] == prefix


def frozen_parts(config: ml_collections.ConfigDict) -> tuple[tuple[str, ...], ...]:
    """Returns the paths of the parts whose learning rate factor is 0, for `trained_part`."""
    factors = config.learning_rate_factors.items()
    return tuple(_PATHS.get(part, (part,)) for part, factor in factors if factor == 0)


def trained_part(params: dict, frozen: Frozen) -> dict:
    """Returns the nested dict without the parameters under the paths in `frozen`.

    Args:
      params: All parameters of the model.
      frozen: See `frozen_paths`.

    Raises:
      UserError: A path matches no parameter.
    """
    leaves = traverse_util.flatten_dict(params)
    prefixes = frozen_paths(leaves, frozen)
    trained = {
        path: leaf
        for path, leaf in leaves.items()
        if not any(path[: len(prefix)] == prefix for prefix in prefixes)
    }
    return traverse_util.unflatten_dict(trained)


def frozen_paths(
    leaves: Collection[tuple[str, ...]], frozen: Frozen
) -> tuple[tuple[str, ...], ...]:
    """Returns the paths in `frozen` as tuples of names.

    Args:
      leaves: The paths of all parameters.
      frozen: The path of a parameter or of a module with all that is in it, or several paths.
        "decoder/prediction" and ("decoder", "prediction") are the same path; a tuple stands for a
        path only inside of another collection.

    Raises:
      UserError: A path matches no parameter; names the nearest one.
    """
    wanted = [frozen] if isinstance(frozen, str) else frozen
    paths = [
        tuple(path.strip("/").split("/")) if isinstance(path, str) else tuple(path)
        for path in wanted
    ]
    known = {leaf[:length]: None for leaf in leaves for length in range(1, len(leaf) + 1)}
    for path in paths:
        if path not in known:
            name = "/".join(map(str, path))
            raise UserError(
                f"frozen: the model has no parameters {name!r}{_nearest_path(name, known)}"
            )
    return tuple(paths)


def _nearest_path(name, known):
    names = ["/".join(path) for path in known]
    inner = [other for other in names if other.endswith(f"/{name}")]
    near = f" (did you mean {inner[0]!r}?)" if inner else nearest(name, names)
    return near or f"; its parts are {', '.join(path[0] for path in known if len(path) == 1)}"


def merge(trained: dict, params: dict) -> dict:
    """Returns `params` with the leaves of `trained` in their places."""
    leaves = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(trained)
    return traverse_util.unflatten_dict(leaves)


def check_optimizer(config: ml_collections.ConfigDict, steps: int) -> None:
    """Raises `UserError` unless the `optimizer` part suits a run of `steps` steps."""
    check_values(config, RULES, "optimizer.")
    if config.warmup_steps > steps:
        raise UserError(
            f"optimizer.warmup_steps is {config.warmup_steps}; it must be at most {steps}, the "
            "steps of the run"
        )
    if config.schedule == "multistep":
        _check_milestones(tuple(config.milestones), steps)
    if not any(f for part, f in config.learning_rate_factors.items() if part not in _PATHS):
        raise UserError(
            "optimizer.learning_rate_factors are all 0: nothing would be trained; "
            "raise one of them above 0"
        )


def _check_milestones(milestones, steps):
    if list(milestones) != sorted(set(milestones)):
        raise UserError(f"optimizer.milestones must increase: they are {milestones}")
    outside = [milestone for milestone in milestones if not 0 < milestone < steps]
    if outside:
        raise UserError(
            f"optimizer.milestones must lie between 0 and {steps}, the steps of the run: "
            f"{outside[0]} does not"
        )
