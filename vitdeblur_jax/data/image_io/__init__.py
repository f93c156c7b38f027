"""Reads and writes image files. The whole package uses this reader and this writer."""

from vitdeblur_jax.data.image_io.decoded_image import DecodedImage, Metadata, Samples, as_8_bits
from vitdeblur_jax.data.image_io.formats import IMAGE_SUFFIXES, RAW_SUFFIXES
from vitdeblur_jax.data.image_io.listing import (
    READABLE_SUFFIXES,
    images_in,
    left_out,
    list_images,
    subfolders,
)
from vitdeblur_jax.data.image_io.reading import read_image, read_rgb, size_of
from vitdeblur_jax.data.image_io.writing import (
    check_can_be_written,
    check_quality,
    is_lossy,
    what_is_lost,
    write_image,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "RAW_SUFFIXES",
    "READABLE_SUFFIXES",
    "DecodedImage",
    "Metadata",
    "Samples",
    "as_8_bits",
    "check_can_be_written",
    "check_quality",
    "images_in",
    "is_lossy",
    "left_out",
    "list_images",
    "read_image",
    "read_rgb",
    "size_of",
    "subfolders",
    "what_is_lost",
    "write_image",
]
