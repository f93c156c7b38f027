"""What an evaluation checks and loads before the first image."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.addresses import is_address
from vitdeblur_jax.checkpoints.load_save import DEFAULT_NOTE, load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
from vitdeblur_jax.data.image_io import size_of
from vitdeblur_jax.data.layouts import LAYOUTS, find_pairs
from vitdeblur_jax.data.pairs import Pair, check_sizes
from vitdeblur_jax.distributed.processes import is_first
from vitdeblur_jax.evaluation.measure import Measure, load_metrics
from vitdeblur_jax.evaluation.profiles import OURS, PUBLISHED, Profile, find_protocol, profile_notes
from vitdeblur_jax.evaluation.score import parse_metrics
from vitdeblur_jax.evaluation.subsets import find_subsets
from vitdeblur_jax.inference.chosen_tiling import check_options
from vitdeblur_jax.models.network import tiling_of, with_numerics
from vitdeblur_jax.models.networks import NUMERICS_RULES
from vitdeblur_jax.models.tilings import WholeImage
from vitdeblur_jax.utils.config_checks import check_paths, check_values, choice, integer, text
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell

RULES = {
    "checkpoint": text(),
    "network": text(),
    "data_dir": text(),
    "layout": choice(*LAYOUTS),
    "split": text(),
    "profile": choice("", *PUBLISHED),
    "bit_depth": choice(0, 8, 16),
    "stride": integer(0),
    "tile": integer(0),
    "batch_size": integer(0, 2**16),
    "dtype": NUMERICS_RULES["dtype"],
    "precision": NUMERICS_RULES["precision"],
    "metrics": text(),
    "metric_weights": text(),
}


class Run(NamedTuple):
    """All that is fixed before the first image."""

    config: ml_collections.ConfigDict
    profile: Profile
    pairs: Sequence[Pair]
    pretrained: Pretrained
    measure: Measure
    metrics: list[str]
    notes: list[str]
    subsets: dict[str, list[str]]


def prepare(config: ml_collections.ConfigDict, network: nn.Module | None) -> Run:
    """Loads, and checks everything that can be checked before the first image is restored.

    Args:
      config: See `configs/evaluate.py`.
      network: The module of `config.checkpoint`, if it is not one of the package.

    Raises:
      UserError: The config, the checkpoint or the data is invalid, or they do not fit together.
    """
    _check(config)
    pairs = find_pairs(config.data_dir, config.layout, config.split)
    check_sizes(pairs)
    pretrained = _load(config, network)
    check_options(
        pretrained.model, config.stride or None, config.batch_size or None, config.tile or None
    )
    profile = find_protocol(config.profile)
    config = _resolved(config, profile, pairs, pretrained)
    weights_folder = Path(config.metric_weights) if config.metric_weights else None
    names = parse_metrics(config.metrics)
    measure, metrics, notes = load_metrics(names, weights_folder, profile.protocol)
    notes = [*notes, *profile_notes(profile, len(pairs[0].source))]
    subsets = find_subsets(pairs, config.layout, config.split)
    return Run(config, profile, pairs, pretrained, measure, metrics, notes, subsets)


def _resolved(config, profile, pairs, pretrained) -> ml_collections.ConfigDict:
    """Returns the config with what decides the results: no defaults, an absolute path.

    Raises:
      UserError: The profile does not take the images, the bit depth or the network.
    """
    protocol, network = profile.protocol, pretrained.model
    protocol.check_network(profile.system, network)
    bits = protocol.bits(len(pairs[0].source))
    if config.bit_depth not in (0, *bits):
        raise UserError(
            f"the profile {profile.system} reads {' or '.join(map(str, bits))} bits, and "
            f"--config.bit_depth is {config.bit_depth}; leave it out"
        )
    if config.tile and profile is not OURS and isinstance(tiling_of(network), WholeImage):
        raise UserError(
            f"the profile {profile.system} takes the whole image; leave out --config.tile"
        )
    for path in () if profile is OURS else [pair.source[0] for pair in pairs]:
        if (size := size_of(path)) is not None:
            profile.frame.check(size[1], size[0], profile.system, str(path))
    found = {
        "bit_depth": config.bit_depth or bits[0],
        "stride": config.stride or getattr(tiling_of(network), "stride", 0),
        "metrics": config.metrics or ",".join(protocol.metrics),
        "data_dir": os.path.abspath(config.data_dir),
    }
    if is_address(config.checkpoint):
        found["checkpoint"] = pretrained.source  # with the commit
    return ml_collections.ConfigDict({**config, **found})


def _check(config):
    check_paths(config, RULES)
    check_values(config, RULES, "--config.")
    if not config.data_dir:
        raise UserError("--config.data_dir is missing")


def _load(config, network) -> Pretrained:
    if network is None:
        network = config.network or None
    elif config.network:
        raise UserError("give evaluate a network, or --config.network, not both")
    pretrained = on_local_devices(load_pretrained(config.checkpoint or None, network))
    if is_first() and not config.checkpoint:
        tell(DEFAULT_NOTE)
    model = with_numerics(pretrained.model, dtype=config.dtype, precision=config.precision)
    before = getattr(pretrained.model, "dtype", config.dtype)
    if is_first() and np.dtype(before) != np.dtype(config.dtype):
        tell(f"note: computed in {config.dtype}, not in the checkpoint's {np.dtype(before).name}")
    return dataclasses.replace(pretrained, model=model)
