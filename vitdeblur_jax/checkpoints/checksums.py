"""Checksums of trees of arrays, independent of how the arrays are sharded."""

import zlib
from typing import Any

import jax
import numpy as np

from vitdeblur_jax.distributed.processes import gather, is_first

_BLOCK = 2**16  # values per block, so that a block fits in the CPU cache
_ODD = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio


def checksum(tree: Any) -> str:
    """Returns 16 hexadecimal digits that change with every flipped bit of the arrays.

    The bits of each value are taken as an integer and multiplied by an odd number that depends on
    the value's position; the products are summed modulo 2^64. So each process only reads its own
    shards. The checksum detects damage, not forgery.

    If arrays are sharded over several processes, all processes must call this together.

    Args:
      tree: NumPy arrays, or JAX arrays on any devices.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    is_spread = any(not _is_whole(leaf) for _, leaf in leaves)
    total = 0
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path).encode()
        if not (is_spread and _is_whole(leaf)) or is_first():
            total += (2 * zlib.crc32(name) + 1) * _sum_of(leaf)
    if is_spread:
        total = sum(gather(total % 2**64))
    return f"{total % 2**64:016x}"


def _is_whole(leaf):
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _sum_of(leaf):
    if not isinstance(leaf, jax.Array):
        return _sum_of_part(np.asarray(leaf), (), np.shape(leaf))
    return sum(
        _sum_of_part(np.asarray(shard.data), shard.index, leaf.shape)
        for shard in leaf.addressable_shards
        if shard.replica_id == 0
    )


def _sum_of_part(values, index, shape):
    """Returns the weighted sum of a shard.

    The weight of a value is `_ODD` times (2 * position + 1), with its position in the whole array.

    Args:
      values: The shard.
      index: The slices of the whole array that the shard holds, one per axis; empty for all.
      shape: The shape of the whole array.
    """
    bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(values.shape)
    starts = [index[axis].start or 0 if index else 0 for axis in range(bits.ndim)]
    row, column = np.zeros((), np.uint64), np.zeros(1, np.uint64)
    for axis, (start, length) in enumerate(zip(starts, bits.shape, strict=True)):
        along = np.arange(start, start + length, dtype=np.uint64)
        if axis == bits.ndim - 1:
            row, column = row * np.uint64(shape[axis]), along
        else:
            row = row[..., None] * np.uint64(shape[axis]) + along
    row, rows = row.ravel(), bits.reshape(row.size, column.size)
    step = max(1, _BLOCK // max(column.size, 1))
    total = 0
    for first in range(0, row.size, step):
        block = rows[first : first + step].astype(np.uint64)
        weighted = block @ (2 * column + 1) + 2 * row[first : first + step] * block.sum(axis=1)
        total += int(weighted.sum(dtype=np.uint64))
    return _ODD * total
