"""Initializations: as the identity, with a DCT patch embedding, from a model without overlap."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

# Amplitudes in images fall about like 1 / frequency, and blur attenuates high frequencies further.
# Chroma has smaller amplitudes than luma.
_AMPLITUDE_EXPONENT = 1.8
_CHROMA_FREQUENCY = 2.5
_BRANCH_GAIN = 0.2
_ENDS_OF_BRANCHES = (["output", "kernel"], ["fc2", "kernel"])  # of attention and MLP


def identity_init(variables: dict) -> dict:
    """Returns variables of an untrained model that returns its input, except at the borders.

    The image head's first convolution copies the image (the mean of two views) to its first three
    channels and sets the others to zero. The second convolution copies these three channels. Its
    weights for the other channels remain random, so that all of the decoder's output, which is
    zero at first, has a gradient. The identity is exact except in a border of half the first
    kernel, which the head trims and fills by reflection.
    """
    params = variables["params"]
    head = params["image_head"]
    first, second = (head[f"{name}_convolution"] for name in ("input", "output"))
    row, column = (side // 2 for side in first["kernel"].shape[:2])
    # Each copy of a single view, or each of two views, contributes half.
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
    """Returns variables of an untrained model whose tokens preserve their patches.

    With a random initialization, brightness and position dominate the faint high frequencies that
    deblurring needs, and each layer mixes them further. Here the patch embedding is a cosine
    transform of luma and chroma, sorted by frequency and scaled to similar amplitudes. The residual
    branches of the transformer blocks are small. The fusions add their inputs channel by channel
    (the first channels, if widths differ). The decoder's prediction is then nearly linear in the
    frequencies around each pixel.
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
    """Returns a kernel of the `width` lowest frequencies of a patch of `size` x `size` pixels.

    The basis is orthonormal two-dimensional cosines of luma, red minus blue, and red and blue minus
    green. Each is scaled by its frequency to the power of 1.8, so that an image's tokens have a
    root mean square of about 10, ten times that of the position embedding. Frequencies are in half
    waves per patch; those of chroma are multiplied by 2.5. If `width` exceeds 3 * size^2, the
    remaining channels are zero.
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


def without_patch_overlap(model: nn.Module) -> tuple[nn.Module, Callable[[dict], dict]] | None:
    """Returns the same model with `patch_overlap` 0, and the conversion of its variables.

    The conversion pads each token's prediction with zeros, so that `model` computes the same. None
    if `model` has no overlap.
    """
    decoder = model.decoder
    overlap = getattr(decoder, "patch_overlap", 0)
    if not overlap:
        return None

    def padded(leaf):  # (..., patch_stride^2 * features)
        squares = leaf.reshape(-1, decoder.patch_stride, decoder.patch_stride, decoder.features)
        widths = [(0, 0), (overlap, overlap), (overlap, overlap), (0, 0)]
        return jnp.pad(squares, widths).reshape(*leaf.shape[:-1], -1)

    def extended(variables):
        params = variables["params"]
        prediction = jax.tree.map(padded, params["decoder"]["prediction"])
        params = {**params, "decoder": {**params["decoder"], "prediction": prediction}}
        return {**variables, "params": params}

    return model.clone(decoder=decoder.clone(patch_overlap=0)), extended


def _adding_fusion(fusion, primary_width):
    """Returns a fusion that adds its inputs; each copy of the primary tokens contributes half."""
    rows, width = fusion["kernel"].shape
    primary, other = jnp.eye(primary_width, width), jnp.eye(rows - 2 * primary_width, width)
    return {**fusion, "kernel": jnp.concatenate([primary / 2, primary / 2, other])}


def _small_branch(path, leaf):
    names = [key.key for key in path]
    is_branch = names[1].startswith("blocks") and names[-2:] in _ENDS_OF_BRANCHES
    return _BRANCH_GAIN * leaf if is_branch else leaf
