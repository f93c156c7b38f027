"""Photographs from files and into files: the one reader and the one writer of the whole project."""

from vitdeblur_jax.data.image_io.formats import IMAGE_SUFFIXES
from vitdeblur_jax.data.image_io.listing import (
    READABLE_SUFFIXES,
    left_out,
    list_photographs,
    photographs_in,
    subfolders,
)
from vitdeblur_jax.data.image_io.photograph import Metadata, Photograph, Samples, as_8_bits
from vitdeblur_jax.data.image_io.reading import read_photograph, read_rgb, size_of
from vitdeblur_jax.data.image_io.writing import (
    check_quality,
    is_lossy,
    what_is_lost,
    write_photograph,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "READABLE_SUFFIXES",
    "Metadata",
    "Photograph",
    "Samples",
    "as_8_bits",
    "check_quality",
    "is_lossy",
    "left_out",
    "list_photographs",
    "photographs_in",
    "read_photograph",
    "read_rgb",
    "size_of",
    "subfolders",
    "what_is_lost",
    "write_photograph",
]
