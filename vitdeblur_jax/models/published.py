"""Converts published checkpoints exactly, in both directions.

The file of a network defines one `Entry` per variable. A published network's BGR channel order or
other value range is absorbed by the `Layout` of an entry if that is exact.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
from flax import traverse_util

from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.shapes import few_of

Path = tuple[str, ...]
Shape = tuple[int, ...]
StateDict = Mapping[str, np.ndarray]

_WEIGHTS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


class Layout(NamedTuple):
    """A conversion of an array and its inverse.

    Attributes:
      to_flax: Converts from the published layout to Flax.
      to_published: The inverse.
    """

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_published: Callable[[np.ndarray], np.ndarray]

    def then(self, other: "Layout") -> "Layout":
        """Returns the layout that applies this layout and then `other`."""
        return Layout(
            lambda value: other.to_flax(self.to_flax(value)),
            lambda value: self.to_published(other.to_published(value)),
        )


def transposed(*axes: int) -> Layout:
    """Returns a layout with permuted axes."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Layout(lambda value: value.transpose(axes), lambda value: value.transpose(back))


def reshaped(published: Shape, ours: Shape) -> Layout:
    """Returns a layout of the same values in another shape."""
    return Layout(lambda value: value.reshape(ours), lambda value: value.reshape(published))


def reversed_along(axis: int) -> Layout:
    """Returns a layout with one axis reversed: BGR becomes RGB along an axis of three."""
    return Layout(lambda value: np.flip(value, axis), lambda value: np.flip(value, axis))


def rolled(shift: int, axis: int) -> Layout:
    """Returns a layout with an axis rolled.

    A shift of 3 exchanges two views of three channels and leaves a single view unchanged.
    """
    return Layout(
        lambda value: np.roll(value, shift, axis), lambda value: np.roll(value, -shift, axis)
    )


def bgr_views(axis: int) -> Layout:
    """Returns a layout that converts an axis of one or two views from BGR to RGB."""
    return reversed_along(axis).then(rolled(3, axis))  # the reversal swaps two views, too


SAME = Layout(lambda value: value, lambda value: value)
LINEAR = transposed(1, 0)  # PyTorch's (out, in)
CONV = transposed(2, 3, 1, 0)  # PyTorch's (out, in, height, width), also depthwise
POINTWISE = Layout(  # PyTorch's 1 x 1 convolution (out, in, 1, 1) as a dense layer
    lambda value: value[:, :, 0, 0].T, lambda value: value.T[:, :, None, None]
)
CONV_TRANSPOSE = transposed(2, 3, 1, 0)  # PyTorch's (in, out, height, width): ours is
# (height, width, out, in), as `nn.ConvTranspose(transpose_kernel=True)` takes it.


class Entry(NamedTuple):
    """A variable in a published checkpoint.

    Attributes:
      name: The name in the checkpoint.
      layout: The layout of the array in the checkpoint.
    """

    name: str
    layout: Layout = SAME


Entries = Mapping[Path, Entry]


def from_published(state_dict: StateDict, entries: Entries) -> dict:
    """Returns the variables, float32, from a state dict that has all entries."""
    flat = {
        path: np.ascontiguousarray(layout.to_flax(np.asarray(state_dict[name], np.float32)))
        for path, (name, layout) in entries.items()
    }
    return traverse_util.unflatten_dict(flat)


def to_published(variables: Mapping, entries: Entries) -> dict[str, np.ndarray]:
    """Returns the state dict of a published checkpoint."""
    flat = traverse_util.flatten_dict(variables)
    return {
        name: np.ascontiguousarray(layout.to_published(np.asarray(flat[path])))
        for path, (name, layout) in entries.items()
    }


def published_shapes(shapes: Mapping[Path, Shape], entries: Entries) -> dict[str, Shape]:
    """Returns the shapes of the published entries, by name, from the shapes of the variables."""
    return {
        name: layout.to_published(np.broadcast_to(np.float32(0), shapes[path])).shape
        for path, (name, layout) in entries.items()
    }


def conv(path: Path, name: str, layout: Layout = CONV, bias: bool = True) -> dict[Path, Entry]:
    """Returns the entries of a convolution, or of a dense layer with `layout=LINEAR`."""
    entries = {("params", *path, "kernel"): Entry(f"{name}.weight", layout)}
    return entries | ({("params", *path, "bias"): Entry(f"{name}.bias")} if bias else {})


def keras_conv(
    path: Path, name: str, kernel: Layout = SAME, bias: Layout = SAME
) -> dict[Path, Entry]:
    """Returns the entries of a Keras convolution, whose kernels have the layout of Flax."""
    return {
        ("params", *path, "kernel"): Entry(f"{name}/kernel:0", kernel),
        ("params", *path, "bias"): Entry(f"{name}/bias:0", bias),
    }


def norm(path: Path, name: str) -> dict[Path, Entry]:
    """Returns the entries of a norm's scale and bias."""
    return {
        ("params", *path, "scale"): Entry(f"{name}.weight"),
        ("params", *path, "bias"): Entry(f"{name}.bias"),
    }


def batch_norm(path: Path, name: str) -> dict[Path, Entry]:
    """Returns the entries of a batch norm with its running statistics."""
    return norm(path, name) | {
        ("batch_stats", *path, "mean"): Entry(f"{name}.running_mean"),
        ("batch_stats", *path, "var"): Entry(f"{name}.running_var"),
    }


def position_name(index: int) -> str:
    """Returns the name of an entry by its position, for checkpoints that have no names."""
    return f"param_{index:03d}"


def joined(parts: Iterable[Entries]) -> dict[Path, Entry]:
    """Returns the union of the entries of several parts."""
    return {path: entry for part in parts for path, entry in part.items()}


def without_prefix(state_dict: StateDict, wanted: Iterable[str], where: str) -> StateDict:
    """Removes the prefix of the `wanted` names from a state dict.

    Examples of prefixes are `module.`, `_orig_mod.`, `model.` and `net_g.`. Names without the
    prefix are unchanged.

    Args:
      state_dict: Arrays by name.
      wanted: The names without a prefix.
      where: The file's name, for errors.

    Raises:
      UserError: Two prefixes are equally frequent, before most of the names.
    """
    wanted = set(wanted)
    longest = max(map(len, wanted))
    prefixes = Counter(
        name[:start]
        for name in state_dict
        for start in _starts(name, longest)
        if name[start:] in wanted
    )
    (prefix, count), *next_one = prefixes.most_common(2) or [("", 0)]
    if next_one and next_one[0][1] == count > len(wanted) / 2:
        pair = " and ".join(map(shown, (prefix, next_one[0][0])))
        raise UserError(f"{where} holds the network twice, with the prefixes {pair}; save it once")
    stripped = {n[len(prefix) :]: value for n, value in state_dict.items() if n.startswith(prefix)}
    others = {n: value for n, value in state_dict.items() if not n.startswith(prefix)}
    return {**others, **stripped}


def check_weights(state_dict: StateDict, names: Iterable[str], where: str) -> None:
    """Raises `UserError` if an entry with one of the names does not have a float dtype."""
    wrong = [
        f"{name} is {state_dict[name].dtype}"
        for name in names
        if name in state_dict and state_dict[name].dtype not in _WEIGHTS
    ]
    if wrong:
        raise UserError(
            f"{where}: weights are float16, bfloat16, float32 or float64; {few_of(wrong)}"
        )


def _starts(name, longest):
    """Returns the starts of the dotted parts in the last `longest` characters of a name."""
    first = max(0, len(name) - longest)
    return [at for at in range(first, len(name)) if at == 0 or name[at - 1] == "."]
