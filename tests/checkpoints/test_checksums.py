"""Checksums of arrays: against plain arithmetic, every bit, and any spread over devices."""

import jax
import ml_dtypes
import numpy as np
import pytest

from vitdeblur_jax.checkpoints import checksums
from vitdeblur_jax.checkpoints.checksums import checksum

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0, 3), (3, 0), (5, 4, 3), (2, 70_000)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int64, np.bool_])
def test_a_sum_of_bits_times_odd_numbers_of_their_places(shape, dtype):
    values = (RNG.standard_normal(shape) * 9).astype(dtype)
    bits = np.asarray(values).view(f"u{values.dtype.itemsize}").ravel().tolist()
    expected = sum(bit * (2 * place + 1) * checksums._ODD for place, bit in enumerate(bits))
    assert checksums._sum_of(values) % 2**64 == expected % 2**64


def test_every_flipped_bit_changes_it():
    values = RNG.standard_normal(6).astype(np.float32)
    sound = checksum({"a": values, "b": values})
    for position in range(24):
        for bit in range(8):
            damaged = bytearray(values.tobytes())
            damaged[position] ^= 1 << bit
            changed = np.frombuffer(bytes(damaged), np.float32)
            assert checksum({"a": changed, "b": values}) != sound
    assert checksum({"b": values, "a": values}) == sound
    assert checksum({"a": values, "c": values}) != sound
    assert checksum({"a": values[::-1], "b": values}) != sound


def test_checksums_of_shards_add_up():
    values = RNG.standard_normal((4, 6, 10)).astype(np.float32)
    for axis in range(3):
        parts = np.split(values, 2, axis)
        total = 0
        for number, part in enumerate(parts):
            index = [slice(None)] * 3
            index[axis] = slice(number * part.shape[axis], (number + 1) * part.shape[axis])
            total += checksums._sum_of_part(part, tuple(index), values.shape)
        assert total % 2**64 == checksums._sum_of(values) % 2**64
    assert checksum([jax.numpy.asarray(values)]) == checksum([values])
