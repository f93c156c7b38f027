"""Loads checkpoints by name or path, and saves them in three formats.

| format | contents |
|---|---|
| a folder | Orbax items "variables" and "config"; restored onto any devices |
| .safetensors | the variables in the published names and layouts, and the config as metadata |
| .pth (.pt, .tar) | the same in PyTorch's format; published code loads it with strict=True |

Published files in other formats are only read: Keras' .hdf5 and TensorLayer's .npz.

A network outside `NETWORKS` is saved as a folder, or as .safetensors under the paths of its
variables. To load it, pass the network.
Published code has no `decoder.patch_overlap`, and loads only a ViTDeblur where it is 0.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vitdeblur_jax.checkpoints.addresses import located
from vitdeblur_jax.checkpoints.destinations import check_destination, check_replaceable
from vitdeblur_jax.checkpoints.orbax_folders import (
    chosen_checkpoint,
    flat_shapes,
    read_folder_metadata,
    read_folder_variables,
    step_folders,
    write_folder,
)
from vitdeblur_jax.checkpoints.pretrained import (
    Pretrained,
    check_pretrained,
    check_same_network,
    checked_config,
    config_from_json,
    config_to_json,
    saved_config,
)
from vitdeblur_jax.checkpoints.pytorch_files import write_pytorch_file
from vitdeblur_jax.checkpoints.recognition import (
    published_of,
    recognized_network,
    surplus_entries,
    variables_by_path,
    variables_from_published,
)
from vitdeblur_jax.checkpoints.safetensors_files import write_safetensors
from vitdeblur_jax.checkpoints.state_dicts import read_state_dict
from vitdeblur_jax.models.import_network import given_network
from vitdeblur_jax.models.network import abstract_variables, with_numerics
from vitdeblur_jax.models.networks import NUMERICS_RULES, Config, create_network
from vitdeblur_jax.utils.buckets import downloaded, exists, is_remote, reachable
from vitdeblur_jax.utils.config_checks import check_values, shown
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.files import check_regular, repair_folder
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.shapes import check_most_names, check_shapes, few_of

BUNDLED_WEIGHTS = Path(__file__).parents[1] / "weights"
_DEFAULT = BUNDLED_WEIGHTS / "demo.safetensors"
DEFAULT_NOTE = (
    "checkpoint: the small model that comes with the package, not the authors'; see MODEL_CARD.md"
)


def load_pretrained(
    source: str | os.PathLike[str] | None = None,
    network: nn.Module | Config | str | None = None,
    *,
    dtype: str | None = None,
    precision: str | None = None,
) -> Pretrained:
    """Loads a checkpoint.

    Args:
      source: An Orbax folder of this package, a `.safetensors` file, a published checkpoint (see
        `state_dicts.read_state_dict`; it is read without that code's framework, and no code in it
        is executed), or the name of weights that come with the package. For the folder of a
        training run, or its `checkpoints`, the checkpoint with the best validation PSNR is loaded,
        or the newest if none was validated, and its path is printed. All of these may be in a
        bucket, gs:// or s3://, and a file may have an address, `hf://OWNER/NAME[@REVISION][/FILE]`
        or `https://...#sha256=...`. None loads the small model that comes with the package.
      network: The module, its config, or its name: a configuration, such as "base", or
        "module:attribute", which is imported. None for the network that the checkpoint describes. A
        published checkpoint describes no network; the first configuration that fits its entries is
        used. A network outside `NETWORKS` must be given.
      dtype: Of the computation: "float32" or "bfloat16"; the variables stay float32. None for the
        checkpoint's.
      precision: Of float32 products on GPUs and TPUs: "highest", "high" or "default" (TF32 on
        GPUs). None for the checkpoint's.

    Returns:
      The network and its variables; `source` is the path that was loaded, or the pinned address.

    Raises:
      UserError: The checkpoint does not exist, cannot be read, is damaged, or does not fit
        `network`; or `dtype` or `precision` is invalid.
    """
    numerics = {"dtype": dtype, "precision": precision}
    numerics = {key: value for key, value in numerics.items() if value is not None}
    check_values(SimpleNamespace(**numerics), {key: NUMERICS_RULES[key] for key in numerics})
    network = given_network(network)
    path, pinned = located(_DEFAULT if source is None else source)
    pretrained = _load(path, network)
    return dataclasses.replace(
        pretrained,
        model=with_numerics(pretrained.model, **numerics),
        source=pinned or pretrained.source,
    )


def _load(source, network):
    path = chosen_checkpoint(_find(source))
    if path.is_dir():
        return _load_folder(path, network)
    state_dict, text = _read_file(path)
    saved = None if text is None else config_from_json(text, str(path))
    is_tested = network is None and path.parent == BUNDLED_WEIGHTS
    network = _network_for(path, network, saved) or recognized_network(state_dict, str(path))
    published = published_of(network)
    if is_tested:  # the shapes fit; checking them takes ten times as long as all other work here
        names = published.names(network)
        variables = published.to_variables(network, state_dict)
        unused = {name: value for name, value in state_dict.items() if name not in names}
    elif published is None:
        variables, unused = variables_by_path(state_dict, network, str(path)), {}
    else:
        variables, unused = variables_from_published(state_dict, network, str(path))
        surplus = surplus_entries(network, unused)
        if surplus:
            name = type(network).__name__
            tell(f"note: {path}: {name} does not use {len(surplus)} entries: {few_of(surplus)}")
    return Pretrained(network, jax.device_put(variables), str(path), unused)


def save_pretrained(
    pretrained: Pretrained,
    destination: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a checkpoint in the format of `destination`'s ending; see the module's table.

    Args:
      pretrained: The network and its variables.
      destination: The path of the file or folder.
      overwrite: Replace `destination`, once the new checkpoint is complete. A folder is replaced
        only if it is empty or holds only a checkpoint of this package.
      half: Write float16, which is half as large. Only for .safetensors; it is loaded as float32.
      metadata: More metadata for .safetensors, beside the config.

    Raises:
      UserError: `destination` exists and may not be replaced, cannot be written, or does not
        support half precision; or the variables do not fit the network.
    """
    check_pretrained(pretrained, "save_pretrained(pretrained, destination)")
    path = check_destination(destination)
    _check_vacant(path, overwrite, "overwrite=True replaces it")
    if (half or metadata) and path.suffix != ".safetensors":
        raise UserError(f"{path}: only .safetensors is written in half precision")
    network = pretrained.model
    published = published_of(network)
    if published is None and path.suffix not in ("", ".safetensors"):
        raise UserError(
            f"{path}: a {path.suffix} file is for a published network, and this "
            f"{type(network).__qualname__} is not one; save it as .safetensors, or as a folder (a "
            "name without an ending)"
        )
    variables = _as_network_has(pretrained.variables, network, path)
    if not path.suffix:
        return write_folder(path, variables, saved_config(network), overwrite)
    if published is None:
        flat = traverse_util.flatten_dict(variables, sep="/")
        state_dict = {name: np.asarray(value) for name, value in flat.items()}
    else:
        state_dict = published.to_state_dict(network, variables)
        state_dict |= pretrained.unused
    text = config_to_json(network)
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


def _as_network_has(variables, model, where):
    """Returns the variables with the dtypes of the network, so that they can be loaded again.

    Raises:
      UserError: They do not fit the network.
    """
    wanted = abstract_variables(model)
    check_shapes(flat_shapes(variables), flat_shapes(wanted), f"{where}: the variables to write")
    leaves = [
        _of_dtype(leaf, other.dtype, f"{where}: {jax.tree_util.keystr(path)}")
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(variables), jax.tree.leaves(wanted), strict=True
        )
    ]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


def _of_dtype(leaf, dtype, name):
    if jnp.issubdtype(leaf.dtype, jnp.floating) != jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"{name} is {leaf.dtype}, and must be {dtype}")
    return leaf if leaf.dtype == dtype else leaf.astype(dtype)


def _as_half(values, name):
    if values.dtype != np.float32:
        return values
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise UserError(f"{name} has values too large for half precision")
    return values.astype(np.float16)


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    overwrite: bool,
    half: bool = False,
    network: nn.Module | None = None,
) -> tuple[str, ...]:
    """Converts a checkpoint to another format.

    Args:
      source: As `load_pretrained` takes it.
      destination: The path to write; its ending sets the format.
      overwrite: Replace `destination`; see `save_pretrained`.
      half: Write float16; see `save_pretrained`.
      network: The network, for a checkpoint that does not describe it; see `load_pretrained`.

    Returns:
      The names of the entries that the network never uses. PyTorch and safetensors files keep them.

    Raises:
      UserError: The checkpoint cannot be loaded or written, or `destination` exists.
    """
    _check_vacant(check_destination(destination), overwrite, "--force overwrites it")
    pretrained = load_pretrained(source, network)
    save_pretrained(pretrained, destination, overwrite=overwrite, half=half)
    return tuple(pretrained.unused)


def bundled_names() -> list[str]:
    """Returns the names of the weights that come with the package."""
    return sorted(file.stem for file in BUNDLED_WEIGHTS.glob("*.safetensors"))


def _read_file(path):
    if not is_remote(path):
        return read_state_dict(path)
    with downloaded(path) as local:
        return read_state_dict(local)


def _find(source):
    path = reachable(source)
    if not is_remote(source):
        repair_folder(source)
    if exists(path):
        check_regular(source)
        return path
    if str(source) in bundled_names():
        return BUNDLED_WEIGHTS / f"{source}.safetensors"
    if path.parent != Path() or path.suffix:
        steps = ", ".join(map(str, step_folders(path.parent)))
        raise UserError(
            f"there is no checkpoint {str(source)!r}"
            + (f"; {path.parent} has the steps {steps}" if steps else ": no such file or folder")
        )
    names = ", ".join(bundled_names()) or "none"
    raise UserError(
        f"there is no checkpoint {str(source)!r}: no such file or folder "
        f"(weights that come with the package: {names})"
    )


def _network_for(path, network, saved):
    """Returns the given network or the one in the checkpoint; None if there is neither."""
    if network is not None:
        check_same_network(network, saved, str(path))
        return network
    if isinstance(saved, dict):
        raise UserError(
            f"{path} is a checkpoint of the class {shown(saved['network'])}: load it with "
            "load_pretrained(path, network=...), or name the class: --network module:class for "
            "vitdeblur, --config.network=module:class for evaluate.py"
        )
    return None if saved is None else create_network(saved)


def _load_folder(path, network):
    stored = read_folder_metadata(path)
    network = _network_for(path, network, checked_config(stored.config, str(path)))
    published = published_of(network)
    if published is not None:  # before anything is traced
        check_most_names(stored.shapes, published.paths(network), str(path))
    wanted = abstract_variables(network)
    check_shapes(stored.shapes, flat_shapes(wanted), str(path))
    variables = read_folder_variables(path, wanted, stored.checksums)
    return Pretrained(network, variables, str(path))
