"""The data sets that a config names: the one in `data`, or several in `data.sets`.

    config.data.sets = {
        "dpdd": {"root": "DPDD", "layout": "dpdd"},
        "lfdof": {"root": "LFDOF", "layout": "lfdof", "hold_out": 20},
    }
    config.data.mixture = (("dpdd", 2.0), ("lfdof", 1.0))
    config.validation.sets = ("dpdd", "lfdof")

A set has the keys of `RULES`. A key that is missing has the value of `data`, and `validation_split`
that of `validation.split`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections

from vitdeblur_jax.data.defocus.settings import RULES as SYNTHESIS_RULES
from vitdeblur_jax.data.defocus.settings import check_settings
from vitdeblur_jax.data.layouts import LAYOUTS
from vitdeblur_jax.utils.config_checks import (
    Rule,
    check_keys,
    check_values,
    choice,
    flag,
    integer,
    number,
    pair,
    sequence,
    text,
)
from vitdeblur_jax.utils.errors import UserError, nearest

KINDS = ("pairs", "prepared", "synthetic")
RULES = {
    "kind": choice(*KINDS),
    "root": text(),
    "layout": choice(*LAYOUTS),
    "split": text(),
    "bit_depth": choice(8, 16),
    "hold_out": integer(0),
    "synthesis.device": flag(),
    **{f"synthesis.{key}": rule for key, rule in SYNTHESIS_RULES.items()},
}
_KEYS = tuple(dict.fromkeys(key.partition(".")[0] for key in RULES))
_WEIGHT = number(1e-6, 1e6)
_RULES_OF_NAMED = {**RULES, "validation_split": text()}


class DataSet(NamedTuple):
    """A data set of a config.

    Attributes:
      name: its name in `data.sets`; "" for the one in `data`.
      path: where its keys are in the config: "data", or "data.sets.NAME".
      settings: its keys, with `validation_split` among them.
    """

    name: str
    path: str
    settings: ml_collections.ConfigDict


def training_sets(config: ml_collections.ConfigDict) -> list[DataSet]:
    """Returns the sets to train on, in the order of `data.mixture`."""
    return [data_set(config, name) for name, _ in config.data.mixture or (("", 1.0),)]


def mixture_weights(config: ml_collections.ConfigDict) -> list[float]:
    """Returns the weight of each of `training_sets`."""
    return [float(weight) for _, weight in config.data.mixture or (("", 1.0),)]


def validation_sets(config: ml_collections.ConfigDict) -> list[DataSet]:
    """Returns the sets to validate with, in the order of `validation.sets`."""
    if not config.validation.sets:
        return training_sets(config)
    return [data_set(config, name) for name in config.validation.sets]


def data_set(config: ml_collections.ConfigDict, name: str) -> DataSet:
    """Returns a set by its name, "" for the one in `data`, with all its keys."""
    of_data = config.data.to_dict()
    settings = {key: of_data[key] for key in _KEYS}
    settings["validation_split"] = config.validation.split
    if name:
        own = config.data.sets[name].to_dict()
        settings |= {**own, "synthesis": settings["synthesis"] | own.get("synthesis", {})}
    settings = ml_collections.ConfigDict(settings)
    return DataSet(name, f"data.sets.{name}" if name else "data", settings)


def synthesizes_on_device(config: ml_collections.ConfigDict) -> bool:
    """Returns whether the devices compute the training batches from sharp images."""
    return training_sets(config)[0].settings.synthesis.device


def named_groups() -> Rule:
    """Returns the rule for `data.sets`."""

    def accepts(value: Any) -> bool:
        if not isinstance(value, ml_collections.ConfigDict):
            return False
        names = list(value)
        groups = all(isinstance(value[name], ml_collections.ConfigDict) for name in names)
        return groups and all(isinstance(name, str) and name.isidentifier() for name in names)

    return Rule(accepts, "groups of keys by name, such as {'dpdd': {'layout': 'dpdd'}}")


def weighted_names() -> Rule:
    """Returns the rule for `data.mixture`."""
    return sequence(pair(text(), _WEIGHT))._replace(
        wanted="((name, weight), ...), names of data.sets, weights from 1e-6 to 1e6"
    )


def check_data_sets(config: ml_collections.ConfigDict, views: int) -> None:
    """Checks the keys of every set, and that `data.mixture` and `validation.sets` name them.

    Raises:
      UserError: an unknown key or name, a value that cannot be, or a set that is named twice.
    """
    for name, group in config.data.sets.items():
        path = f"data.sets.{name}"
        given = list(_leaves(group))
        check_keys(given, _RULES_OF_NAMED, path)
        check_values(group, {key: _RULES_OF_NAMED[key] for key in given}, f"{path}.")
        check_settings(data_set(config, name).settings.synthesis, f"{path}.synthesis.")
    for key, names in {
        "data.mixture": [name for name, _ in config.data.mixture],
        "validation.sets": list(config.validation.sets),
    }.items():
        for name in names:
            if name not in config.data.sets:
                there = ", ".join(config.data.sets) or "none"
                raise UserError(
                    f"{key} names {name!r}{nearest(name, config.data.sets)}, which is not in "
                    f"data.sets; there are {there}"
                )
        if len(set(names)) < len(names):
            raise UserError(f"{key} names a set twice: {', '.join(names)}")
    if config.validation.root and (config.data.mixture or config.validation.sets):
        raise UserError(
            "validation.root is for a single data set; give each set in data.sets its own root and "
            "validation_split, and name it in validation.sets"
        )
    if config.validation.root and config.validation.every and config.data.hold_out:
        raise UserError(
            f"validation.root is not used, because data.hold_out is {config.data.hold_out}: the "
            "held-out images validate; leave validation.root empty, or set data.hold_out to 0 in a "
            "new run"
        )
    _check_views(config, views)
    _check_device(config)


def _leaves(group: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in group.items():
        if key == "synthesis" and isinstance(value, ml_collections.ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _check_device(config):
    sets = training_sets(config)
    for one in sets:
        key = f"{one.path}.synthesis.device"
        if one.settings.synthesis.device and one.settings.kind != "synthetic":
            raise UserError(
                f"{key} is True, but {one.path}.kind is {one.settings.kind!r}; set it to False, or "
                "the kind to 'synthetic'"
            )
        if one.settings.synthesis.device and len(sets) > 1:
            raise UserError(
                f"{key} is True, but data.mixture has {len(sets)} sets; the device makes the pairs "
                "of a single set: set it to False"
            )


def _check_views(config, views):
    for one in (*training_sets(config), *validation_sets(config)):
        is_dual, key = one.settings.synthesis.dual_pixel, f"{one.path}.synthesis.dual_pixel"
        if one.settings.kind == "synthetic" and is_dual != (views == 2):
            raise UserError(
                f"the network takes {views} view{'s' * (views > 1)}, but {key} is {is_dual}: set "
                f"{key} to {views == 2}, or the network's views to {1 + is_dual}"
            )
