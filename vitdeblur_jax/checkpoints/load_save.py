"""Checkpoints: load by name or path, save in three formats.

| format | what it holds |
|---|---|
| a folder | Orbax: items "variables" and "config"; restores onto any devices |
| .safetensors | the reference's names and layouts, the configuration as metadata |
| .pth (.pt, .tar) | the same as PyTorch writes it; the reference's strict loading takes it |
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.destinations import check_destination, check_replaceable
from vitdeblur_jax.checkpoints.orbax_folders import (
    chosen_checkpoint,
    flat_shapes,
    read_folder_metadata,
    read_folder_variables,
    write_folder,
)
from vitdeblur_jax.checkpoints.pretrained import (
    Pretrained,
    checked_configuration,
    configuration_from_json,
    configuration_of,
    configuration_to_json,
)
from vitdeblur_jax.checkpoints.pytorch_files import write_pytorch_file
from vitdeblur_jax.checkpoints.reference import (
    encoder_from_pretraining,
    reference_names,
    reference_shapes,
    variables_from_reference,
    variables_to_reference,
)
from vitdeblur_jax.checkpoints.safetensors_files import write_safetensors
from vitdeblur_jax.checkpoints.state_dicts import read_state_dict, without_prefix
from vitdeblur_jax.models import ViTDeblur, abstract_variables
from vitdeblur_jax.models.vitdeblur.configuration import (
    CONFIGURATIONS,
    base,
    complete_configuration,
)
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.files import check_regular, repair_folder
from vitdeblur_jax.utils.shapes import check_most_names, check_shapes

BUNDLED_WEIGHTS = Path(__file__).parents[1] / "weights"
BUNDLED_NOTE = "the small model that comes with the package, not the authors'; see MODEL_CARD.md"
_DEFAULT = BUNDLED_WEIGHTS / "demo.safetensors"

# What may differ from the run that made a checkpoint.
_FREE_KEYS = ("window", "views", "dtype", "precision", "remat", "stride", "margin")


Configuration = ml_collections.ConfigDict | Mapping[str, Any]


def load_pretrained(
    source: str | Path | None = None,
    config: Configuration | None = None,
    *,
    model: ViTDeblur | None = None,
) -> Pretrained:
    """Loads a checkpoint.

    Args:
      source: None for the small model that comes with the package, and nothing else; or an Orbax
        folder that this package wrote, a `.safetensors` file, a PyTorch checkpoint of the released
        code (read without PyTorch; no code in it is executed), or the name of weights that come
        with the package. Of a training run's folder, or the `checkpoints` in it, the checkpoint
        that was best by validation PSNR, or the newest if none was validated; `source` of what is
        returned says which.
      config: of the model. By default the one that lies in the checkpoint; a file of the released
        code has none, and gets the named configuration whose shapes it has.
      model: the module to load the variables for, instead of a configuration. A folder that was
        saved from a subclass of `ViTDeblur` needs an instance of it.

    Raises:
      UserError: there is no such checkpoint, it cannot be read, it is damaged, or it does not fit
        `config` or `model`.
    """
    if model is not None:
        if config is not None:
            raise UserError("give load_pretrained a config or a model, not both")
        config = configuration_of(model)
    elif config is not None:
        config = complete_configuration(config)
    path = _DEFAULT if source is None else chosen_checkpoint(_find(source))
    if path.is_dir():
        return _load_folder(path, config, model)
    state_dict, saved = read_state_dict(path)
    saved_config = None if saved is None else configuration_from_json(saved, str(path))
    config = _agreed(config, saved_config, path) or _configuration_by_shapes(state_dict, path)
    variables, unused = variables_from_reference(state_dict, config, str(path))
    variables = jax.tree.map(jnp.asarray, variables)
    if model is not None:
        check_shapes(flat_shapes(variables), flat_shapes(abstract_variables(model)), str(path))
    return Pretrained(model or ViTDeblur(**config), variables, str(path), unused)


def save_pretrained(
    pretrained: Pretrained,
    destination: str | Path,
    *,
    overwrite: bool = False,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a checkpoint; the ending of `destination` says in which format (see the module).

    Args:
      pretrained: what to write.
      destination: a path.
      overwrite: replace what is at `destination` when the new one is whole. A folder is replaced
        only if it is empty or holds nothing but a checkpoint of this package.
      half: write float16, half as large. For .safetensors alone; loaded, it is float32 again.
      metadata: of .safetensors: what else to write beside the configuration.

    Raises:
      UserError: something is at `destination` and may not be replaced, it cannot be written there,
        not in half precision, or not in a form that can be loaded again.
    """
    path = check_destination(destination)
    _check_vacant(path, overwrite, "overwrite=True replaces it")
    if (half or metadata) and path.suffix != ".safetensors":
        raise UserError(f"{path}: only .safetensors is written in half precision")
    config = pretrained.config
    if not path.suffix:
        network = None if _is_plain(pretrained.model) else type(pretrained.model).__qualname__
        variables = pretrained.variables
        _check_variables(variables, pretrained.model, path)
        return write_folder(path, variables, config.to_dict(), network, overwrite)
    _check_is_plain(pretrained.model, f"{path}: a {path.suffix} file has the names of ViTDeblur")
    _check_variables(pretrained.variables, pretrained.model, path)
    state_dict = variables_to_reference(pretrained.variables, config, pretrained.unused)
    text = configuration_to_json(config)
    if path.suffix == ".safetensors":
        if half:
            state_dict = {name: _as_half(value, name) for name, value in state_dict.items()}
        return write_safetensors(path, state_dict, {**(metadata or {}), "config": text}, overwrite)
    # The released test script prints the epoch of what it loads.
    contents = {"epoch": 0, "state_dict": state_dict, "config": text}
    return write_pytorch_file(path, contents, overwrite)


def _check_vacant(path, overwrite, advice):
    if not overwrite and os.path.lexists(path):
        raise UserError(f"{path} exists; {advice}")
    if not path.suffix:
        check_replaceable(path)


def _check_variables(variables, model, where):
    """Refuses to write what could not be loaded."""
    shapes = flat_shapes(variables)
    check_shapes(shapes, flat_shapes(abstract_variables(model)), f"{where}: the variables to write")


def _is_plain(model):
    return type(model) is ViTDeblur


def _check_is_plain(model, what):
    if not _is_plain(model):
        raise UserError(
            f"{what}, not of its subclass {type(model).__qualname__}; save that as a folder, a "
            "name without an ending"
        )


def _as_half(values, name):
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise UserError(f"{name} has values too large for half precision")
    return values.astype(np.float16) if values.dtype == np.float32 else values


def initialize_encoder(
    variables: dict, config: ml_collections.ConfigDict, source: str | Path
) -> tuple[dict, tuple[str, ...]]:
    """Returns variables whose tokenizer and primary encoder come from MAE's or TinyMIM's weights.

    Args:
      variables: of the model to initialise; not changed.
      config: of the model.
      source: a `.pth` file (`mae_pretrain_vit_base.pth`, TinyMIM's) or the same as `.safetensors`.

    Returns:
      The new variables, and the names of the entries that were not needed.

    Raises:
      UserError: the file cannot be read or does not fit.
    """
    if not os.path.isfile(source):
        raise UserError(f"there is no file {str(source)!r} with pretrained weights")
    state_dict, _ = read_state_dict(Path(source))
    return encoder_from_pretraining(variables, state_dict, config, str(source))


def convert(
    source: str | Path, destination: str | Path, overwrite: bool, half: bool = False
) -> tuple[str, ...]:
    """Loads a checkpoint and writes it in another format, in half precision if asked to.

    Returns:
      The names of the entries that the network never uses; PyTorch and safetensors files keep them.

    Raises:
      UserError: it cannot be loaded or written, or `destination` exists and is not to be replaced.
    """
    _check_vacant(check_destination(destination), overwrite, "--force overwrites it")
    pretrained = load_pretrained(source)
    save_pretrained(pretrained, destination, overwrite=overwrite, half=half)
    return tuple(pretrained.unused)


def bundled_names() -> list[str]:
    """Returns the names of the weights that come with the package."""
    return sorted(file.stem for file in BUNDLED_WEIGHTS.glob("*.safetensors"))


def _find(source):
    repair_folder(source)
    if os.path.exists(source):
        check_regular(source)
        return Path(source)
    if str(source) in bundled_names():
        return BUNDLED_WEIGHTS / f"{source}.safetensors"
    names = ", ".join(bundled_names()) or "none"
    raise UserError(
        f"there is no checkpoint {str(source)!r}: no such file or folder "
        f"(weights that come with the package: {names})"
    )


def _agreed(wanted, saved, path):
    """Returns the configuration asked for, or else the saved one, if both are of one network.

    Shapes alone do not tell: another number of heads fits them too.
    """
    if wanted is None or saved is None:
        return saved if wanted is None else wanted
    wrong = [
        f"{key} is {saved[key]}, should be {wanted[key]}"
        for key in saved
        if key not in _FREE_KEYS and saved[key] != wanted[key]
    ]
    if wrong:
        raise UserError(f"{path} does not fit the model: its {'; '.join(wrong)}")
    return wanted


def _configuration_by_shapes(state_dict, where):
    for make in CONFIGURATIONS.values():
        wanted = reference_shapes(make())
        named = without_prefix(state_dict, wanted, str(where))
        if all(named[name].shape == wanted[name] for name in wanted if name in named):
            return make()
    return base()


def _load_folder(path, config, model):
    stored = read_folder_metadata(path)
    config = _agreed(config, checked_configuration(stored.config, str(path)), path)
    if model is None and stored.network is not None:
        raise UserError(
            f"{path} is a checkpoint of the class {shown(stored.network)}: load it with "
            "load_pretrained(path, model=...), an instance of that class"
        )
    if model is None:
        names = ("/".join(name) for name in reference_names(config))
        check_most_names(stored.shapes, names, str(path))
    model = model or ViTDeblur(**config)
    wanted = abstract_variables(model)
    check_shapes(stored.shapes, flat_shapes(wanted), str(path))
    variables = read_folder_variables(path, wanted, stored.checksums)
    return Pretrained(model, variables, str(path))
