"""The software and devices that a result was computed with."""

import platform
from importlib.metadata import PackageNotFoundError, version

import jax

_PACKAGES = (
    *("vitdeblur_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("numpy", "pillow"),
)


def versions() -> dict[str, str | int]:
    """Returns the versions of Python and of the installed packages, and the devices."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:  # grain comes with an extra
            continue
    return {
        **installed,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }
