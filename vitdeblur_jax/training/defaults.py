"""The training config: every key and its default.

| key | meaning |
|---|---|
| seed | of initial values, order, augmentation and synthetic defocus; 0 or more |
| num_steps | number of training steps, one batch each |
| time_limit_s | seconds after which the run is complete, see \
`vitdeblur_jax.training.time_limit`; 0: no limit |
| batch_size | images per batch, over all devices |
| crop | side of the training crops, pixels |
| progressive | ((first_step, crop, batch_size), ...): later stages of crop and batch size |
| grad_accum_steps | parts of a batch, processed one after the other to save memory |
| mesh.data, .fsdp | the grid of devices, see `make_mesh`; -1: inferred from the device count |
| network, model, tiling, numerics | the network, see `vitdeblur_jax.models.networks`. For \
module:attribute, only the key network; for a network passed to `train`, no key |
| initial.checkpoint | checkpoint to start from, a path or an address, of the same \
architecture; its patch_overlap may be 0; empty: none |
| initial.* | other initializations, which depend on the network |
| data.kind | pairs (files), prepared (by `vitdeblur data prepare`), synthetic (from sharp images) |
| data.root | the folder of the data set |
| data.layout, .split | pairs: folder layout; pairs and prepared: split of the data set |
| data.bit_depth | pairs: 8 or 16 |
| data.hold_out | number of sharp images held out for validation, evenly spaced by name |
| data.synthesis | synthetic: `vitdeblur_jax.data.defocus.settings.SynthesisSettings` |
| data.synthesis.device | synthetic: keep the images in device memory and make the pairs there |
| data.sets | several data sets by name, see `vitdeblur_jax.training.data_sets` |
| data.mixture | ((name, weight), ...): the data.sets to train on; empty: data itself |
| data.horizontal_flip, .vertical_flip, .quarter_turns | augmentation; ViTDeblur's is the first |
| data.workers | processes that read ahead; 0: threads. Does not change the batches |
| loss.charbonnier, .l1, .mse, .ssim, .fourier, .lpips | weights of the restoration losses, see \
`vitdeblur_jax.training.losses` |
| loss.* | weights of the network's own terms |
| loss_schedule | ((first_step, ((term, weight), ...)), ...): later weights, see \
`vitdeblur_jax.training.loss_schedule` |
| loss.border | pixels on each side that the restoration losses exclude |
| loss.lpips_backbone | network of LPIPS: alex, vgg or squeeze |
| loss.lpips_weights | folder of its weights, for squeeze; empty: in the user's cache |
| optimizer.* | see `vitdeblur_jax.training.optimizer` |
| ema_decay | decay of the moving average of the parameters, used in validation; 0: no average |
| max_nonfinite_steps | number of steps skipped for a loss or gradient that is not finite |
| log_every, save_every | steps between log lines, between checkpoints |
| keep_checkpoints | number of the last checkpoints to keep, besides the best |
| validation.every | steps between validations; 0: none |
| validation.sets | names of data.sets; the first selects the best checkpoint; empty: those \
of the training |
| validation.root, .split | its images, without data.hold_out; empty root: data.root |
| validation.num_images | number of validation images, evenly spaced; 0: all |
| validation.num_logged_images | number of these images drawn and logged; at most those of \
process 0 |
| validation.stride, .batch_size | as in configs/evaluate.py |
| trackers | experiment trackers that get the log too: mlflow, wandb; empty: none |
| profile | (first, last) step to profile; empty: none |
| afterwards | lines to print when the run is complete, such as a command to try its result |
"""

import dataclasses

import flax.linen as nn
import ml_collections

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.models.import_network import is_import_path, network_by_name
from vitdeblur_jax.models.network import own_loss_terms
from vitdeblur_jax.models.networks import named_config
from vitdeblur_jax.training.initialization import initial_options
from vitdeblur_jax.training.losses import NAMES, SETTINGS


def default_config(network: nn.Module | str | None = None) -> ml_collections.ConfigDict:
    """Returns the training config with its defaults.

    Args:
      network: Name of the network, which the config then describes: a configuration, such as
        "base", or `module:attribute`. Or the module given to `train`, if it has its own loss terms
        or initial options; None for any other module.
    """
    config = _common_config()
    if isinstance(network, str):
        is_own = is_import_path(network)
        with config.unlocked():
            config.update({"network": network} if is_own else named_config(network))
        network = network_by_name(network)
    if network is not None:
        with config.unlocked():
            config.loss.update(own_loss_terms(network))
            config.initial.update(initial_options(network))
    return config


def _common_config():
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "num_steps": 100_000,
            "time_limit_s": 0.0,
            "batch_size": 8,
            "crop": 360,
            "progressive": (),
            "grad_accum_steps": 1,
            "mesh": {"data": -1, "fsdp": 1},
            "initial": {"checkpoint": ""},
            "data": {
                "kind": "pairs",
                "root": "",
                "layout": "pairs",
                "split": "train",
                "bit_depth": 8,
                "hold_out": 0,
                "synthesis": {"device": False, **dataclasses.asdict(SynthesisSettings())},
                "sets": {},
                "mixture": (),
                "horizontal_flip": True,
                "vertical_flip": False,
                "quarter_turns": False,
                "workers": 0,
            },
            "loss": {**dict.fromkeys(NAMES, 0.0), "charbonnier": 1.0, **SETTINGS},
            "loss_schedule": (),
            "optimizer": _default_optimizer(),
            "ema_decay": 0.0,
            "max_nonfinite_steps": 0,
            "log_every": 100,
            "save_every": 1000,
            "keep_checkpoints": 2,
            "validation": {
                "every": 5000,
                "sets": (),
                "root": "",
                "split": "val",
                "num_images": 8,
                "num_logged_images": 4,
                "stride": 0,
                "batch_size": 0,
            },
            "trackers": (),
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
        "constant_steps": 0,
        "final_learning_rate": 0.0,
        "decay_share": 0.2,
        "milestones": (),
        "gamma": 0.5,
        "gammas": (),
        "b1": 0.9,
        "b2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": 1e-2,
        "decay_norms_and_biases": True,
        "clip_norm": 0.0,
        "lr_mults": (),
    }
