"""The training config: every key with its default, and what can be checked before anything runs.

| key | meaning |
|---|---|
| seed | of initial values, order, augmentation, synthetic defocus (held out, too); 0 or more |
| num_steps | batches to train on |
| batch_size | images a batch, of all devices together |
| crop | side of the training crops, pixels; need not be the model's training_window |
| progressive | ((first_step, crop, batch_size), ...): from that step on, these instead |
| grad_accum_steps | parts that a batch is cut into and taken one after the other, to save memory |
| mesh.data, .fsdp | the grid of devices, see `make_mesh`; -1: inferred from the device count |
| model | the model's attributes, see `vitdeblur_jax.models.vitdeblur.configuration` |
| initial.checkpoint | a checkpoint to start from, of the same architecture; empty: none |
| initial.encoder | weights of MAE or TinyMIM for tokenizer and primary encoder; empty: none |
| initial.identity_init | the image head starts as the identity, the decoder at zero |
| initial.dct_init | what a patch shows, its frequencies, passes unmixed to the decoder's end |
| data.kind | pairs (files), prepared (by `vitdeblur data prepare`), synthetic (of sharp ones) |
| data.root | the folder of the data set |
| data.layout, .split | of pairs: how they lie on disk; of pairs and prepared: which part |
| data.bit_depth | of pairs: 8, or 16 |
| data.hold_out | sharp images set aside for validation, spread evenly over the names |
| data.synthesis | of synthetic: `vitdeblur_jax.data.defocus.settings.SynthesisSettings` |
| data.vertical_flip, .quarter_turns | augmentation beyond the published horizontal flip |
| data.workers | processes that read ahead; 0: threads. Changes nothing in what is learned |
| loss.* | weights of the terms, see `vitdeblur_jax.training.losses`; loss.border in pixels |
| optimizer.* | see `vitdeblur_jax.training.optimizer` |
| ema_decay | decay of the moving average of the parameters, which is validated; 0: no average |
| max_nonfinite_steps | steps that may be left out for a loss or gradient that is not finite |
| log_every, save_every | steps between lines of the log, between checkpoints |
| keep_checkpoints | how many of the last to keep, beside the best |
| validation.every | steps between validations; 0: none |
| validation.root, .split | where its images are, unless some are held out; empty: data's |
| validation.num_images | how many of them, spread evenly; 0: all |
| validation.num_logged_images | how many of these are drawn into TensorBoard |
| validation.stride, .batch_size | as in configs/evaluate.py |
| profile | (first, last) step to be profiled; empty: none |
| afterwards | lines to print when the run is complete |
"""

import dataclasses

import ml_collections

from vitdeblur_jax.data.defocus.settings import RULES as SYNTHESIS_RULES
from vitdeblur_jax.data.defocus.settings import SynthesisSettings, check_settings
from vitdeblur_jax.data.layouts import LAYOUTS
from vitdeblur_jax.models.vitdeblur.configuration import RULES as MODEL_RULES
from vitdeblur_jax.models.vitdeblur.configuration import (
    base,
    check_configuration,
    check_stride,
    check_window,
)
from vitdeblur_jax.training.data import KINDS, stages
from vitdeblur_jax.training.objective import needs_the_sharp_encoding
from vitdeblur_jax.training.optimizer import RULES as OPTIMIZER_RULES
from vitdeblur_jax.training.optimizer import check_optimizer
from vitdeblur_jax.utils.config_checks import (
    check_paths,
    check_values,
    choice,
    flag,
    integer,
    number,
    sequence,
    text,
)
from vitdeblur_jax.utils.errors import UserError

LARGEST_BATCH = 2**16
LARGEST_CROP = 2**14  # pixels
LOSS_TERMS = (
    *("charbonnier", "contextual_cosine", "contextual_l1", "sharpness"),
    *("vicreg_invariance", "vicreg_variance", "vicreg_covariance"),
)

_FREE_KEYS = (
    *(
        "mesh",
        "data.root",
        "data.workers",
        "model.remat",
        "max_nonfinite_steps",
        "log_every",
        "save_every",
    ),
    *("keep_checkpoints", "validation", "profile", "afterwards"),
)


def free_keys(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the keys and groups of keys that may change when a run is resumed.

    Apart from rounding, the parameters after a step do not depend on them. `num_steps` is one
    of them unless the schedule is "cosine", which spreads its learning rates over all steps.
    """
    return _FREE_KEYS if config.optimizer.schedule == "cosine" else (*_FREE_KEYS, "num_steps")


def default_config() -> ml_collections.ConfigDict:
    """Returns the published method; what was never published is our choice (configs/ say which)."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "num_steps": 100_000,
            "batch_size": 8,
            "crop": 360,
            "progressive": (),
            "grad_accum_steps": 1,
            "model": base(),
            "mesh": {"data": -1, "fsdp": 1},
            "initial": {"checkpoint": "", "encoder": "", "identity_init": False, "dct_init": False},
            "data": {
                "kind": "pairs",
                "root": "",
                "layout": "pairs",
                "split": "train",
                "bit_depth": 8,
                "hold_out": 0,
                "synthesis": dataclasses.asdict(SynthesisSettings()),
                "vertical_flip": False,
                "quarter_turns": False,
                "workers": 0,
            },
            "loss": {
                "charbonnier": 1.0,
                "contextual_cosine": 0.2,
                "contextual_l1": 0.0,
                "sharpness": 0.06,  # the published 0.2 * 0.3
                "vicreg_invariance": 0.0,  # the published code logs 0.01, 0.01 and 0.001 of these
                "vicreg_variance": 0.0,
                "vicreg_covariance": 0.0,
                "border": 0,
            },
            "optimizer": _default_optimizer(),
            "ema_decay": 0.0,
            "max_nonfinite_steps": 0,
            "log_every": 100,
            "save_every": 1000,
            "keep_checkpoints": 2,
            "validation": {
                "every": 5000,
                "root": "",
                "split": "val",
                "num_images": 8,
                "num_logged_images": 4,
                "stride": 0,
                "batch_size": 0,
            },
            "profile": (),
            "afterwards": (),
        }
    )


def _default_optimizer():
    return {
        "name": "adamw",
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "warmup_steps": 0,
        "final_learning_rate": 0.0,
        "milestones": (),
        "gamma": 0.5,
        "b1": 0.9,
        "b2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": 1e-2,
        "decay_norms_and_biases": True,
        "clip_norm": 0.0,
        "lr_mults": (),
    }


def _within(group, rules):
    return {f"{group}.{key}": rule for key, rule in rules.items()}


# Every key, with what it may be.
RULES = {
    **_within("model", MODEL_RULES),
    **_within("optimizer", OPTIMIZER_RULES),
    **_within("data.synthesis", SYNTHESIS_RULES),
    "seed": integer(0),
    "num_steps": integer(1),
    "batch_size": integer(1, LARGEST_BATCH),
    "crop": integer(1, LARGEST_CROP),
    "progressive": sequence(sequence(integer(0), length=3))._replace(
        wanted="((first_step, crop, batch_size), ...), three integers for each part"
    ),
    "grad_accum_steps": integer(1, LARGEST_BATCH),
    "mesh.data": integer(-1),
    "mesh.fsdp": integer(-1),
    "initial.checkpoint": text(),
    "initial.encoder": text(),
    "initial.identity_init": flag(),
    "initial.dct_init": flag(),
    "data.kind": choice(*KINDS),
    "data.root": text(),
    "data.layout": choice(*LAYOUTS),
    "data.split": text(),
    "data.bit_depth": choice(8, 16),
    "data.hold_out": integer(0),
    "data.vertical_flip": flag(),
    "data.quarter_turns": flag(),
    "data.workers": integer(0, 1024),
    **{f"loss.{term}": number(0, 1e6) for term in LOSS_TERMS},
    "loss.border": integer(0, LARGEST_CROP),
    "ema_decay": number(0, 0.999999),
    "max_nonfinite_steps": integer(0),
    "log_every": integer(1),
    "save_every": integer(1),
    "keep_checkpoints": integer(1),
    "validation.every": integer(0),
    "validation.root": text(),
    "validation.split": text(),
    "validation.num_images": integer(0),
    "validation.num_logged_images": integer(0),
    "validation.stride": integer(0),
    "validation.batch_size": integer(0, LARGEST_BATCH),
    "profile": sequence(integer(0))._replace(wanted="(first, last), two steps, or ()"),
    "afterwards": sequence(text()),
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Checks whatever can be without data and devices: each value alone, then all together.

    Raises:
      UserError: an unknown key, with the nearest right one, or a value that cannot be.
    """
    check_paths(config, RULES)
    check_values(config, RULES)
    check_configuration(config.model)
    check_optimizer(config.optimizer, config.num_steps)
    check_settings(config.data.synthesis, "data.synthesis.")
    if config.validation.stride:
        check_stride(config.model, config.validation.stride)
    if not config.loss.charbonnier:
        raise UserError("loss.charbonnier is 0: nothing would train the decoder; raise it above 0")
    _check_views(config)
    _check_stages(config)
    _check_initial(config)
    _check_profile(config)


def _check_views(config):
    views, is_dual = config.model.views, config.data.synthesis.dual_pixel
    if config.data.kind == "synthetic" and is_dual != (views == 2):
        raise UserError(
            f"model.views is {views}, but data.synthesis.dual_pixel is {is_dual}: set "
            f"data.synthesis.dual_pixel to {views == 2}, or model.views to {1 + is_dual}"
        )
    if config.data.quarter_turns and views == 2:
        raise UserError(
            "data.quarter_turns would lay the left and the right view one above the other; "
            "leave it out where model.views is 2"
        )


def _check_initial(config):
    initial = config.initial
    if initial.checkpoint and (initial.encoder or initial.identity_init or initial.dct_init):
        raise UserError(
            "initial.checkpoint gives all values: leave initial.encoder, initial.identity_init and "
            "initial.dct_init out"
        )
    if initial.encoder and initial.dct_init:
        raise UserError(
            "initial.dct_init would replace what initial.encoder gives; leave one of them out"
        )
    frozen = [pattern for pattern, multiplier in config.optimizer.lr_mults if multiplier == 0]
    if frozen and not any(initial.values()):
        raise UserError(
            f"optimizer.lr_mults freezes {frozen[0]!r} at random values; name pretrained weights "
            "with --config.initial.encoder (MAE's or TinyMIM's) or --config.initial.checkpoint, or "
            "raise the multiplier above 0"
        )


def _check_profile(config):
    steps = tuple(config.profile)
    if steps and not (len(steps) == 2 and steps[0] <= steps[1] < config.num_steps):
        raise UserError(
            f"profile is {tuple(config.profile)}; it is (first, last), two steps from 0 to "
            f"{config.num_steps - 1}"
        )


def _check_stages(config):
    plan = stages(config)
    starts = [stage.first_step for stage in plan]
    if starts != sorted(set(starts)) or starts[-1] >= config.num_steps:
        raise UserError(
            f"progressive begins at the steps {starts[1:]}; they must rise from 1 to less than "
            f"steps, which is {config.num_steps}"
        )
    weights = {key: weight for key, weight in config.loss.items() if key != "border"}
    limits = {"crop": RULES["crop"], "batch_size": RULES["batch_size"]}
    for stage in plan:
        check_values(stage, limits, "" if stage is plan[0] else "progressive: ")
        check_window("crop", stage.crop, config.model)
        if stage.batch_size % config.grad_accum_steps:
            raise UserError(
                f"a batch of {stage.batch_size} cannot be cut into {config.grad_accum_steps} "
                "parts; make batch_size a multiple of grad_accum_steps"
            )
        if stage.batch_size < 2 * config.grad_accum_steps and needs_the_sharp_encoding(weights):
            raise UserError(
                f"a batch of {stage.batch_size} in {config.grad_accum_steps} part(s) leaves one "
                "image for batch norm, which needs two; raise batch_size, lower grad_accum_steps "
                "or set the contextual weights in loss to 0"
            )
        if stage.crop <= 2 * config.loss.border:
            raise UserError(
                f"loss.border leaves out {config.loss.border} pixels a side: nothing is left of a "
                f"crop of {stage.crop}"
            )
