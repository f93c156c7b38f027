"""Ways to start an untrained model: as the identity, and with tokens that show their patches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

# Images have amplitudes that fall about like 1 / frequency, and blur takes more of the high
# ones; chroma has less than luma.
_AMPLITUDE_EXPONENT = 1.8
_CHROMA_FREQUENCY = 2.5
_BRANCH_GAIN = 0.2
_ENDS_OF_BRANCHES = (["output", "kernel"], ["fc2", "kernel"])  # of attention and MLP


def identity_init(variables: dict) -> dict:
    """Returns variables of an untrained model that gives back its input, inside of its borders.

    The image head's first convolution carries the image over in its first three channels (of two
    views their mean) and leaves the others empty; the second passes these three on. What it makes
    of the other channels stays random, so that all of what the decoder will write, nothing so far,
    has a gradient. Exact but for a border of half the first kernel, which the head trims and fills
    by reflection.
    """
    params = variables["params"]
    head = params["image_head"]
    first, second = (head[f"{name}_convolution"] for name in ("input", "output"))
    row, column = (side // 2 for side in first["kernel"].shape[:2])
    # Both copies of a single view, or both views, give half.
    carry = jnp.concatenate([jnp.eye(3)] * 2) / 2
    kernel = jnp.zeros_like(first["kernel"]).at[row, column, :, :3].set(carry)
    first = {"kernel": kernel, "bias": jnp.zeros_like(first["bias"])}
    row, column = (side // 2 for side in second["kernel"].shape[:2])
    kernel = second["kernel"].at[:, :, :3].set(0).at[row, column, :3].set(jnp.eye(3))
    second = {"kernel": kernel, "bias": jnp.zeros_like(second["bias"])}
    prediction = jax.tree.map(jnp.zeros_like, params["decoder"]["prediction"])
    params = {
        **params,
        "image_head": {"input_convolution": first, "output_convolution": second},
        "decoder": {**params["decoder"], "prediction": prediction},
    }
    return {**variables, "params": params}


def dct_init(variables: dict) -> dict:
    """Returns variables of an untrained model whose tokens keep what their patches show.

    A random start hides what is wanted, faint high frequencies, under brightness and position, and
    each layer mixes it further. Here the patch embedding is a cosine transform of luma and chroma,
    the lowest frequencies first, each brought to about the same size; the branches of the
    transformers' blocks are small; and the fusions add up their inputs, channel by channel (the
    first ones, where widths differ). What the decoder predicts is then at first nearly linear in
    the frequencies around each pixel.
    """
    params = variables["params"]
    embedding = params["tokenizer"]["patch_embedding"]
    size, _, _, width = embedding["kernel"].shape
    kernel = jnp.asarray(frequency_kernel(size, width), embedding["kernel"].dtype)
    embedding = {"kernel": kernel, "bias": jnp.zeros_like(embedding["bias"])}
    params = {**params, "tokenizer": {**params["tokenizer"], "patch_embedding": embedding}}
    fused = functools.partial(_adding_fusion, primary_width=width)
    decoder = {
        name: fused(layer) if name.startswith("fusions") else layer
        for name, layer in params["decoder"].items()
    }
    params = jax.tree_util.tree_map_with_path(_small_branch, {**params, "decoder": decoder})
    return {**variables, "params": params}


def frequency_kernel(size: int, width: int) -> Float[np.ndarray, "size size 3 width"]:
    """Returns the `width` lowest frequencies of a patch of `size` pixels a side, as a kernel.

    Orthonormal two-dimensional cosines of luma, red against blue, and green against both, each
    times its frequency to the power of 1.8, so that an image's tokens have a root mean square
    of about 10, ten times that of the position embedding. Frequencies count half waves a patch;
    chroma's count 2.5 times. What is left of `width`, where all 3 * size^2 are taken, is zero.
    """
    from scipy import fft  # imported late: only training needs it

    waves = fft.dct(np.eye(size), norm="ortho", axis=0)  # frequency x pixel
    colours = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    basis = np.einsum("uy,vx,ic->iuvyxc", waves, waves, colours)
    frequency = np.maximum(np.hypot(*np.indices((size, size))), 0.7)  # brightness stays faint
    place = np.array([1, _CHROMA_FREQUENCY, _CHROMA_FREQUENCY])[:, None, None] * frequency
    lowest = np.argsort(place, axis=None, kind="stable")[:width]
    kernel = np.zeros((size, size, 3, width), np.float32)
    weights = place.ravel()[lowest] ** _AMPLITUDE_EXPONENT
    taken = basis.reshape(-1, size, size, 3)[lowest] * weights[:, None, None, None]
    kernel[..., : len(lowest)] = taken.transpose(1, 2, 3, 0)
    return kernel


def _adding_fusion(fusion, primary_width):
    """Both copies of the primary tokens count half."""
    rows, width = fusion["kernel"].shape
    primary, other = jnp.eye(primary_width, width), jnp.eye(rows - 2 * primary_width, width)
    return {**fusion, "kernel": jnp.concatenate([primary / 2, primary / 2, other])}


def _small_branch(path, leaf):
    names = [key.key for key in path]
    is_branch = names[1].startswith("blocks") and names[-2:] in _ENDS_OF_BRANCHES
    return _BRANCH_GAIN * leaf if is_branch else leaf
