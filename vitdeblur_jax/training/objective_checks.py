"""Checks of an objective by shapes alone: a mistake is found before anything is compiled."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from vitdeblur_jax.models.network import abstract_variables, views_of
from vitdeblur_jax.training.objective import Objective
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError, raised_in
from vitdeblur_jax.utils.shapes import few_of, shape_differences

RESERVED_TERMS = (
    *("loss", "gradient_norm", "finite", "images_finite"),  # of the train step
    *("learning_rate", "skipped"),  # of the loop
    *("kind", "step", "steps_per_second", "images_per_second", "waiting_share"),  # of the log
)
"""Entries of a log record that a loss term must not replace."""

_ARGUMENTS = "(network, variables, blurred, sharp, rng)"


def check_term_name(name: str, where: str) -> None:
    """Raises `UserError` if the log has another entry of this name.

    Args:
      name: The name of a loss term.
      where: Where the term is defined, for the message.
    """
    if name in RESERVED_TERMS:
        raise UserError(f"{where}: {name!r} is another entry of the log; rename the term")


def check_is_function(objective: Any) -> None:
    """Raises `UserError` unless an objective can be called."""
    if not callable(objective):
        raise UserError(
            f"the objective is {shown(objective)}; it must be a function of {_ARGUMENTS}. The "
            "losses that come with the package are keys of config.loss"
        )


def check_objective(
    objective: Callable[..., Objective],
    network: nn.Module,
    batch_size: int,
    crop: int,
    constants: Mapping[str, Any],
) -> None:
    """Traces an objective with abstract variables and images; compiles and allocates nothing.

    Args:
      objective: Function of variables, blurred and sharp images and a key for dropout.
      network: The network that it calls.
      batch_size: Images per call.
      crop: Side of the images, pixels.
      constants: Its keyword arguments.

    Raises:
      UserError: The objective cannot be traced, or does not return what an `Objective` holds.
    """
    variables = abstract_variables(network)
    images = [
        jax.ShapeDtypeStruct((batch_size, crop, crop, channels), jnp.float32)
        for channels in (3 * views_of(network), 3)
    ]

    name = _name_of(objective)

    def traced(variables, blurred, sharp, **constants):
        result = objective(variables, blurred, sharp, jax.random.key(0), **constants)
        state = {name: value for name, value in variables.items() if name != "params"}
        return check_result(result, state, len(blurred), name)

    try:
        jax.eval_shape(traced, variables, *images, **constants)
    except UserError:
        raise
    except Exception as error:  # anything that a function of the user's raises
        raise UserError(
            f"{name} cannot be traced ({raised_in(error)}); it is called as objective{_ARGUMENTS}"
        ) from error


def _name_of(objective: Callable) -> str:
    """Returns the name of an objective, for messages."""
    while isinstance(objective, functools.partial):
        objective = objective.func
    return f"the objective {getattr(objective, '__name__', type(objective).__name__)!r}"


def check_result(
    result: Any, model_state: dict, batch_size: int, name: str = "the objective"
) -> Objective:
    """Checks what an objective returns, while it is traced.

    Args:
      result: The result.
      model_state: The network's collections other than "params", before the call.
      batch_size: Images in the call.
      name: The name of the objective, for the message.

    Returns:
      The result.

    Raises:
      UserError: It is not an `Objective`, or a part of it has another type, shape or dtype.
    """
    if not isinstance(result, Objective):
        raise UserError(
            f"{name} returns {_described(result)}; it must return "
            "vitdeblur_jax.training.objective.Objective(loss, terms, per_image, model_state)"
        )
    loss = result.loss
    if jnp.shape(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise UserError(
            f"{name} returns a loss of {_described(loss)}; it must be a scalar float: take the "
            "mean over the images"
        )
    _check_terms(result.terms, name)
    if jnp.shape(result.per_image) != (batch_size,):
        raise UserError(
            f"{name} returns a per_image of {_described(result.per_image)}; it must be the loss of "
            f"each image, of shape ({batch_size},) for {batch_size} images"
        )
    if not isinstance(result.model_state, dict):
        raise UserError(
            f"{name} returns a model_state of {_described(result.model_state)}; return the state "
            "that `training_outputs` returns"
        )
    wrong = shape_differences(_arrays(result.model_state), _arrays(model_state))
    if wrong:
        raise UserError(
            f"{name} returns another model_state than the network has ({few_of(wrong, '; ')}); "
            "return the state that `training_outputs` returns"
        )
    return result


def _check_terms(terms, name):
    if not isinstance(terms, dict):
        raise UserError(f"{name} returns terms of {_described(terms)}; they must be a dict by name")
    for term, value in terms.items():
        check_term_name(term, f"the terms of {name}")
        if jnp.shape(value):
            raise UserError(
                f"{name} returns the term {term!r} of {_described(value)}; it must be a scalar, "
                "the mean over the images"
            )


def _arrays(state):
    flat = traverse_util.flatten_dict(state, sep="/")
    return {name: f"{jnp.result_type(x)}{list(jnp.shape(x))}" for name, x in flat.items()}


def _described(value):
    if hasattr(value, "shape"):
        return f"shape {value.shape} and dtype {value.dtype}"
    return f"type {type(value).__name__}"
