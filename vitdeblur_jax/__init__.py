"""ViTDeblur in JAX: restores defocused images.

    import vitdeblur_jax as vd
    pretrained = vd.load_pretrained("vitdeblur.pth")
    sharp = vd.deblur(image, pretrained)

Images are RGB, channels last; floats lie in [0, 1].

JAX is imported on the first use of one of these names, not with the package, because the commands
set their signal handlers before they import JAX.
"""

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than this package's own
if TYPE_CHECKING:
    from vitdeblur_jax.checkpoints.load_save import load_pretrained as load_pretrained
    from vitdeblur_jax.checkpoints.load_save import save_pretrained as save_pretrained
    from vitdeblur_jax.checkpoints.pretrained import Pretrained as Pretrained
    from vitdeblur_jax.inference.deblurring import deblur as deblur
    from vitdeblur_jax.models import ViTDeblur as ViTDeblur
    from vitdeblur_jax.models import create as create
    from vitdeblur_jax.utils.errors import UserError as UserError

_MODULES = {
    "Pretrained": "checkpoints.pretrained",
    "UserError": "utils.errors",
    "ViTDeblur": "models",
    "create": "models",
    "deblur": "inference.deblurring",
    "load_pretrained": "checkpoints.load_save",
    "save_pretrained": "checkpoints.load_save",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
