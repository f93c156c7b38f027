"""The optimizer, its learning rate schedule, and which parameters are trained.

`config` is the `optimizer` part of a training config:

| key | meaning |
|---|---|
| name | "adamw"; "radam": rectified Adam; "muon": Muon for matrices and AdamW for the rest |
| learning_rate | the peak learning rate |
| schedule | "cosine", "multistep", "constant" or "wsd": constant, then a linear decay |
| warmup_steps | number of steps of linear warm-up; 0: none |
| constant_steps | number of steps at learning_rate before "cosine" falls |
| final_learning_rate | where "cosine" and "wsd" end |
| decay_share | share of the run over which "wsd" decays |
| milestones | the steps at which "multistep" multiplies the learning rate by gamma |
| gamma | the factor |
| gammas | a factor for each milestone, instead of gamma; (): gamma |
| weight_decay | decoupled, multiplied by the learning rate |
| decay_norms_and_biases | False: only parameters named "kernel" decay |
| b1, b2, epsilon | Adam's |
| clip_norm | largest global norm of the gradient; 0: no clipping |
| lr_mults | learning rate multipliers by parameter path, see `vitdeblur_jax.training.lr_mults` |
"""

from collections.abc import Collection, Iterable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import traverse_util

from vitdeblur_jax.training.lr_mults import RULE as LR_MULTS_RULE
from vitdeblur_jax.training.lr_mults import modules_and_params, nearest_path, scale_by_lr_mults
from vitdeblur_jax.utils.config_checks import check_values, choice, flag, integer, number, sequence
from vitdeblur_jax.utils.errors import UserError

Frozen = str | Iterable[str | tuple[str, ...]]

OPTIMIZERS = ("adamw", "radam", "muon")
SCHEDULES = ("cosine", "multistep", "constant", "wsd")

# The upper bounds keep values finite, and b1 and b2 below 1, in float32.
RULES = {
    "name": choice(*OPTIMIZERS),
    "learning_rate": number(0, 1e6, above_low=True),
    "schedule": choice(*SCHEDULES),
    "warmup_steps": integer(0),
    "constant_steps": integer(0),
    "final_learning_rate": number(0, 1e6),
    "decay_share": number(0, 1, above_low=True),
    "milestones": sequence(integer(1)),
    "gamma": number(0, 1e6, above_low=True),
    "gammas": sequence(number(0, 1e6, above_low=True)),
    "b1": number(0, 0.999999),
    "b2": number(0, 0.999999),
    "epsilon": number(1e-30, 1e6),
    "weight_decay": number(0, 1e6),
    "decay_norms_and_biases": flag(),
    "clip_norm": number(0, 1e9),
    "lr_mults": LR_MULTS_RULE,
}

# The root mean square of AdamW's updates in practice (Liu et al. 2025).
_ADAMW_UPDATE_RMS = 0.2


def make_schedule(config: ml_collections.ConfigDict, steps: int | None) -> optax.Schedule:
    """Returns the function from a step, counted from 0, to its learning rate (float32 scalar).

    Warm-up multiplies the schedule by min(1, (step + 1) / warmup_steps), so the first learning rate
    is not 0 and milestones remain absolute steps. With "multistep" this is PyTorch's
    `ChainedScheduler([LinearLR(optimizer, 1 / warmup_steps, 1, warmup_steps - 1),
    MultiStepLR(optimizer, milestones, gamma)])`, stepped after each update.

    Args:
      config: The `optimizer` part, checked.
      steps: Number of steps of the run; "cosine" and "wsd" end at final_learning_rate one step
        after the last. None: the run has a time limit, and its decay is that of `decay_factor`.
    """
    main = optax.constant_schedule(config.learning_rate)
    if steps is not None:
        main = _schedule_without_warmup(config, steps)
    warmup_steps = max(config.warmup_steps, 1)

    def schedule(step):
        return main(step) * jnp.minimum(1, (step + 1) / warmup_steps)

    return schedule


def _schedule_without_warmup(config, steps):
    rate = config.learning_rate
    if config.schedule == "cosine":
        falling = steps - config.constant_steps
        cosine = optax.cosine_decay_schedule(rate, falling, config.final_learning_rate / rate)
        return lambda step: cosine(jnp.maximum(step - config.constant_steps, 0))
    if config.schedule == "multistep":
        gammas = config.gammas or (config.gamma,) * len(config.milestones)
        return optax.piecewise_constant_schedule(
            rate, dict(zip(config.milestones, gammas, strict=True))
        )
    if config.schedule == "wsd":
        decay_steps = config.decay_share * steps
        end = config.final_learning_rate
        return optax.linear_schedule(rate, end, decay_steps, steps - decay_steps)
    return optax.constant_schedule(rate)


def decay_factor(config: ml_collections.ConfigDict, progress: float | int) -> float:
    """Returns the factor by which "wsd" lowers the learning rate.

    A run with a time limit passes it to each step as an argument, because its number of steps is
    not known.

    Source: Hu et al.: "MiniCPM: Unveiling the Potential of Small Language Models with Scalable
    Training Strategies", arXiv:2404.06395, 2024 (warmup-stable-decay).

    Args:
      config: The `optimizer` part, checked.
      progress: The share of the run that is over, 0 to 1.
    """
    last = config.final_learning_rate / config.learning_rate
    return float(np.interp(progress, (1 - config.decay_share, 1), (1, last)))


def make_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the optimizer of a nested dict of parameters.

    It chains clipping by the global norm of all gradients, Adam or Muon, decoupled weight decay,
    the learning rate multipliers and the schedule. A multiplier has the effect of a parameter group
    with its own learning rate in PyTorch, so it also scales the weight decay.

    "adamw" is PyTorch's: p -= lr * wd * p, p -= lr * m_hat / (sqrt(v_hat) + epsilon). The bias
    corrections are computed in float32: with b2 = 0.999 the first updates differ from PyTorch's by
    about 1e-5 of their size.

    "radam" uses Adam's update times a rectification factor, and in the first steps, while the
    variance of the second moment is infinite, the momentum alone. Weight decay is that of "adamw".

    "muon" orthogonalizes the update of each matrix named "kernel" (momentum 0.95 and five
    Newton-Schulz steps, as published). Convolutions, biases, norms, tokens and matrices with a side
    of 1 use Adam. The root mean square of a Muon update is about 0.2, AdamW's in practice, whatever
    the shape of the matrix, so AdamW's learning rates and weight decay suit both.

    The state holds arrays in named tuples and dicts. The schedule counts the updates made.

    Sources:
      Loshchilov, Hutter: "Decoupled Weight Decay Regularization", ICLR 2019; torch.optim.AdamW.
      Liu et al.: "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.
      Jordan et al.: "Muon: An optimizer for hidden layers in neural networks", 2024.
      Liu et al.: "Muon is Scalable for LLM Training", arXiv:2502.16982, 2025.

    Args:
      config: The `optimizer` part, checked.
      schedule: Maps a step to its learning rate.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    scale_by = optax.scale_by_radam if config.name == "radam" else optax.scale_by_adam
    adam = scale_by(config.b1, config.b2, config.epsilon)
    decay_mask = None if config.decay_norms_and_biases else _is_kernel
    return optax.chain(
        clip,
        _muon_for_matrices(adam) if config.name == "muon" else adam,
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        scale_by_lr_mults(config.lr_mults),
        optax.scale_by_learning_rate(schedule),
    )


def _muon_for_matrices(adam):
    # optax's Muon applies a learning rate and negates; the chain does both later, for all
    # parameters. Its own branch for other parameters is Adam with Nesterov momentum.
    muon = optax.contrib.muon(-1.0, consistent_rms=_ADAMW_UPDATE_RMS)
    return optax.partition({"muon": muon, "adam": adam}, _muon_or_adam)


def _muon_or_adam(params):
    def label(is_kernel, leaf):
        return "muon" if is_kernel and leaf.ndim == 2 and min(leaf.shape) > 1 else "adam"

    return jax.tree.map(label, _is_kernel(params), params)


def _is_kernel(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def trained_part(params: dict, frozen: Frozen) -> dict:
    """Returns the nested dict without the parameters under the paths in `frozen`.

    Args:
      params: All parameters of the model.
      frozen: See `frozen_paths`.

    Raises:
      UserError: A path matches no parameter.
    """
    leaves = traverse_util.flatten_dict(params)
    prefixes = set(frozen_paths(leaves, frozen))
    trained = {
        path: leaf
        for path, leaf in leaves.items()
        if prefixes.isdisjoint(path[:length] for length in range(1, len(path) + 1))
    }
    return traverse_util.unflatten_dict(trained)


def frozen_paths(
    leaves: Collection[tuple[str, ...]], frozen: Frozen
) -> tuple[tuple[str, ...], ...]:
    """Returns the paths in `frozen` as tuples of names.

    Args:
      leaves: The paths of all parameters.
      frozen: The path of a parameter, or of a module with all its parameters, or a collection of
        paths. "head/conv" and ("head", "conv") are the same path; a tuple is a path only inside
        another collection.

    Raises:
      UserError: A path matches no parameter; names the nearest one.
    """
    wanted = [frozen] if isinstance(frozen, str) else frozen
    paths = [
        tuple(path.strip("/").split("/")) if isinstance(path, str) else tuple(path)
        for path in wanted
    ]
    existing = modules_and_params(["/".join(leaf) for leaf in leaves])
    for path in paths:
        name = "/".join(map(str, path))
        if name not in existing:
            near = nearest_path(name, existing)
            raise UserError(f"frozen: the model has no parameters {name!r}{near}")
    return tuple(paths)


def merge(trained: dict, params: dict) -> dict:
    """Returns `params` with the leaves of `trained` in their places."""
    leaves = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(trained)
    return traverse_util.unflatten_dict(leaves)


def check_optimizer(config: ml_collections.ConfigDict, steps: int) -> None:
    """Raises `UserError` unless the `optimizer` part suits a run of `steps` steps."""
    check_values(config, RULES, "optimizer.")
    if config.warmup_steps > steps:
        raise UserError(
            f"optimizer.warmup_steps is {config.warmup_steps}; it must be at most num_steps, "
            f"{steps}"
        )
    if config.schedule == "cosine" and config.constant_steps >= steps:
        raise UserError(
            f"optimizer.constant_steps is {config.constant_steps}; it must be less than num_steps, "
            f"{steps}"
        )
    if config.schedule == "multistep":
        _check_milestones(tuple(config.milestones), steps)
        if config.gammas and len(config.gammas) != len(config.milestones):
            raise UserError(
                f"optimizer.gammas has {len(config.gammas)} factors for "
                f"{len(config.milestones)} milestones; give one for each, or ()"
            )


def _check_milestones(milestones, steps):
    if list(milestones) != sorted(set(milestones)):
        raise UserError(f"optimizer.milestones must increase: they are {milestones}")
    outside = [milestone for milestone in milestones if not 0 < milestone < steps]
    if outside:
        raise UserError(
            f"optimizer.milestones must lie between 0 and num_steps, {steps}: {outside[0]} does not"
        )
