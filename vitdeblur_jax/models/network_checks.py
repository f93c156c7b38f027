"""Checks by shapes alone that a network can be trained; nothing is compiled."""

import functools
import inspect

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from vitdeblur_jax.models.network import (
    abstract_variables,
    initial_side,
    restored_images,
    sides,
    takes_train,
    tiling_of,
    views_of,
)
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError, raised_in
from vitdeblur_jax.utils.shapes import few_of


def check_network(network: nn.Module) -> None:
    """Checks by shapes alone that the network can be trained; nothing is compiled.

    Raises:
      UserError: The network cannot be initialized or applied, does not return images, refuses
        sides that its tiling allows, has parameters that are not float32, has batch statistics that
        training could never update, or its attribute `tiling` is not a tiling.
    """
    check_is_instance(network)
    name = type(network).__name__
    _check_arguments(network)
    variables = _traced(name, lambda: abstract_variables(network))
    if "params" not in variables:
        raise UserError(f"{name} has no parameters, so there is nothing to train")
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    others = [f"{path}: {x.dtype}" for path, x in flat.items() if x.dtype != jnp.float32]
    if others:
        raise UserError(
            f"{name} has parameters that are not float32 ({few_of(others)}): leave `param_dtype` "
            "at float32; `dtype=jnp.bfloat16` alone computes in bfloat16"
        )
    updates = takes_train(network) or hasattr(network, "training_outputs")
    if "batch_stats" in variables and not updates:
        raise UserError(
            f"{name} has batch statistics, but its call has no argument `train`: they would never "
            "be updated. Write `def __call__(self, image, train=False)`, and "
            "`nn.BatchNorm(use_running_average=not train)`"
        )
    side = initial_side(network)
    _check_images(network, variables, side)
    multiple = getattr(tiling_of(network), "multiple", None)
    if multiple is None:
        return
    try:
        _check_images(network, variables, side + multiple)
    except UserError as error:
        raise UserError(
            f"{error}. The multiple of its tiling is {multiple}; make it the total stride"
        ) from error


def _check_images(network, variables, side):
    name = type(network).__name__
    images = jax.ShapeDtypeStruct((2, side, side, 3 * views_of(network)), jnp.float32)
    restored = _traced(
        name, lambda: jax.eval_shape(functools.partial(restored_images, network), variables, images)
    )
    shape = getattr(restored, "shape", None)
    if shape != (2, side, side, 3):
        found = type(restored).__name__ if shape is None else sides(shape)
        raise UserError(
            f"{name} returns {found} for images of {sides(images.shape)}; it must "
            f"return images of 2 x {side} x {side} x 3"
        )


def check_is_instance(network: object) -> None:
    """Raises `UserError` unless the network is a Linen module: an instance, not its class."""
    if isinstance(network, type):
        raise UserError(
            f"the network is the class {network.__name__}; give an instance of it: "
            f"network={network.__name__}()"
        )
    if not isinstance(network, nn.Module):
        raise UserError(f"the network is {shown(network)}; it must be a Flax Linen module")


def _check_arguments(network):
    """Raises `UserError` if a call needs more arguments than an image and `train`."""
    parameters = list(inspect.signature(type(network).__call__).parameters.values())[1:]
    given = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:1]
    for parameter in parameters:
        is_needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if is_needed and parameter not in given and parameter.name != "train":
            raise UserError(
                f"{type(network).__name__}.__call__ needs the argument {parameter.name!r}; it is "
                "called with images alone, or with images and an argument named `train`, which is "
                "True in training"
            )


def _traced(name, trace):
    try:
        return trace()
    except UserError:
        raise
    except Exception as error:  # anything that a module of the user's raises
        advice = ""
        if isinstance(error, flax.errors.InvalidRngError):
            advice = "; only training has keys: write nn.Dropout(rate, deterministic=not train)"
        raise UserError(
            f"{name} cannot be applied to images ({raised_in(error)}){advice}"
        ) from error
