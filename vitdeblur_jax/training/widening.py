"""A wider model that restores as a narrower one does, to go on training with.

Whatever the narrower model computes, the wider one computes in a part of its channels.
"""

import ml_collections
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from vitdeblur_jax.checkpoints import FREE_MODEL_KEYS, Pretrained
from vitdeblur_jax.errors import UserError

_GROWING = (
    *("primary_width", "decoder_width"),
    *("primary_heads", "contextual_heads", "decoder_heads"),
)

_CLASS_TOKEN = ("params", "tokenizer", "class_token")
_WRITING_LAYERS = ("patch_embedding", "output", "contract")  # of all blocks: attention, MLP

_Path = tuple[str, ...]
_Array = Float[np.ndarray, "..."]


def check_can_be_widened(narrow: Pretrained, config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` unless `config` is the model of `narrow`, its widths in one ratio larger.

    The numbers of heads grow with the widths, so that every head stays as wide as it is.
    """
    ratio = config.primary_width / narrow.config.primary_width
    if ratio < 1:
        raise UserError(
            f"{narrow.source} is wider than the model: its primary_width is "
            f"{narrow.config.primary_width}, the model's {config.primary_width}"
        )
    for key, value in narrow.config.items():
        wanted = value * ratio if key in _GROWING else value
        if key not in FREE_MODEL_KEYS and config[key] != wanted:
            shown = f"{wanted:g}" if key in _GROWING else wanted
            raise UserError(
                f"{narrow.source} cannot be widened to the model: its {key} is {value}; with a "
                f"primary_width of {config.primary_width} for its {narrow.config.primary_width} "
                f"the model's should be {shown}, and is {config[key]}"
            )


def widened(
    narrow: dict[_Path, Float[ArrayLike, "..."]], random: dict[_Path, Float[ArrayLike, "..."]]
) -> dict[_Path, _Array]:
    """Returns variables of the wider model that restore as the narrower one's do.

    A token's new channels begin as the mean of its others. A layer norm then subtracts the mean
    that it did, which leaves zero in them, and its scale is to shrink by the root of the ratio of
    widths. What reads the new channels is random, so that what will be written to them has a
    gradient; new heads and hidden channels are random, and not listened to yet. Exact but for the
    decoder's fusions, whose norms join tokens of different means: a trained model's image changes
    by 3e-5, root mean square.

    Args:
      narrow: variables of the narrower model, by path.
      random: first variables of the wider one, by path.
    """
    primary_widths = narrow[_CLASS_TOKEN].size, random[_CLASS_TOKEN].size
    return {
        path: _widened_leaf(path, np.asarray(narrow[path]), np.array(leaf), primary_widths)
        for path, leaf in random.items()
    }


def _widened_leaf(path, narrow: _Array, wide: _Array, primary_widths) -> _Array:
    if narrow.shape == wide.shape:
        return narrow
    layer, name = path[-2:]
    axes = zip(
        _sections(path, narrow.shape, primary_widths[0]),
        _sections(path, wide.shape, primary_widths[1]),
        strict=True,
    )
    kept, added = zip(*(_kept_and_added(*axis) for axis in axes), strict=True)
    old, new = [np.concatenate(sections) for sections in kept], np.concatenate(added[-1])
    is_fusion = layer.startswith("fusions") and name in ("kernel", "bias")
    writes_tokens = is_fusion or layer in _WRITING_LAYERS or name in ("class_token", "table")
    if is_fusion and name == "kernel":
        # The new channels of a token are all alike: so weighed they add up to nothing.
        for rows in added[0]:
            wide[rows] -= wide[rows].mean(axis=0)
        wide[:, new] = 0
    elif writes_tokens or layer == "prediction":
        wide[:] = 0
    wide[np.ix_(*old)] = narrow
    if writes_tokens:
        wide[np.ix_(*old[:-1], new)] = narrow.mean(axis=-1, keepdims=True)
    if name == "scale":
        wide *= np.sqrt(narrow.size / wide.size)
    return wide


def _sections(path: _Path, shape: tuple[int, ...], primary_width: int) -> list[tuple[int, ...]]:
    """Returns the sections that each axis consists of, by their lengths; each grows at its end."""
    layer, name = path[-2:]
    sections = [(length,) for length in shape]
    if layer == "query_key_value":
        sections[-1] = (shape[-1] // 3,) * 3
    if layer.startswith("fusions") and name != "bias":
        sections[0] = (primary_width, primary_width, shape[0] - 2 * primary_width)
    return sections


def _kept_and_added(
    old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[list[Int[np.ndarray, " old"]], list[Int[np.ndarray, " added"]]]:
    """Returns for each section of an axis where its old elements come to lie, and its new ones."""
    starts = np.cumsum((0, *new[:-1]))
    kept = [start + np.arange(length) for start, length in zip(starts, old, strict=True)]
    added = [start + np.arange(*lengths) for start, *lengths in zip(starts, old, new, strict=True)]
    return kept, added
