"""Sin-cos position embedding and its resizing, exactly as in the released code.

Tables are `float32 (1 + rows * columns, width)`: the class token's row, then the grid row by row.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_CUBIC_A = -0.75
_GRID_NUDGE = 0.1


def sincos_position_embedding(grid: int, width: int) -> Float[np.ndarray, "tokens width"]:
    """Returns MAE's fixed two-dimensional sin-cos table for a `grid` x `grid` image of tokens.

    The first half of the channels encodes the column, the second half the row; each half is sines,
    then cosines, of position * 10000^(-i / (width / 4)). The class token's row is zero.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (MAE), CVPR 2022.
    """
    quarter = width // 4
    frequencies = 10000.0 ** (-np.arange(quarter) / quarter)
    angles = np.arange(grid)[:, None] * frequencies
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    columns = np.broadcast_to(waves[None, :], (grid, grid, 2 * quarter))
    rows = np.broadcast_to(waves[:, None], (grid, grid, 2 * quarter))
    table = np.concatenate([columns, rows], axis=2).reshape(grid * grid, width)
    return np.concatenate([np.zeros((1, width)), table]).astype(np.float32)


def resize_position_embedding(
    table: Float[Array, "tokens width"], rows: int, columns: int
) -> Float[Array, "resized_tokens width"]:
    """Resizes a square table to `rows` x `columns` like the reference; a no-op at its own size.

    The interpolation is bicubic with a = -0.75, half-pixel centers, clamped borders, no
    antialiasing, and the reference's step: source = (target + 0.5) * old / (new + 0.1) - 0.5. The
    class token's row is unchanged.
    """
    old = math.isqrt(table.shape[0] - 1)
    if (rows, columns) == (old, old):
        return table
    grid = table[1:].reshape(old, old, -1)
    resized = jnp.einsum(
        "rR,cC,RCw->rcw",
        _bicubic_matrix(old, rows),
        _bicubic_matrix(old, columns),
        grid,
        precision="highest",
    )
    return jnp.concatenate([table[:1], resized.reshape(rows * columns, -1)])


def _bicubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    source = (np.arange(new) + 0.5) * old / (new + _GRID_NUDGE) - 0.5
    first = np.floor(source).astype(int) - 1
    matrix = np.zeros((new, old))
    for tap in range(4):
        weight = _cubic_kernel(source - (first + tap))
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weight)
    return matrix.astype(np.float32)


def _cubic_kernel(distance: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns Keys' cubic convolution kernel (IEEE Transactions on ASSP, 1981) with a = -0.75."""
    d, a = np.abs(distance), _CUBIC_A
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
