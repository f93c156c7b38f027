"""Image files built in a few lines."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

from vitdeblur_jax.data.image_io import DecodedImage, Metadata

GRAY = imagecodecs.cms_profile("gray", gamma=2.2)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **{"metadata": None, **options})
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(colour: int, depth: int, size: tuple[int, int], rows: list[bytes], *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


_XYZ_TO_SRGB = (3.2404542, -1.5371385, -0.4985314, -0.969266, 1.8760108, 0.041556)
_XYZ_TO_SRGB += (0.0556434, -0.2040259, 1.0572252)


def dng(
    mosaic: np.ndarray,
    orientation: int = 1,
    neutral: tuple[float, ...] = (1, 1, 1),
    xmp: bytes = b"",
) -> bytes:
    """Returns a DNG of 14 bits with the pattern RGGB, of a camera that sees sRGB's primaries."""

    def rationals(values: tuple[float, ...]) -> list[int]:
        return [part for value in values for part in (round(1e4 * value), 10_000)]

    tags = [
        *[(50706, 1, 4, b"\1\4\0\0"), (50708, 2, None, "Maker Model"), (271, 2, None, "Maker")],
        *[(272, 2, None, "Model"), (33421, 3, 2, (2, 2)), (33422, 1, 4, b"\0\1\1\2")],
        *[(50714, 3, 1, 0), (50717, 4, 1, 16_383), (50778, 3, 1, 21), (274, 3, 1, orientation)],
        *[(50721, 10, 9, rationals(_XYZ_TO_SRGB)), (50728, 5, 3, rationals(neutral))],
    ]
    tags += [(700, 1, len(xmp), xmp)] if xmp else []
    return tiff(mosaic, photometric="cfa", extratags=tags)


def exif_block(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "Maker"
    exif[0x8769], exif[0x8825] = {36867: "2020:01:02 03:04:05"}, {1: "N"}
    return exif


def loaded(exif: bytes) -> Image.Exif:
    assert exif.startswith((b"II*\0", b"MM\0*"))
    result = Image.Exif()
    result.load(exif)
    return result


def kinds_of_images() -> list[DecodedImage]:
    made = []
    for dtype in (np.uint8, np.uint16):
        for is_gray in (False, True):
            for has_alpha in (False, True):
                pixels = noise(6, 5, 3, dtype=dtype)
                pixels = np.repeat(pixels[..., :1], 3, axis=-1) if is_gray else pixels
                alpha = noise(6, 5, dtype=dtype) if has_alpha else None
                exif = exif_block()
                del exif[274]
                stream = exif.tobytes().removeprefix(b"Exif\0\0")
                profile = GRAY if is_gray else SRGB
                metadata = Metadata(icc_profile=profile, exif=stream)
                made.append(DecodedImage(pixels, alpha, is_gray, metadata))
    return made
