"""Mutated files give a result or one `UserError`: no other error, no hang, nothing run or written.

Another seed:

    VITDEBLUR_FUZZ_SEED=7 python -m pytest -m "" tests/test_fuzz.py
"""

import functools
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from safetensors.numpy import save_file

from tests.data.image_io.made_up_files import dng
from tests.fuzzing import (
    mutated,
    mutated_checkpoint,
    mutated_json,
    mutated_json_text,
    read_or_refused,
    watched,
)
from vitdeblur_jax import UserError, load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.pretrained import config_from_json, config_to_json
from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file
from vitdeblur_jax.checkpoints.safetensors_files import read_safetensors
from vitdeblur_jax.data.image_io import (
    DecodedImage,
    Metadata,
    read_image,
    read_rgb,
    size_of,
    write_image,
)
from vitdeblur_jax.data.image_io.formats import is_available
from vitdeblur_jax.models import abstract_variables, create_network
from vitdeblur_jax.utils.json_files import read_json

SEED = int(os.environ.get("VITDEBLUR_FUZZ_SEED", "0"))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _pillow(pixels: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, kind, **options)
    return buffer.getvalue()


def _tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def _images() -> dict[str, bytes]:
    rng = np.random.default_rng(5)
    rgb = rng.integers(256, size=(20, 24, 3), dtype=np.uint8)
    deep = rng.integers(2**16, size=(20, 24, 4), dtype=np.uint16)
    pixels = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[274], exif[271], exif[0x8769] = 6, "Maker", {36867: "2020:01:02 03:04:05"}
    smooth = np.rint(np.linspace(0, 1023, 40 * 48 * 3)).astype(np.uint16).reshape(40, 48, 3)
    made = {
        "png": _pillow(pixels, "PNG", exif=exif, icc_profile=SRGB, dpi=(72, 72)),
        "palette": _pillow(pixels.quantize(16), "PNG", transparency=3),
        "deep_png": imagecodecs.png_encode(deep),
        "jpeg": _pillow(pixels, "JPEG", exif=exif, icc_profile=SRGB, comment=b"c"),
        "progressive": _pillow(pixels, "JPEG", progressive=True, quality=90, subsampling=0),
        "cmyk": _pillow(pixels.convert("CMYK"), "JPEG"),
        "tiff": _tiff(rgb, extratags=[(274, "H", 1, 6, True)]),
        "lzw": _tiff(deep, compression="lzw", photometric="rgb", extrasamples=["unassalpha"]),
        "deflate": _tiff(rgb[..., 0], compression="zlib", predictor=True, rowsperstrip=7),
        "tiles": _tiff(rgb, tile=(16, 16), compression="packbits"),
        "ccitt": _pillow(pixels.convert("1"), "TIFF", compression="group4"),
        "webp": _pillow(pixels, "WEBP", exif=exif),
        "lossless_webp": _pillow(pixels.convert("RGBA"), "WEBP", lossless=True),
        "bmp": _pillow(pixels, "BMP"),
        "avif": _pillow(pixels, "AVIF", exif=exif, icc_profile=SRGB),
        "deep_avif": imagecodecs.avif_encode(smooth, level=90, bitspersample=10),
        "jxl": imagecodecs.jpegxl_encode(deep, lossless=True),
        "lossy_jxl": imagecodecs.jpegxl_encode(rgb, distance=1.0, usecontainer=True),
    }
    if is_available("HEIC"):
        buffer = io.BytesIO()
        metadata = Metadata(exif=exif.tobytes()[6:], icc_profile=SRGB)
        write_image(DecodedImage((smooth >> 2).astype(np.uint8), metadata=metadata), buffer, "heic")
        made["heic"] = buffer.getvalue()
    return made | ({"dng": dng(smooth[..., 0], 6)} if is_available("RAW") else {})


def _fuzz(
    files: list[Path],
    read: Callable[[Path], object],
    cases: int,
    change: Callable[[bytes, np.random.Generator, list[bytes]], bytes] = mutated,
    place_of: Callable[[Path], Path] = lambda path: path,
) -> None:
    """Reads mutations of each file in turn; prints how many were read and how many refused.

    Args:
      files: Sound ones.
      read: Called with the place of the file that is mutated.
      cases: How many mutations.
      change: See `mutated`.
      place_of: Maps a file to the path to read: by default the file itself.
    """
    for place in dict.fromkeys(map(place_of, files)):
        read(place)  # what is imported late is imported now
    contents = [path.read_bytes() for path in files]
    rng, counts = np.random.default_rng(SEED), Counter()
    for number in range(cases):
        path, sound = files[number % len(files)], contents[number % len(files)]
        path.write_bytes(change(sound, rng, contents))
        try:
            with watched():
                counts[read_or_refused(functools.partial(read, place_of(path)), UserError)] += 1
        except BaseException as error:
            error.add_note(f"case {number} of seed {SEED}: {path.name} {path.read_bytes()[:80]!r}")
            raise
        path.write_bytes(sound)
    print(f"{cases} mutations of {len(files)} files: {counts[True]} read, {counts[False]} refused")
    assert counts[False] > cases // 20  # else the mutations do not reach the reader


def _written(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]


def _read_image(path: Path) -> None:
    decoded = read_image(path)
    assert decoded.pixels.dtype in (np.uint8, np.uint16)
    assert decoded.pixels.ndim == 3
    assert min(decoded.pixels.shape) > 0


def _read_for_a_data_set(path: Path) -> None:
    size = size_of(path)
    height, width, _ = read_rgb(path).shape
    assert size in (None, (width, height), (height, width))


@pytest.mark.parametrize("cases", [400, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("read", [_read_image, _read_for_a_data_set])
def test_mutated_images(cases, read, tmp_path):
    _fuzz(_written(tmp_path, _images()), read, cases)


def _state_dict() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    kinds = {"a.weight": np.float32, "b": np.float16, "c.bias": np.float64, "steps": np.int64}
    return {name: rng.integers(9, size=(3, 4)).astype(dtype) for name, dtype in kinds.items()}


@pytest.mark.parametrize("cases", [160, pytest.param(4000, marks=pytest.mark.slow)])
def test_mutated_checkpoint_files(cases, tmp_path, data_folder):
    for name in ("zip.pth", "legacy.pth", "protocol4.pth"):
        shutil.copy(data_folder / "pytorch_files" / name, tmp_path)
    save_file(_state_dict(), tmp_path / "state.safetensors", {"config": "{}"})

    def read(path):
        return read_safetensors(path) if path.suffix == ".safetensors" else read_pytorch_file(path)

    _fuzz(sorted(tmp_path.iterdir()), read, cases, mutated_checkpoint)


@pytest.mark.parametrize("cases", [24, pytest.param(600, marks=pytest.mark.slow)])
def test_mutated_checkpoints_of_a_model(cases, tmp_path, small):
    """Whole: their configuration, names and shapes too; folders file by file."""
    for name in ("model.safetensors", "model.pth", "folder"):
        save_pretrained(small, tmp_path / name)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    places = {path: tmp_path / path.relative_to(tmp_path).parts[0] for path in files}
    _fuzz(files, load_pretrained, cases, mutated_checkpoint, places.get)


@pytest.mark.parametrize("cases", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_mutated_json(cases, tmp_path, small):
    config = {"config": small.config.to_dict(), "metrics": {"psnr": 31.5, "of": [1, {"a": None}]}}
    files = _written(tmp_path, {"config.json": json.dumps(config).encode()})
    _fuzz(files, read_json, cases, mutated_json_text)


@pytest.mark.parametrize("cases", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_configurations_of_a_model(cases, tmp_path, small):
    """Sound JSON with other values: nothing is traced or allocated before it is checked."""
    files = _written(tmp_path, {"config.json": config_to_json(small.model).encode()})

    def read(path):
        config = config_from_json(path.read_text(), str(path))
        if not isinstance(config, dict):  # of a class
            abstract_variables(create_network(config))

    def change(data, rng, _):
        return json.dumps(mutated_json(json.loads(data), rng)).encode()

    _fuzz(files, read, cases, change)
