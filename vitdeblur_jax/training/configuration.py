"""The rule of every key of the training config, and the checks before a run starts."""

import flax.linen as nn
import ml_collections

from vitdeblur_jax.data.defocus.settings import check_settings
from vitdeblur_jax.inference.chosen_tiling import check_options
from vitdeblur_jax.models.import_network import is_import_path, network_by_name
from vitdeblur_jax.models.network import check_training, own_loss_terms, views_of
from vitdeblur_jax.models.network_checks import check_network
from vitdeblur_jax.models.networks import GROUPS, NETWORKS, complete_config, create_network
from vitdeblur_jax.training.data_sets import RULES as DATA_SET_RULES
from vitdeblur_jax.training.data_sets import check_data_sets, named_groups, weighted_names
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.training.initialization import check_initial, initial_options
from vitdeblur_jax.training.loss_schedule import check_loss_schedule, largest_weights, phases_rule
from vitdeblur_jax.training.losses import RULES as LOSS_RULES
from vitdeblur_jax.training.losses import WEIGHT_RULE, check_losses
from vitdeblur_jax.training.objective_checks import check_term_name
from vitdeblur_jax.training.optimizer import RULES as OPTIMIZER_RULES
from vitdeblur_jax.training.optimizer import check_optimizer
from vitdeblur_jax.training.stages import stages
from vitdeblur_jax.training.tracker_runs import RUNS as TRACKERS
from vitdeblur_jax.utils.config_checks import (
    Rule,
    check_paths,
    check_values,
    choice,
    flag,
    integer,
    number,
    sequence,
    shown,
    text,
)
from vitdeblur_jax.utils.errors import UserError

LARGEST_BATCH = 2**16
LARGEST_CROP = 2**14  # pixels
_FREE_KEYS = (
    *(
        "mesh",
        "data.root",
        "data.workers",
        "numerics.remat",
        "max_nonfinite_steps",
        "log_every",
        "save_every",
    ),
    *("keep_checkpoints", "validation", "trackers", "profile", "afterwards"),
)


def free_keys(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the keys and groups of keys that may change when a run is resumed.

    Apart from rounding, the parameters after a step do not depend on them. `num_steps` is one
    of them unless the schedule is spread over all steps.
    """
    roots = [f"data.sets.{name}.root" for name in config.data.sets]
    spreads = config.optimizer.schedule in ("cosine", "wsd") and not config.time_limit_s
    return (*_FREE_KEYS, *roots, *([] if spreads else ["num_steps"]))


def defaults_of(config: ml_collections.ConfigDict, network: nn.Module) -> ml_collections.ConfigDict:
    """Returns the defaults of a run's keys, and those of its network's first configuration."""
    defaults = default_config(network)
    if config.get("network") in NETWORKS:
        with defaults.unlocked():
            defaults.update(complete_config({"network": config.network}))
    return defaults


def _within(group, rules):
    return {f"{group}.{key}": rule for key, rule in rules.items()}


# The rule of every key; those of the network are in models/.
RULES = {
    **_within("optimizer", OPTIMIZER_RULES),
    **_within("data", DATA_SET_RULES),
    **_within("loss", LOSS_RULES),
    "seed": integer(0),
    "num_steps": integer(1),
    "time_limit_s": number(0, 1e9),
    "batch_size": integer(1, LARGEST_BATCH),
    "crop": integer(1, LARGEST_CROP),
    "progressive": sequence(sequence(integer(0), length=3))._replace(
        wanted="((first_step, crop, batch_size), ...), three integers for each part"
    ),
    "loss_schedule": phases_rule(),
    "grad_accum_steps": integer(1, LARGEST_BATCH),
    "mesh.data": integer(-1),
    "mesh.fsdp": integer(-1),
    "initial.checkpoint": text(),
    "data.sets": named_groups(),
    "data.mixture": weighted_names(),
    "data.horizontal_flip": flag(),
    "data.vertical_flip": flag(),
    "data.quarter_turns": flag(),
    "data.workers": integer(0, 1024),
    "ema_decay": number(0, 0.999999),
    "max_nonfinite_steps": integer(0),
    "log_every": integer(1),
    "save_every": integer(1),
    "keep_checkpoints": integer(1),
    "validation.every": integer(0),
    "validation.sets": sequence(text()),
    "validation.root": text(),
    "validation.split": text(),
    "validation.num_images": integer(0),
    "validation.num_logged_images": integer(0),
    "validation.stride": integer(0),
    "validation.batch_size": integer(0, LARGEST_BATCH),
    "trackers": sequence(choice(*TRACKERS)),
    "profile": sequence(integer(0))._replace(wanted="(first, last), two steps, or ()"),
    "afterwards": sequence(text()),
}


def check_config(config: ml_collections.ConfigDict, network: nn.Module | None = None) -> nn.Module:
    """Checks a config without data and devices: each value, then their combinations.

    Args:
      config: Config of the run.
      network: The network to train, if the config describes none.

    Returns:
      The network.

    Raises:
      UserError: A key is unknown (names the nearest one), or a value is invalid.
    """
    network = _network(config, network)
    rules = rules_for(network)
    common = ml_collections.ConfigDict(
        {key: value for key, value in config.items() if key not in GROUPS}
    )
    _check_own_keys(config, network)
    check_paths(common, rules)
    check_values(common, rules)
    check_optimizer(config.optimizer, config.num_steps)
    _check_time_limit(config)
    check_settings(config.data.synthesis, "data.synthesis.")
    check_options(network, config.validation.stride or None, None)
    check_data_sets(config, views_of(network))
    _check_turns(config, views_of(network))
    check_loss_schedule(config)
    _check_stages(config, network)
    check_initial(config, network)
    _check_profile(config)
    return network


def rules_for(network: nn.Module) -> dict[str, Rule]:
    """Returns the rules by dotted key, except for the keys that describe the network."""
    initial = initial_options(network).items()
    for term in own_loss_terms(network):
        if term in LOSS_RULES:
            raise UserError(
                f"{type(network).__name__}.LOSS_TERMS has {term!r}, which the config's loss has "
                "already; rename the term"
            )
        check_term_name(term, f"{type(network).__name__}.LOSS_TERMS")
    return {
        **RULES,
        **_within("loss", dict.fromkeys(own_loss_terms(network), WEIGHT_RULE)),
        **{f"initial.{k}": flag() if isinstance(usual, bool) else text() for k, usual in initial},
    }


def _network(config, network):
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"the config is {shown(config)}; it must be an ml_collections.ConfigDict")
    missing = [group for group in GROUPS if group not in config]
    if network is not None:
        if len(missing) < len(GROUPS):
            raise UserError(
                "the config describes a network, but train was given another one; use only one "
                "of them: default_config() describes none"
            )
        check_network(network)
        return network
    if len(missing) == len(GROUPS):
        raise UserError(
            'the config describes no network; start from default_config("base") or another name, '
            'such as "module:attribute" for your own, or call train(network=...)'
        )
    if is_import_path(str(config.get("network"))) and len(missing) == len(GROUPS) - 1:
        network = network_by_name(config.network)
        check_network(network)
        return network
    if missing:
        name = config.get("network")
        if isinstance(name, str) and name not in NETWORKS:
            raise UserError(
                f"network is {name!r}, which is none of {', '.join(NETWORKS)}; name a network of "
                "your own as module:attribute, the attribute being its class or an instance"
            )
        raise UserError(f"the config lacks the key {missing[0]!r}")
    for group in GROUPS[1:]:
        if not isinstance(config[group], ml_collections.ConfigDict):
            raise UserError(f"{group} is {shown(config[group])}; it must be a group of keys")
    return create_network(config)


def _check_own_keys(config, network):
    """Raises `UserError` if keys of the network are missing, as in a config made for another."""
    keys = {"loss": own_loss_terms(network), "initial": initial_options(network)}
    missing = [
        f"{group}.{key}"
        for group, own in keys.items()
        for key in own
        if isinstance(config.get(group), ml_collections.ConfigDict) and key not in config[group]
    ]
    if missing:
        name = type(network).__name__
        argument = repr(config.network) if "network" in config else "network"
        raise UserError(
            f"the config lacks the key {missing[0]!r}, which {name} needs; start from "
            f"default_config({argument})"
        )


def _check_turns(config, views):
    if config.data.quarter_turns and views > 1:
        raise UserError(
            "data.quarter_turns would put the left view above the right one; disable it for a "
            "network with two views"
        )


def _check_time_limit(config):
    if config.time_limit_s and config.optimizer.schedule != "wsd":
        raise UserError(
            f"optimizer.schedule is {config.optimizer.schedule!r}, which counts steps; a run with "
            "time_limit_s needs 'wsd', whose decay ends with the time"
        )


def _check_profile(config):
    steps = tuple(config.profile)
    if steps and not (len(steps) == 2 and steps[0] <= steps[1] < config.num_steps):
        raise UserError(
            f"profile is {tuple(config.profile)}; it must be (first, last), two steps from 0 to "
            f"{config.num_steps - 1}"
        )


def _check_stages(config, network):
    plan = stages(config)
    starts = [stage.first_step for stage in plan]
    if starts != sorted(set(starts)) or starts[-1] >= config.num_steps:
        raise UserError(
            f"progressive has the first steps {starts[1:]}; they must increase, from 1 to less "
            f"than num_steps, which is {config.num_steps}"
        )
    weights = largest_weights(config)
    limits = {"crop": RULES["crop"], "batch_size": RULES["batch_size"]}
    for stage in plan:
        check_values(stage, limits, "" if stage is plan[0] else "progressive: ")
        if stage.batch_size % config.grad_accum_steps:
            raise UserError(
                f"a batch of {stage.batch_size} cannot be split into {config.grad_accum_steps} "
                "parts; make batch_size a multiple of grad_accum_steps"
            )
        check_losses(weights, config.loss.border, stage.crop)
        check_training(network, stage.crop, stage.batch_size // config.grad_accum_steps, weights)
