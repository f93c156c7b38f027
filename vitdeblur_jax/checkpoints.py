"""Checkpoints: load by name or path, save in three formats.

| format | what it holds |
|---|---|
| a folder | Orbax: items "variables" and "config"; restores onto any devices |
| .safetensors | the reference's names and layouts, the configuration as metadata |
| .pth (.pt, .tar) | the same as PyTorch writes it; the reference's strict loading takes it |
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import traverse_util

from vitdeblur_jax.errors import UserError, one_line
from vitdeblur_jax.interop.orbax_folders import (
    chosen_checkpoint,
    flat_shapes,
    read_folder_metadata,
    read_folder_variables,
    write_folder,
)
from vitdeblur_jax.interop.pytorch_files import read_pytorch_file, write_pytorch_file
from vitdeblur_jax.interop.reference import (
    encoder_from_pretraining,
    reference_shapes,
    variables_from_reference,
    variables_to_reference,
)
from vitdeblur_jax.interop.safetensors_files import read_safetensors, write_safetensors
from vitdeblur_jax.models import ViTDeblur, abstract_variables
from vitdeblur_jax.models.configuration import CONFIGURATIONS, base, complete_configuration
from vitdeblur_jax.shapes import check_shapes
from vitdeblur_jax.sharding import local_mesh, replicated

BUNDLED_WEIGHTS = Path(__file__).parent / "weights"
BUNDLED_NOTE = "the small model that comes with the package, not the authors'; see MODEL_CARD.md"
_DEFAULT = BUNDLED_WEIGHTS / "demo.safetensors"

# What may differ from the run that made a checkpoint.
_FREE_KEYS = ("window", "views", "dtype", "precision", "rematerialize", "stride", "margin")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its variables.

    Attributes:
      model: the Linen module, to be used as `model.apply(variables, image)`.
      variables: the collections "params", "batch_stats" and "position_embedding", float32.
      source: where it came from.
      unused: entries of a reference checkpoint that its network never uses; written back on export.
    """

    model: ViTDeblur
    variables: dict
    source: str
    unused: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The model's configuration: its attributes as plain values."""
        return complete_configuration({key: getattr(self.model, key) for key in base()})


def load_pretrained(
    source: str | Path | None = None, config: ml_collections.ConfigDict | None = None
) -> Pretrained:
    """Loads a checkpoint.

    Args:
      source: None for the small model that comes with the package, and nothing else; or an Orbax
        folder that this package wrote, a `.safetensors` file, a PyTorch checkpoint of the released
        code (read without PyTorch, running nothing that the file says), or the name of weights that
        come with the package. Of a training run's folder, or the `checkpoints` in it, the
        checkpoint that was best by validation PSNR, or the newest if none was validated; `source`
        of what is returned says which.
      config: of the model. By default the one that lies in the checkpoint; a file of the released
        code has none, and gets the named configuration whose shapes it has.

    Raises:
      UserError: there is no such checkpoint, it cannot be read, or it does not fit `config`.
    """
    path = _DEFAULT if source is None else chosen_checkpoint(_find(source))
    if path.is_dir():
        return _load_folder(path, config)
    state_dict, saved_config = _read_state_dict(path)
    config = _agreed(config, saved_config, path) or _configuration_by_shapes(state_dict)
    variables, unused = variables_from_reference(state_dict, config, str(path))
    variables = jax.tree.map(jnp.asarray, variables)
    return Pretrained(ViTDeblur(**config), variables, str(path), unused)


def on_local_devices(pretrained: Pretrained) -> Pretrained:
    """Returns it with its variables on all devices of this process, to be copied there once."""
    variables = jax.device_put(pretrained.variables, replicated(local_mesh()))
    return dataclasses.replace(pretrained, variables=variables)


def save_pretrained(
    pretrained: Pretrained,
    destination: str | Path,
    *,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a checkpoint; the ending of `destination` says in which format (see the module).

    What stood there before is replaced only when the new one is whole.

    Args:
      pretrained: what to write.
      destination: a path.
      half: write float16, half as large. For .safetensors alone; loaded, it is float32 again.
      metadata: of .safetensors: what else to write beside the configuration.

    Raises:
      UserError: it cannot be written there, or not in half precision.
    """
    path = Path(destination)
    check_destination(path)
    if (half or metadata) and path.suffix != ".safetensors":
        raise UserError(f"{path}: only .safetensors is written in half precision")
    if not path.suffix:
        return write_folder(path, pretrained.variables, pretrained.config.to_dict())
    state_dict = variables_to_reference(pretrained.variables, pretrained.config, pretrained.unused)
    config = configuration_to_json(pretrained.config)
    if path.suffix == ".safetensors":
        if half:
            state_dict = {name: _as_half(value, name) for name, value in state_dict.items()}
        return write_safetensors(path, state_dict, {**(metadata or {}), "config": config})
    # The released test script prints the epoch of what it loads.
    return write_pytorch_file(path, {"epoch": 0, "state_dict": state_dict, "config": config})


def _as_half(values, name):
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise UserError(f"{name} has values too large for half precision")
    return values.astype(np.float16) if values.dtype == np.float32 else values


def check_destination(path: Path) -> None:
    """Raises `UserError` unless a checkpoint can have that name, in a folder that exists."""
    if path.suffix not in ("", ".safetensors", ".pth", ".pt", ".tar"):
        raise UserError(
            f"{path}: a checkpoint ends in .safetensors, .pth, .pt or .tar, or is a folder without "
            "an ending"
        )
    if not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}")
    if os.path.exists(path) and os.path.isdir(path) != (path.suffix == ""):
        kind = "folder" if os.path.isdir(path) else "file"
        raise UserError(f"{path} is a {kind} already, and the ending asks for the other")


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
    state_dict, _ = _read_state_dict(Path(source))
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
    check_destination(Path(destination))
    if os.path.exists(destination) and not overwrite:
        raise UserError(f"{destination} exists; --force overwrites it")
    pretrained = load_pretrained(source)
    save_pretrained(pretrained, destination, half=half)
    return tuple(pretrained.unused)


def digest(variables: dict) -> str:
    """Returns the SHA-256 of all variables: names, shapes and float32 values, not the file."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    total = hashlib.sha256()
    for name in sorted(flat):
        value = np.ascontiguousarray(flat[name], np.float32)
        total.update(f"{name} {value.shape} ".encode())
        total.update(value)
    return total.hexdigest()


def configuration_to_json(config: ml_collections.ConfigDict) -> str:
    """Returns the configuration as one line of JSON."""
    return json.dumps(config.to_dict(), sort_keys=True)


def configuration_from_json(text: str, where: str) -> ml_collections.ConfigDict:
    """Returns the configuration that `configuration_to_json` wrote; `where` is for errors."""
    try:
        return complete_configuration(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: its configuration is damaged ({one_line(error)})") from error


def bundled_names() -> list[str]:
    """Returns the names of the weights that come with the package."""
    return sorted(file.stem for file in BUNDLED_WEIGHTS.glob("*.safetensors"))


def _find(source):
    if os.path.exists(source):
        return Path(source)
    if str(source) in bundled_names():
        return BUNDLED_WEIGHTS / f"{source}.safetensors"
    names = ", ".join(bundled_names()) or "none"
    raise UserError(
        f"there is no checkpoint {str(source)!r}: no such file or folder "
        f"(weights that come with the package: {names})"
    )


def _read_state_dict(path):
    """Returns the state dict and the configuration that lies beside it, or None."""
    if path.suffix == ".safetensors":
        state_dict, metadata = read_safetensors(path)
        saved = metadata.get("config")
    else:
        contents = read_pytorch_file(path)
        state_dict = state_dict_of(contents, str(path))
        saved = contents.get("config") if contents is not state_dict else None
    is_ours = isinstance(saved, str)
    return state_dict, configuration_from_json(saved, str(path)) if is_ours else None


def state_dict_of(contents, where: str) -> Mapping[str, np.ndarray]:
    """Returns the state dict in a PyTorch file: at "state_dict", at "model", or the whole."""
    if isinstance(contents, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(contents.get(key), Mapping):
                contents = contents[key]
                break
        if contents and all(isinstance(value, np.ndarray) for value in contents.values()):
            return contents
    raise UserError(f"{where} holds no state dict: neither at its top nor at 'state_dict', 'model'")


def _agreed(wanted, saved, path):
    """Returns the configuration asked for, or else the saved one, if both are of one network.

    Shapes alone do not tell: another number of heads fits them too.
    """
    if wanted is None or saved is None:
        return wanted or saved
    wrong = [
        f"{key} is {saved[key]}, should be {wanted[key]}"
        for key in saved
        if key not in _FREE_KEYS and saved[key] != wanted[key]
    ]
    if wrong:
        raise UserError(f"{path} does not fit the model: its {'; '.join(wrong)}")
    return wanted


def _configuration_by_shapes(state_dict):
    shapes = {name.removeprefix("module."): value.shape for name, value in state_dict.items()}
    for make in CONFIGURATIONS.values():
        wanted = reference_shapes(make())
        if all(shapes.get(name, wanted[name]) == wanted[name] for name in wanted):
            return make()
    return base()


def _load_folder(path, config):
    saved_config, stored = read_folder_metadata(path)
    saved_config = configuration_from_json(json.dumps(saved_config), str(path))
    config = _agreed(config, saved_config, path)
    model = ViTDeblur(**config)
    wanted = abstract_variables(model)
    check_shapes(flat_shapes(stored), flat_shapes(wanted), str(path))
    return Pretrained(model, read_folder_variables(path, wanted), str(path))
