"""A pair of a data set: a blurred image and its sharp one, in files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitdeblur_jax.data.image_io import Samples, read_rgb, size_of
from vitdeblur_jax.utils.errors import UserError


@dataclass(frozen=True)
class Pair:
    """A blurred image and its sharp one.

    Attributes:
        name: Unique in its data set; the stem under which a result is saved.
        source: The blurred image: one view, or the left and the right one.
        target: The sharp image; None where there is none.
        by: How its files were paired: "name" or "order" (see `pairing`); "" for a single file.
    """

    name: str
    source: tuple[Path, ...]
    target: Path | None
    by: str = field(default="", compare=False)


class UnpairedError(UserError):
    """Some images of a data set have no partner.

    Attributes:
        pairs: The complete pairs.
    """

    def __init__(self, message: str, pairs: Sequence[Pair] = ()):
        super().__init__(message)
        self.pairs = list(pairs)


def describe(pairs: Sequence[Pair]) -> str:
    """Describes in one line how files were paired; "" if each pair is one file.

    For example "paired by order, first: 1P0A0917 <-> 1P0A0918, last: 1P0A2002 <-> 1P0A2003".
    """
    ways = sorted({pair.by for pair in pairs} - {""})
    if not ways:
        return ""
    first, last = (_in_words(pairs[place]) for place in (0, -1))
    return f"paired by {' and '.join(ways)}, first: {first}, last: {last}"


def _in_words(pair: Pair) -> str:
    paths = pair.source if pair.target is None else (*pair.source, pair.target)
    return " <-> ".join(path.stem for path in paths)


def check_sizes(pairs: Iterable[Pair]) -> None:
    """Compares the sizes in the file headers, which is fast.

    EXIF may rotate one file of a pair and not the other, so `read_pair` compares width and height.

    Raises:
        UserError: The files of a pair differ in size.
    """
    for pair in pairs:
        paths = pair.source if pair.target is None else (*pair.source, pair.target)
        sizes = {path: size for path in paths if (size := size_of(path)) is not None}
        if len({tuple(sorted(size)) for size in sizes.values()}) > 1:
            first = next(iter(sizes))
            other = next(p for p in sizes if sorted(sizes[p]) != sorted(sizes[first]))
            raise _sizes_differ(first, sizes[first], other, sizes[other])


def _sizes_differ(path, size, other, other_size):
    sizes = [f"{width} x {height}" for width, height in (size, other_size)]
    return UserError(f"sizes differ: {path} is {sizes[0]}, {other} is {sizes[1]}")


def read_pair(pair: Pair) -> tuple[Samples, Samples | None]:
    """Reads the pixels of a pair.

    Returns:
        The source, H x W x (3 times views), the left view first, and the target, H x W x 3, or
        None; each uint8 or uint16 as its file is.

    Raises:
        UserError: A file cannot be read, or the sizes or the bit depths of the views differ.
    """
    paths = pair.source if pair.target is None else (*pair.source, pair.target)
    images = [read_rgb(path) for path in paths]
    for path, image in zip(paths[1:], images[1:], strict=True):
        if image.shape != images[0].shape:
            raise _sizes_differ(paths[0], images[0].shape[1::-1], path, image.shape[1::-1])
    views = images[: len(pair.source)]
    if views[0].dtype != views[-1].dtype:
        depths = f"{views[0].dtype} and {views[-1].dtype}"
        raise UserError(f"depths differ: {paths[0]} and {pair.source[-1]} are {depths}")
    return np.concatenate(views, axis=-1), None if pair.target is None else images[-1]
