"""Restores one image of the page, and makes previews, results and maps of it."""

import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import flax.linen as nn
import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from vitdeblur_jax.checkpoints.addresses import is_address
from vitdeblur_jax.checkpoints.hub_addresses import SCHEME
from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
from vitdeblur_jax.checkpoints.web_files import parse_web_address
from vitdeblur_jax.data.image_io import (
    DecodedImage,
    Metadata,
    check_can_be_written,
    read_image,
    what_is_lost,
    write_image,
)
from vitdeblur_jax.inference.chosen_tiling import count_tiles, tell_of_tiling
from vitdeblur_jax.inference.deblurring import check_strength
from vitdeblur_jax.inference.pixels import as_dtype, as_float
from vitdeblur_jax.inference.restoration import restore
from vitdeblur_jax.inference.restore_files import change_map, check_one_view
from vitdeblur_jax.inference.restore_plan import result_name
from vitdeblur_jax.inference.strength import at_strength
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.web.jobs import Job

BEFORE, AFTER, THUMBNAIL = "before.png", "after.png", "thumbnail.png"
_RESTORED = "restored"  # float32, not clipped
_THUMBNAIL_SIZE = 192
_LONGEST_NAME = 150


class Models:
    """The models to choose from; the last one used stays in memory."""

    def __init__(self, checkpoints: Sequence[str], network: nn.Module | None):
        """Loads the first model.

        Args:
          checkpoints: Paths, as `load_pretrained` takes them; the bundled model comes after them.
          network: The network of these checkpoints, or None.

        Raises:
          UserError: The checkpoint cannot be loaded.
        """
        self._checkpoints, self._network = (*checkpoints, None), network
        self.get = functools.lru_cache(maxsize=1)(self._load)
        self.get(0)
        self.names = _distinct([*map(_shown, checkpoints), "bundled model"])

    def _load(self, index: int) -> Pretrained:
        checkpoint = self._checkpoints[index]
        pretrained = load_pretrained(checkpoint, None if checkpoint is None else self._network)
        check_one_view(pretrained)
        tell_of_tiling(pretrained.model, None)
        return on_local_devices(pretrained)


def _shown(checkpoint: str) -> str:
    """Returns what others may see of a checkpoint: no folders of this machine, no secrets."""
    if checkpoint.startswith(SCHEME):
        return checkpoint
    if is_address(checkpoint):
        return parse_web_address(checkpoint).shown
    return Path(checkpoint).absolute().name


def _distinct(names: Sequence[str]) -> list[str]:
    """Numbers the names that are there already."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        found.append(next(new for new in itertools.chain([name], numbered) if new not in found))
    return found


def file_name(given: str) -> str:
    """Returns a name to show and to suggest, without folders and control characters."""
    name = PurePosixPath(given.replace("\\", "/")).name
    name = "".join(character for character in name if character.isprintable()).strip()
    stem, dot, suffix = name.rpartition(".")
    short = f"{stem[:_LONGEST_NAME]}{dot}{suffix[:20]}" if dot else name[:_LONGEST_NAME]
    return short.lstrip(".") or "image"


def restore_job(
    job: Job, check_room: Callable[[str, int], None], load: Callable[[int], Pretrained]
) -> None:
    """Restores the image of a job, and writes what the page shows of it.

    Args:
      job: The job, whose file is uploaded.
      check_room: Raises `UserError` if there is no disk space for so many bytes, naming the image.
      load: Returns the model of an index.

    Raises:
      UserError: The file is no image, or the image cannot be restored or written.
      Cancelled: The job was removed.
    """
    try:
        _restore(job, load, check_room)
    except OSError as error:
        folder = job.folder.parent
        raise UserError(f"{job.name}: cannot be stored in {folder} ({one_line(error)})") from error


def _restore(job, load, check_room):
    image = _read(job)
    check_can_be_written(result_name(Path(job.name)))
    job.notes = (*image.notes, *what_is_lost(image, _suffix(job)))
    height, width = image.pixels.shape[:2]
    check_room(job.name, height * width * (np.dtype(np.float32).itemsize + 2) * 3)
    job.advance()
    _write_preview(job, image, _eight_bits(image.pixels), BEFORE)
    job.size = width, height
    pretrained = load(job.model)
    job.total = count_tiles(pretrained.model, height, width)
    rows = restore(pretrained.model, pretrained.variables, image.pixels, on_tiles=job.advance)
    with open(job.folder / _RESTORED, "wb") as file:
        for block in rows:
            file.write(np.ascontiguousarray(block, np.float32))
            job.advance()
    _write_preview(job, image, at_strength(image.pixels, _kept(job, image), 1.0, np.uint8), AFTER)


def result(job: Job, strength: float) -> tuple[str, bytes]:
    """Returns the name and the bytes of the file that `vitdeblur restore --strength` writes."""
    check_strength(strength)
    name = result_name(Path(job.name))
    image, encoded = _at_strength(job, strength), io.BytesIO()
    write_image(image, encoded, _suffix(job))
    return name, encoded.getvalue()


def change(job: Job, strength: float) -> tuple[str, bytes]:
    """Returns the name and the bytes of the map of `vitdeblur restore --change`, as PNG."""
    check_strength(strength)
    given, encoded = _read(job).pixels, io.BytesIO()
    changed = change_map(given, _at_strength(job, strength).pixels)
    write_image(changed, encoded, ".png")
    return f"{Path(job.name).stem}_change.png", encoded.getvalue()


def _at_strength(job: Job, strength: float) -> DecodedImage:
    image = _read(job)
    pixels = at_strength(image.pixels, _kept(job, image), strength, image.pixels.dtype)
    return dataclasses.replace(image, pixels=pixels)


def _read(job: Job) -> DecodedImage:
    return read_image(job.upload, job.name, accept_damage=True)


def _kept(job, image):
    return np.memmap(job.folder / _RESTORED, np.float32, "r", shape=image.pixels.shape)


def _suffix(job: Job) -> str:
    return Path(result_name(Path(job.name))).suffix


def _eight_bits(pixels: Num[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    return pixels if pixels.dtype == np.uint8 else as_dtype(as_float(pixels), np.uint8)


def _write_preview(job, image, pixels, name):
    """Writes a PNG on white with the colors of the image, and for `BEFORE` a thumbnail of it."""
    if image.alpha is not None:
        alpha = as_float(image.alpha)[..., None]
        pixels = as_dtype(1 - alpha * (1 - as_float(pixels)), np.uint8)
    colors = Metadata(icc_profile=image.metadata.icc_profile, png_color=image.metadata.png_color)
    shown = DecodedImage(pixels, None, image.is_gray, colors)
    write_image(shown, job.folder / name)
    if name == BEFORE:
        small = Image.fromarray(pixels)
        small.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE))
        write_image(dataclasses.replace(shown, pixels=np.asarray(small)), job.folder / THUMBNAIL)
