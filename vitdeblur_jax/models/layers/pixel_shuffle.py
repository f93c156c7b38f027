"""Pixels of 2 x 2 squares as channels, and back, in the order of PyTorch."""

from jaxtyping import Array, Float

Maps = Float[Array, "batch height width channels"]


def pixel_unshuffle(x: Maps) -> Float[Array, "batch half_height half_width quadruple"]:
    """Returns maps of half the size; channel 4c + 2dy + dx has pixel (2y + dy, 2x + dx) of c."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return squares.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, -1)


def pixel_shuffle(x: Maps) -> Float[Array, "batch double_height double_width quarter"]:
    """Returns maps of twice the size; the inverse of `pixel_unshuffle`."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height, width, channels // 4, 2, 2)
    return squares.transpose(0, 1, 4, 2, 5, 3).reshape(batch, 2 * height, 2 * width, -1)
