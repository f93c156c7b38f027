"""The interface between networks and the rest of the package.

A network is a Linen module that maps images `(batch, height, width, 3 * views)`, float RGB in
[0, 1], to images `(batch, height, width, 3)`. The rest is optional:

| attribute or method | meaning | default |
|---|---|---|
| `__call__(image, train)` | `train` is True in training | no argument `train` |
| views | number of RGB images, concatenated along the channels | 1 |
| tiling | how large images are restored, see `vitdeblur_jax.models.tilings` | `HaloTiles()` |
| dtype, precision, remat | numerics of the computation | as the module is written |
| LOSS_TERMS | names of the network's own loss terms, with default weights | none |
| training_outputs(blurred, sharp, train, terms) | the restored images and these terms | none |
| params_without_gradient(terms) | paths of the parameters without gradient if these own terms are \
used | none |
| check_training(crop, batch_size, weights) | raises `UserError` for invalid settings | none |
| INITIAL_OPTIONS | keys of `config.initial` with defaults: non-random initialization | none |
| check_initial(options) | raises `UserError` for conflicting options | none |
| initial_files(options, read) | variables by path, read from files | none |
| extends() | a smaller network whose checkpoints can also start a run, and the conversion of its \
variables; or None | none |
| initialized(variables, options) | initial variables, from random ones | none |

The variables are "params" and any other collections, such as "batch_stats". Training updates
"params" with gradients; the other collections are updated by the network itself.
"""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.tilings import HaloTiles, Tiling, Windows
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError, one_line

NUMERICS = {"dtype": "float32", "precision": "highest", "remat": False}

_LEAST_INITIAL_SIDE = 64  # pixels


def views_of(network: nn.Module) -> int:
    """Returns the number of RGB images that the network takes."""
    return getattr(network, "views", 1)


def tiling_of(network: nn.Module) -> Tiling:
    """Returns the tiling of the network.

    Raises:
      UserError: Its attribute `tiling` is not a tiling, or one of its sizes is invalid.
    """
    tiling = getattr(network, "tiling", None)
    if tiling is None:
        return HaloTiles()
    if not isinstance(tiling, Tiling):
        raise UserError(
            f"{type(network).__name__}.tiling is {shown(tiling)}; it must be a HaloTiles, "
            "WholeImage or Windows of vitdeblur_jax.models.tilings"
        )
    for size, value in tiling._asdict().items():
        least = 1 if size in ("multiple", "tile", "size", "stride", "period") else 0
        if not isinstance(value, int) or value < least:
            raise UserError(
                f"{type(network).__name__}.tiling has the {size} {shown(value)}; it must be an "
                f"integer of at least {least}"
            )
    return tiling


def own_loss_terms(network: nn.Module) -> Mapping[str, float]:
    """Returns the names of the network's own loss terms, with their default weights."""
    return getattr(network, "LOSS_TERMS", {})


def params_without_gradient(
    network: nn.Module, terms: frozenset[str]
) -> tuple[tuple[str, ...], ...]:
    """Returns the paths of the parameters that get no gradient with these own loss terms."""
    find = getattr(network, "params_without_gradient", None)
    return () if find is None else find(terms)


def check_training(
    network: nn.Module, crop: int, batch_size: int, weights: Mapping[str, float]
) -> None:
    """Checks training settings without tracing the network.

    Args:
      network: The network.
      crop: Side of the training crops, in pixels.
      batch_size: Number of images per forward pass.
      weights: Weights of all loss terms, by name.

    Raises:
      UserError: The network cannot be trained with these settings.
    """
    multiple = getattr(tiling_of(network), "multiple", 1)
    if hasattr(network, "tiling") and crop % multiple:
        below = crop - crop % multiple
        raise UserError(
            f"crop is {crop}; {type(network).__name__} takes multiples of {multiple}, such as "
            f"{below or multiple}"
        )
    check = getattr(network, "check_training", None)
    if check is not None:
        check(crop, batch_size, weights)


def takes_train(network: nn.Module) -> bool:
    """Returns whether the network's `__call__` has the argument `train`."""
    return "train" in inspect.signature(type(network).__call__).parameters


def with_numerics(network: nn.Module, **numerics: str | bool) -> nn.Module:
    """Sets the numerics of a network and of the modules among its attributes.

    Args:
      network: The network.
      **numerics: Values for dtype, precision or remat.

    Returns:
      A copy of the network.

    Raises:
      UserError: No module has the attribute, and the value differs from the default in `NUMERICS`.
    """
    found: set[str] = set()
    changed = _with_attributes(network, numerics, found, {})
    missing = [k for k, value in numerics.items() if k not in found and value != NUMERICS[k]]
    if missing:
        key = missing[0]
        raise UserError(
            f"{type(network).__name__} has no attribute {key!r}, so {key} {numerics[key]!r} cannot "
            "be set"
        )
    return changed


def _with_attributes(value, attributes, found, done):
    """Returns a module, or a container of modules, with attributes set where they exist.

    Args:
      value: A module, a container, or anything else.
      attributes: Values by name.
      found: Set of the names found so far; extended.
      done: Changed modules by the `id` of the original, so that shared modules stay shared.
    """
    if isinstance(value, nn.Module):
        if id(value) not in done:
            fields = [field.name for field in dataclasses.fields(value) if field.name != "parent"]
            old = {name: getattr(value, name) for name in fields}
            new = {
                name: attributes[name]
                if name in attributes
                else _with_attributes(part, attributes, found, done)
                for name, part in old.items()
            }
            found |= attributes.keys() & old.keys()
            changes = {name: part for name, part in new.items() if part is not old[name]}
            done[id(value)] = value.clone(**changes) if changes else value
        return done[id(value)]
    if type(value) in (list, tuple):
        parts = [_with_attributes(part, attributes, found, done) for part in value]
        is_same = all(one is other for one, other in zip(parts, value, strict=True))
        return value if is_same else type(value)(parts)
    return value


def check_hashable(network: nn.Module) -> None:
    """Raises `UserError` unless the network can be a static argument of `jax.jit`."""
    try:
        hash(network)
    except TypeError as error:
        raise UserError(
            f"{type(network).__name__} has an attribute that is not hashable ({one_line(error)}); "
            "use tuples, not lists, dicts or arrays"
        ) from error


def initial_variables(network: nn.Module, seed: int) -> dict:
    """Returns random initial variables; the same seed gives the same variables."""
    check_hashable(network)
    return _initialize(network, jax.random.key(seed))


def initial_side(network: nn.Module) -> int:
    """Returns the side of the images, in pixels, with which a network is initialized."""
    tiling = tiling_of(network)
    if isinstance(tiling, Windows):
        return tiling.size
    return -(-_LEAST_INITIAL_SIDE // tiling.multiple) * tiling.multiple


@functools.partial(jax.jit, static_argnums=0)
def _initialize(network, key):
    side = initial_side(network)
    keys = {"params": key, "dropout": key}
    settings = {"train": False} if takes_train(network) else {}
    return network.init(keys, jnp.zeros((2, side, side, 3 * views_of(network))), **settings)


def abstract_variables(network: nn.Module) -> dict:
    """Returns the shapes and dtypes of the variables, as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda: initial_variables(network, 0))


def training_outputs(
    network: nn.Module,
    variables: dict,
    blurred: Float[Array, "batch height width channels"],
    sharp: Float[Array, "batch height width 3"],
    terms: frozenset[str],
    rng: Array,
) -> tuple[Float[Array, "batch height width 3"], dict[str, Array], dict]:
    """Runs the network in training mode.

    Args:
      network: The network.
      variables: Its variables.
      blurred: Blurred images in [0, 1].
      sharp: Sharp images in [0, 1]; only for the network's own loss terms.
      terms: The network's own loss terms to compute.
      rng: Key for dropout.

    Returns:
      The restored images, not clipped; the loss terms by name, each `(batch,)`, or a scalar if it
      is defined only for a whole batch; and the updated collections other than "params".
    """
    state = {name: collection for name, collection in variables.items() if name != "params"}
    settings = {"mutable": list(state), "rngs": {"dropout": rng}}
    if hasattr(network, "training_outputs"):
        outputs, updated = network.apply(
            variables, blurred, sharp, True, terms, method="training_outputs", **settings
        )
        restored, found = _checked_outputs(network, outputs, sharp.shape)
        return restored, found, {**state, **updated}
    if takes_train(network):
        settings["train"] = True
    restored, updated = network.apply(variables, blurred, **settings)
    return restored, {}, {**state, **updated}


def _checked_outputs(network, outputs, shape):
    is_pair = isinstance(outputs, tuple) and len(outputs) == 2 and isinstance(outputs[1], dict)
    if not is_pair or jnp.shape(outputs[0]) != shape:
        found = f"images of {sides(jnp.shape(outputs[0]))}" if is_pair else "something else"
        raise UserError(
            f"{type(network).__name__}.training_outputs returns {found}; it must return the "
            f"restored images, of {sides(shape)}, and a dict of its loss terms"
        )
    return outputs


def sides(shape: tuple[int, ...]) -> str:
    """Returns a shape as text, for a message."""
    return " x ".join(map(str, shape))


def restored_images(
    network: nn.Module, variables: dict, images: Float[ArrayLike, "batch height width channels"]
) -> Any:
    """Returns what the network makes of images, outside of training."""
    settings = {"train": False} if takes_train(network) else {}
    return network.apply(variables, images, **settings)
