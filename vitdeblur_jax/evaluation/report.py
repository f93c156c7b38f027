"""The report: report.html, a page with the scores, and the images that it shows.

The page opens from disk and needs no network. The files of image `i` by method `m` are `i-m.png`,
`i-m-thumbnail.jpg` and `i-m-error.jpg` in images/. They are numbered, because names may contain any
characters.
"""

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any

import imagecodecs
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitdeblur_jax.data.image_io import size_of
from vitdeblur_jax.utils.buckets import AnyPath, as_user_error
from vitdeblur_jax.utils.files import replaced_when_whole, write_text

REPORT = "report.html"
WHITE_ERROR = 0.1
_THUMBNAIL_SIDE = 320
_TARGET = 0


def add_image(
    folder: AnyPath,
    image_number: int,
    method_number: int,
    pixels: UInt8[np.ndarray, "height width 3"],
    target: UInt8[np.ndarray, "height width 3"] | None,
) -> None:
    """Writes the files of one image for the page: the image, a thumbnail and an error map.

    Several threads and processes may call this function.

    Args:
      folder: The folder of the report.
      image_number: Position in `scores["images"]`, from 0.
      method_number: Position in `scores["methods"]`, from 1; 0 is the sharp image.
      pixels: RGB.
      target: The same part of the sharp image. None writes no error map.

    Raises:
      UserError: A file cannot be written.
    """
    with as_user_error(folder / "images", "made"):
        (folder / "images").mkdir(parents=True, exist_ok=True)
    name = f"{image_number}-{method_number}"
    with replaced_when_whole(_path(folder, f"{name}.png")) as temporary:
        temporary.write_bytes(_encode_quickly(pixels))
    thumbnail = Image.fromarray(pixels)
    thumbnail.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), reducing_gap=2)
    _write_jpeg(thumbnail, _path(folder, f"{name}-thumbnail.jpg"))
    if target is not None:
        _write_jpeg(Image.fromarray(error_map(pixels, target)), _path(folder, f"{name}-error.jpg"))


def error_map(
    pixels: UInt8[np.ndarray, "height width 3"], target: UInt8[np.ndarray, "height width 3"]
) -> UInt8[np.ndarray, "height width"]:
    """Returns the absolute differences, averaged over the channels, as a gray image.

    Black is no error. White is an error of at least `WHITE_ERROR` times the data range. The scale
    is linear.
    """
    difference = np.abs(pixels.astype(np.int16) - target)
    mean = difference.sum(-1, dtype=np.float32) / 3
    return np.rint(np.minimum(mean / WHITE_ERROR, 255)).astype(np.uint8)


def write_report(out: AnyPath, scores: dict[str, Any]) -> AnyPath:
    """Writes report.html. The page leaves out images that `add_image` did not write.

    Args:
      out: The folder of the images.
      scores: The data that `vitdeblur_jax.evaluation.metrics_json` describes.

    Returns:
      The path of the page.

    Raises:
      UserError: The page cannot be written.
    """
    data = {"scores": scores, "sizes": _sizes(out, scores), "whiteError": WHITE_ERROR}
    template = (files(__package__) / "report.html").read_text(encoding="utf-8")
    page = template.replace("{{policy}}", _policy(template)).replace("{{data}}", _as_json(data))
    path = out / REPORT
    write_text(path, page)
    return path


def _path(folder: AnyPath, name: str) -> AnyPath:
    return folder / "images" / name


def _encode_quickly(pixels: np.ndarray) -> bytes:
    # Takes half the time of zlib's default strategy; files are 2 % larger.
    strategy, filters = imagecodecs.PNG.STRATEGY.RLE, imagecodecs.PNG.FILTER.UP
    return imagecodecs.png_encode(pixels, level=1, strategy=strategy, filter=filters)


def _write_jpeg(image: Image.Image, path: AnyPath) -> None:
    with replaced_when_whole(path) as temporary:
        image.save(temporary, "JPEG", quality=85)


def _sizes(out: AnyPath, scores: dict[str, Any]) -> list[list[tuple[int, int] | None]]:
    """Returns the width and height by image and method, the sharp image first."""
    return [
        [
            size_of(_path(out, f"{image}-{number}.png"))
            if number == _TARGET or name in scores["methods"][number - 1]["images"]
            else None
            for number in range(len(scores["methods"]) + 1)
        ]
        for image, name in enumerate(scores["images"])
    ]


def _as_json(data: dict[str, Any]) -> str:
    """Returns ASCII JSON that is safe to embed in HTML."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(template: str) -> str:
    """Returns a Content Security Policy that allows only the page's script, style and images."""
    allowed = {tag: _digest(template, tag) for tag in ("script", "style")}
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: data:; "
        f"script-src '{allowed['script']}'; style-src '{allowed['style']}'"
    )


def _digest(template: str, tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
