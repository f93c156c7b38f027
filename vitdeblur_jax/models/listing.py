"""The configurations of all networks as a table."""

import math
from collections.abc import Iterable

import jax

from vitdeblur_jax.models.network import abstract_variables, tiling_of, views_of
from vitdeblur_jax.models.networks import create
from vitdeblur_jax.models.tilings import HaloTiles, Tiling, WholeImage, Windows
from vitdeblur_jax.utils.table import format_table


def table_of_configurations(names: Iterable[str]) -> str:
    """Returns a table of configurations: network, parameters, views and tiling.

    Parameters are counted from traced shapes; nothing is computed.

    Args:
      names: of configurations, see `vitdeblur_jax.models.networks.configuration_names`.
    """
    rows = []
    for name in names:
        network = create(name)
        params = abstract_variables(network)["params"]
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        views, tiling = views_of(network), describe_tiling(tiling_of(network))
        rows.append([name, type(network).__name__, f"{count:,}", f"{views}", tiling])
    return format_table(["configuration", "network", "parameters", "views", "tiling"], rows)


def describe_tiling(tiling: Tiling) -> str:
    """Returns in a few words how large images are restored."""
    match tiling:
        case HaloTiles(halo=halo):
            return f"exact tiles, halo {halo}"
        case WholeImage():
            return "whole image"
        case Windows(size=size, stride=stride):
            return f"windows of {size}, stride {stride}"
