"""Annotations of shapes are checked while the tests run."""

import inspect
from collections.abc import Callable

import jaxtyping

_jaxtyped = jaxtyping.jaxtyped


def check_annotations() -> None:
    """Makes jaxtyping check all annotations of the package, if called before it is imported."""
    jaxtyping.jaxtyped = _jaxtyped_if_annotated
    jaxtyping.install_import_hook("vitdeblur_jax", "beartype.beartype")


def _jaxtyped_if_annotated(*, typechecker: Callable) -> Callable:
    """Leaves functions without annotations alone: wrapping them takes time at each call."""
    checked = _jaxtyped(typechecker=typechecker)

    def decorated(thing):
        is_plain = inspect.isfunction(thing) and not thing.__annotations__
        return thing if is_plain else checked(thing)

    return decorated
