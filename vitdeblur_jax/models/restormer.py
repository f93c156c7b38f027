"""Restormer: a transformer whose attention runs across channels, not pixels.

Zamir, Arora, Khan, Hayat, Khan, Yang: "Restormer: Efficient Transformer for High-Resolution Image
Restoration", CVPR 2022, arXiv 2111.09881. A U-Net with four levels. Each block has a channel
attention and a gated feed-forward network. The attention scores of a head with c channels are a
c x c matrix, summed over all pixels. Depthwise convolutions mix neighboring pixels. The output is
added to the input, except with two views.

26.13 M parameters. The published code is free for non-commercial use only ("Academic Public
License"); its weights are `single_image_defocus_deblurring.pth` and
`dual_pixel_defocus_deblurring.pth`, linked from https://github.com/swz30/Restormer, with the state
dict under the key `params`.

Peculiarities: the last decoder level and the refinement keep the 96 channels of the concatenation.
No convolution has a bias.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import PYTORCH_KERNEL_INIT, conv_layer
from vitdeblur_jax.models.layers.depthwise import DepthwiseConv
from vitdeblur_jax.models.layers.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from vitdeblur_jax.models.layers.transformer_block import layer_norm
from vitdeblur_jax.models.published import POINTWISE, Entry, Path, conv, joined, norm, reshaped
from vitdeblur_jax.models.tilings import WholeImage, check_image
from vitdeblur_jax.utils.config_checks import integer, number, sequence
from vitdeblur_jax.utils.errors import UserError

CONFIGURATIONS = {"restormer": {}, "restormer_dual": {"views": 2}}
RULES = {
    "width": integer(2, 1024),
    "depths": sequence(integer(1, 10), length=(1, 5)),
    "heads": sequence(integer(1, 1024), length=(1, 5)),
    "refinement_depth": integer(0, 10),
    "expansion": number(1, 8),
    "views": integer(1, 2),
}

Maps = Float[Array, "batch height width channels"]

_conv3x3 = functools.partial(conv_layer, side=3, use_bias=False)


class Restormer(nn.Module):
    """Restores images, float32 RGB in [0, 1], with sides that are multiples of `tiling.multiple`.

    Attributes:
      width: Number of channels of the first level. Each next level has twice as many.
      depths: Number of blocks of each level, in the encoder and in the decoder.
      heads: Number of attention heads of each level. It divides the channels of the level.
      refinement_depth: Number of blocks after the decoder.
      expansion: Ratio of hidden channels to channels in a feed-forward network; the number of
        hidden channels is rounded down.
      views: 1, or 2 (dual pixel: left, right).
      dtype: Dtype of the computation. Parameters, norm statistics and attention scores are
        float32.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    width: int = 48
    depths: tuple[int, ...] = (4, 6, 6, 8)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    refinement_depth: int = 4
    expansion: float = 2.66
    views: int = 1
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def tiling(self) -> WholeImage:
        """The whole image. Attention sums over all pixels, so no halo would make tiles exact."""
        return WholeImage(multiple=2 ** (len(self.depths) - 1))

    @nn.compact
    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width 3"]:
        """Returns restored images, not clipped. `train` has no effect."""
        _check_levels(self)
        check_image(image.shape, self.views, self.tiling.multiple, (1, 2))
        image = jnp.asarray(image, jnp.float32)
        numerics = (self.dtype, self.precision)
        embedded = _conv3x3(self, self.width, name="embedding")(image)
        x, skips = embedded, []
        for level, depth in enumerate(self.depths):
            if level:
                skips.append(x)
                x = Resample(x.shape[-1] // 2, pixel_unshuffle, *numerics, name=f"down_{level}")(x)
            x = self._blocks(x, f"encoder_{level}", level, depth)
        for level, skip in reversed(list(enumerate(skips))):
            x = Resample(2 * x.shape[-1], pixel_shuffle, *numerics, name=f"up_{level}")(x)
            x = jnp.concatenate([x, skip], axis=-1)
            if level:  # the first level keeps all channels
                x = _pointwise(self, skip.shape[-1], f"reduction_{level}")(x)
            x = self._blocks(x, f"decoder_{level}", level, self.depths[level])
        x = self._blocks(x, "refinement", 0, self.refinement_depth)
        if self.views == 2:
            x = x + _pointwise(self, 2 * self.width, "skip")(embedded)
        output = _conv3x3(self, 3, name="output")(x).astype(jnp.float32)
        return output if self.views == 2 else output + image

    def _blocks(self, x: Maps, name: str, level: int, depth: int) -> Maps:
        settings = (self.heads[level], self.expansion, self.dtype, self.precision)
        for i in range(depth):
            x = Block(*settings, name=f"{name}_{i}")(x)
        return x


def _check_levels(network: Restormer) -> None:
    """Raises `UserError` if the attributes of the levels are inconsistent."""
    if network.width % 2:
        raise UserError(f"width is {network.width}; it must be even")
    if len(network.heads) != len(network.depths):
        raise UserError(
            f"depths is {network.depths} and heads {network.heads}; both need one value per level"
        )
    for level, heads in enumerate(network.heads):
        channels = network.width * 2**level
        if heads < 1 or channels % heads:
            raise UserError(
                f"heads[{level}] is {heads}; it must divide the {channels} channels of its level"
            )


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    heads: int
    expansion: float
    dtype: str
    precision: str

    def setup(self):
        self.attention_norm = layer_norm(1e-5, self.dtype)
        self.attention = ChannelAttention(self.heads, self.dtype, self.precision)
        self.feed_forward_norm = layer_norm(1e-5, self.dtype)
        self.feed_forward = GatedFeedForward(self.expansion, self.dtype, self.precision)

    def __call__(self, x: Maps) -> Maps:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class ChannelAttention(nn.Module):
    """Attention between channels with cosine scores over all pixels (MDTA, section 3.1)."""

    heads: int
    dtype: str
    precision: str

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        *batch, height, width, channels = x.shape
        qkv = DepthwiseConv(self.dtype, self.precision, name="qkv_depthwise")(
            _pointwise(self, 3 * channels, "qkv")(x)
        )
        split = qkv.reshape(*batch, height * width, 3, self.heads, channels // self.heads)
        temperature = self.param("temperature", nn.initializers.ones, (self.heads,))
        mixed = channel_attention(
            split[:, :, 0], split[:, :, 1], split[:, :, 2], temperature, self.precision
        )
        return _pointwise(self, channels, "output")(mixed.reshape(x.shape))


def channel_attention(
    query: Float[Array, "batch pixels heads width"],
    key: Float[Array, "batch pixels heads width"],
    value: Float[Array, "batch pixels heads width"],
    temperature: Float[Array, " heads"],
    precision: str,
) -> Float[Array, "batch pixels heads width"]:
    """Returns softmax(temperature * cosine(query channel, key channel)) @ value for each head.

    Sums over pixels, norms and softmax are float32. The function divides the products by the norms
    instead of the factors, which avoids normalized copies of the maps.
    """
    products = functools.partial(
        jnp.einsum, precision=precision, preferred_element_type=jnp.float32
    )
    norm_of_query, norm_of_key = (
        jnp.sqrt(jnp.maximum(products("bnhc,bnhc->bhc", x, x), 1e-24)) for x in (query, key)
    )
    cosine = products("bnhc,bnhd->bhcd", query, key) / (
        norm_of_query[..., :, None] * norm_of_key[..., None, :]
    )
    weights = jax.nn.softmax(temperature[:, None, None] * cosine).astype(value.dtype)
    return jnp.einsum("bhcd,bnhd->bnhc", weights, value, precision=precision)


class GatedFeedForward(nn.Module):
    """Multiplies one half of the hidden channels, after an exact GELU, by the other half.

    GDFN, section 3.2.
    """

    expansion: float
    dtype: str
    precision: str

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        channels = x.shape[-1]
        hidden = _pointwise(self, 2 * int(self.expansion * channels), "input")(x)
        hidden = DepthwiseConv(self.dtype, self.precision, name="depthwise")(hidden)
        gate, gated = jnp.split(hidden, 2, axis=-1)
        gated = jax.nn.gelu(gate, approximate=False) * gated
        return _pointwise(self, channels, "output")(gated)


class Resample(nn.Module):
    """A 3 x 3 convolution to `features` channels, then `pixel_unshuffle` or `pixel_shuffle`."""

    features: int
    rearrange: Callable[[Array], Array]
    dtype: str
    precision: str

    @nn.compact
    def __call__(self, x: Maps) -> Array:
        return self.rearrange(_conv3x3(self, self.features, name="conv")(x))


def _pointwise(module, features, name):
    """Returns a 1 x 1 convolution."""
    settings = {"use_bias": False, "kernel_init": PYTORCH_KERNEL_INIT}
    settings |= {"dtype": module.dtype, "precision": module.precision}
    return nn.Dense(features, name=name, **settings)


_CONV3X3 = functools.partial(conv, bias=False)
_POINTWISE = functools.partial(conv, layout=POINTWISE, bias=False)
_TEMPERATURE = reshaped((-1, 1, 1), (-1,))


def published_entries(network: Restormer) -> dict[Path, Entry]:
    """Returns the name and layout of each variable in the published checkpoint."""
    last = len(network.depths)
    parts = [_CONV3X3(("embedding",), "patch_embed.proj"), _CONV3X3(("output",), "output")]
    for level, depth in enumerate(network.depths, start=1):
        published = "latent" if level == last else f"encoder_level{level}"
        parts += _blocks(f"encoder_{level - 1}", published, depth)
        if level < last:
            down, up = f"down{level}_{level + 1}", f"up{level + 1}_{level}"
            parts += _blocks(f"decoder_{level - 1}", f"decoder_level{level}", depth)
            parts += [_CONV3X3((f"down_{level}", "conv"), f"{down}.body.0")]
            parts += [_CONV3X3((f"up_{level - 1}", "conv"), f"{up}.body.0")]
        if 1 < level < last:
            parts += [_POINTWISE((f"reduction_{level - 1}",), f"reduce_chan_level{level}")]
    parts += _blocks("refinement", "refinement", network.refinement_depth)
    if network.views == 2:
        parts += [_POINTWISE(("skip",), "skip_conv")]
    return joined(parts)


def _blocks(name: str, published: str, depth: int) -> list[dict[Path, Entry]]:
    return [_block((f"{name}_{i}",), f"{published}.{i}") for i in range(depth)]


def _block(path: Path, name: str) -> dict[Path, Entry]:
    attention, feed_forward = (*path, "attention"), (*path, "feed_forward")
    temperature = ("params", *attention, "temperature")
    return joined(
        [
            norm((*path, "attention_norm"), f"{name}.norm1.body"),
            {temperature: Entry(f"{name}.attn.temperature", _TEMPERATURE)},
            _POINTWISE((*attention, "qkv"), f"{name}.attn.qkv"),
            _CONV3X3((*attention, "qkv_depthwise"), f"{name}.attn.qkv_dwconv"),
            _POINTWISE((*attention, "output"), f"{name}.attn.project_out"),
            norm((*path, "feed_forward_norm"), f"{name}.norm2.body"),
            _POINTWISE((*feed_forward, "input"), f"{name}.ffn.project_in"),
            _CONV3X3((*feed_forward, "depthwise"), f"{name}.ffn.dwconv"),
            _POINTWISE((*feed_forward, "output"), f"{name}.ffn.project_out"),
        ]
    )
