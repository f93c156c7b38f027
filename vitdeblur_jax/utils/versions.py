"""The software and devices that a result was computed with."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    *("vitdeblur_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("numpy", "pillow"),
)


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # some come with an extra
            continue
    return found


def own_version() -> str:
    """Returns the version of this package."""
    return installed(["vitdeblur_jax"]).get("vitdeblur_jax", "not installed")


def versions() -> dict[str, str | int]:
    """Returns the versions of Python and of the installed packages, and the devices."""
    import jax  # late, so that `installed` works without it

    return {
        **installed(_PACKAGES),
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }
