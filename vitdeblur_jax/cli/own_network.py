"""The option --network of `vitdeblur`: networks that do not come with the package."""

import argparse
import os
import sys

TYPE_CHECKING = False  # the commands set their signal handlers before JAX is imported
if TYPE_CHECKING:
    import flax.linen as nn


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds the option --network."""
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="the network of the checkpoint: module:attribute for your own, importable from the "
        "current folder, or a configuration such as base (default: as the checkpoint says)",
    )


def import_from_current_folder() -> None:
    """Lets Python import the modules in the current folder, after all others."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def chosen_network(name: str | None) -> "nn.Module | None":
    """Returns the network that --network names; None without it.

    Raises:
      UserError: There is no such network, or it cannot be imported.
    """
    if name is None:
        return None
    from vitdeblur_jax.models.import_network import network_by_name

    import_from_current_folder()
    return network_by_name(name)
