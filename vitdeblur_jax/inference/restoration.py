"""One whole image: any size in, the same size out, in memory that does not grow with height.

The image is cut into overlapping windows. Their feature maps are averaged where they overlap;
the image head then turns the whole map into the image. Both go from top to bottom: a row of
windows is added up, the map's rows that no later window touches are finished, the head makes
pixels of them in square tiles, and the rows leave. Every tile has one fixed size, so two functions
are compiled, whatever the size of the image. `tiling.py` has the arithmetic around them.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from vitdeblur_jax.distributed.sharding import batch_sharded, local_mesh, replicated
from vitdeblur_jax.inference.tiling import image_fault, restored_rows
from vitdeblur_jax.models import ViTDeblur
from vitdeblur_jax.models.vitdeblur.configuration import check_stride, stride_note
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell


@functools.partial(jax.jit, static_argnames="model")
def window_features(
    model: ViTDeblur, variables: dict, windows: Float[ArrayLike, "batch window window channels"]
) -> Float[Array, "batch side side features"]:
    """Returns the float32 feature maps of a batch of windows."""
    return model.apply(variables, windows, method="features").astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="model")
def head_tile(
    model: ViTDeblur,
    variables: dict,
    image: Float[ArrayLike, "window window channels"],
    features: Float[ArrayLike, "side side features"],
    rows: Int[ArrayLike, " padded"],
    columns: Int[ArrayLike, " padded"],
) -> Float[Array, "tile tile 3"]:
    """Returns a tile of the restored image.

    Args:
      model: the model.
      variables: its variables.
      image: a square of the input.
      features: the blended map over that square, trimmed.
      rows: for each padded row of the tile, the row of `features` it reads: reflection at the
        image's borders, and nothing else, lies in these indices.
      columns: likewise.
    """

    def apply_head(module):
        joined = module.image_head.add_input(image[None], features[None])
        return module.image_head.to_image(joined[:, rows][:, :, columns])[0]

    return model.apply(variables, method=apply_head)


def restore(
    model: ViTDeblur,
    variables: dict,
    image: np.ndarray,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
    on_windows: Callable[[int], None] = lambda done: None,
) -> Iterator[Float[np.ndarray, "rows width 3"]]:
    """Returns an iterator over the restored image from top to bottom, float32, not clipped.

    Args:
      model: the model.
      variables: its variables.
      image: `(height, width, 3 * views)` RGB; uint8, uint16 or float in [0, 1]. A side shorter
        than a window is extended by reflection, as often as needed, and cropped back; so are all
        sides by the model's margin.
      stride: step between windows, pixels; by default the model's. A multiple of the model's
        patch_stride may leave edges beaded.
      batch_size: windows computed at once; by default 1 a CPU and 8 another device. It is
        rounded up to a multiple of the number of local devices.
      on_windows: called with the number of windows just done.

    Raises:
      UserError: the image's shape, dtype or values are wrong, the stride leaves gaps, or, while
        rows are taken, the network's output is not finite.
    """
    check_image(model, image)
    check_options(model, stride, batch_size)
    mesh = local_mesh()
    placed = jax.device_put(variables, replicated(mesh))
    # The tiles of one image are few: one device makes them all.
    head = {"params": {"image_head": variables["params"]["image_head"]}}
    head = jax.device_put(head, jax.local_devices()[0])
    rows = restored_rows(
        model,
        image,
        lambda windows: window_features(
            model, placed, jax.device_put(windows, batch_sharded(mesh))
        ),
        functools.partial(head_tile, model, head),
        stride=model.stride if stride is None else stride,
        batch_size=_whole_batch(batch_size, mesh),
        on_windows=on_windows,
    )
    return _finite(rows)


def _finite(image_rows):
    for rows in image_rows:
        if not np.isfinite(rows).all():
            raise UserError(
                "the network's output is not finite: the checkpoint may be damaged, or may need "
                "float32"
            )
        yield rows


def _whole_batch(batch_size, mesh):
    devices = mesh.devices.flat
    if batch_size is None:
        batch_size = sum(1 if device.platform == "cpu" else 8 for device in devices)
    return -(-batch_size // len(devices)) * len(devices)


def check_image(model: ViTDeblur, image: np.ndarray) -> None:
    """Raises `UserError` unless `restore` takes the image."""
    fault = image_fault(model, image)
    if fault is not None:
        raise UserError(fault)


def check_options(model: ViTDeblur, stride: int | None, batch_size: int | None) -> None:
    """Raises `UserError` unless `restore` takes them; None stands for the default."""
    if stride is not None:
        check_stride(model, stride)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")


def tell_of_stride(config, stride: int | None) -> None:
    """Prints a note if windows `stride` pixels apart may leave edges beaded.

    Args:
      config: the model, or its configuration.
      stride: step between windows, pixels; None: the model's.
    """
    note = stride_note(config, stride or config.stride)
    if note is not None:
        tell(f"note: {note}")
