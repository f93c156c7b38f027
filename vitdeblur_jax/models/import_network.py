"""Networks by name: a configuration of the package, or `module:attribute` of any other network.

`my_networks:Unet` is the attribute `Unet` of the module `my_networks`: a Linen module, or a class
of them that needs no arguments. Importing a module runs its code, so a name of this form is only
ever taken from a user, never from a checkpoint.
"""

import importlib
import traceback
from types import ModuleType

import flax.linen as nn

from vitdeblur_jax.models.network_checks import check_is_instance
from vitdeblur_jax.models.networks import (
    Config,
    complete_config,
    configuration_names,
    create,
    create_network,
)
from vitdeblur_jax.utils.errors import UserError, nearest, one_line


def is_import_path(name: str) -> bool:
    """Returns whether a name has the form `module:attribute`."""
    return ":" in name


def given_network(network: nn.Module | Config | str | None) -> nn.Module | None:
    """Returns the network that a module, its config or its name stands for; None for None.

    Raises:
      UserError: There is no such network, or its config is invalid.
    """
    if isinstance(network, str):
        return network_by_name(network)
    if isinstance(network, type):
        check_is_instance(network)
    if network is None or isinstance(network, nn.Module):
        return network
    return create_network(complete_config(network))


def network_by_name(name: str) -> nn.Module:
    """Returns the network of that name.

    Args:
      name: A configuration, such as "base", or `module:attribute`.

    Raises:
      UserError: There is no such configuration, the module cannot be imported, or the attribute is
        not a network.
    """
    if is_import_path(name):
        return _imported(name)
    names = configuration_names()
    if name not in names:
        raise UserError(
            f"there is no network {name!r}{nearest(name, names)}; there are {', '.join(names)}, or "
            "name a network of your own as module:attribute"
        )
    return create(name)


def _imported(name: str) -> nn.Module:
    module_name, attribute = name.split(":", 1)
    module = _import(module_name)
    if not hasattr(module, attribute):
        near = nearest(attribute, vars(module))
        file = getattr(module, "__file__", None) or module_name
        raise UserError(f"network {name!r}: {file} has no attribute {attribute!r}{near}")
    network = getattr(module, attribute)
    if isinstance(network, type) and issubclass(network, nn.Module):
        network = _instance(network, name)
    if not isinstance(network, nn.Module):
        raise UserError(
            f"network {name!r} is an object of type {type(network).__name__}; it must be a Flax "
            "Linen module, or a class of them"
        )
    return network


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UserError(_why_not_imported(name, error)) from error


def _why_not_imported(name: str, error: BaseException) -> str:
    missing = getattr(error, "name", None)
    if isinstance(error, ModuleNotFoundError) and missing and f"{name}.".startswith(f"{missing}."):
        advice = "; it must be in the current folder or on Python's path"
        if "/" in name or name.endswith(".py"):
            dotted = name.removesuffix(".py").strip("./").replace("/", ".")
            advice = f"; name the module, not the file: {dotted}"
        return f"there is no module {name!r}{advice}"
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_globals.get("__name__") == name]
    where = f", line {lines[-1]}" if lines else ""
    return f"module {name!r} cannot be imported{where}: {type(error).__name__}: {one_line(error)}"


def _instance(network: type[nn.Module], name: str) -> nn.Module:
    try:
        return network()
    except TypeError as error:
        raise UserError(
            f"network {name!r} cannot be created without arguments ({one_line(error)}); give its "
            "attributes defaults, or name an instance"
        ) from error
