"""ViTDeblur: tokenizer, primary encoder, contextual encoder, decoder, image head, wired together.

Liang, Jiang, Liu, Ma: "Decoupling Image Deblurring Into Twofold: A Hierarchical Model for Defocus
Deblurring", IEEE Transactions on Computational Imaging 10, 2024.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.vitdeblur.configuration import (
    check_configuration,
    check_window,
    token_grid,
)
from vitdeblur_jax.models.vitdeblur.contextual_encoder import ContextualEncoder
from vitdeblur_jax.models.vitdeblur.decoder import Decoder
from vitdeblur_jax.models.vitdeblur.image_head import ImageHead
from vitdeblur_jax.models.vitdeblur.primary_encoder import PrimaryEncoder
from vitdeblur_jax.models.vitdeblur.tokenizer import Tokenizer
from vitdeblur_jax.utils.errors import UserError


class TrainingOutputs(NamedTuple):
    """What the losses need; the sharp image feeds only them."""

    restored: Float[Array, "batch height width 3"]
    contextual_tokens: Float[Array, "batch tokens embedding"]
    sharp_tokens: Float[Array, "batch tokens embedding"]
    blurred_logit: Float[Array, " batch"]
    sharp_logit: Float[Array, " batch"]
    blurred_projection: Float[Array, "batch projection"]
    sharp_projection: Float[Array, "batch projection"]


class ViTDeblur(nn.Module):
    """A hierarchical Vision Transformer that restores images that are out of focus.

    Images are float32 RGB in [0, 1], `(batch, height, width, 3 * views)`: with two views
    (dual-pixel), left, then right; the encoders then see their mean. Every attribute is explained
    in `vitdeblur_jax.models.vitdeblur.configuration`; `ViTDeblur(**base())` is the published
    model.

    The variables are three collections: "params", "batch_stats" (the projector's running
    statistics) and "position_embedding" (a fixed table).

    Raises:
      UserError: attributes that do not fit together, with the two numbers that disagree; images
        that are not square, not of floats, or of a side that the patches do not suit.
    """

    window: int
    training_window: int
    patch_size: int
    patch_stride: int
    pretraining_grid: int
    primary_width: int
    primary_depth: int
    primary_heads: int
    contextual_depth: int
    contextual_heads: int
    projector_widths: tuple[int, int]
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    mlp_ratio: int
    feature_channels: int
    input_kernel: int
    output_kernel: int
    views: int
    dtype: str
    precision: str
    remat: bool
    stride: int
    margin: int

    def __post_init__(self):
        check_configuration(self)
        super().__post_init__()

    def setup(self):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        self.tokenizer = Tokenizer(
            self.primary_width,
            self.patch_size,
            self.patch_stride,
            token_grid(self.training_window, self.patch_size, self.patch_stride),
            self.pretraining_grid,
            **numerics,
        )
        self.primary_encoder = PrimaryEncoder(
            self.primary_width, self.primary_depth, self.primary_heads, **self._transformer
        )
        self.contextual_encoder = ContextualEncoder(
            self.primary_width,
            self.contextual_depth,
            self.contextual_heads,
            projector_widths=tuple(self.projector_widths),
            **self._transformer,
        )
        self.decoder = self.make_decoder()
        self.image_head = ImageHead(
            self.feature_channels, self.input_kernel, self.output_kernel, self.views, **numerics
        )

    def __init_subclass__(cls, **settings):
        nn.nowrap(cls.make_decoder)  # else Linen would trace it as a layer in `tabulate`
        super().__init_subclass__(**settings)

    @nn.nowrap
    def make_decoder(self) -> nn.Module:
        """Returns the decoder; a subclass may return another, which is called as `Decoder` is."""
        return Decoder(
            self.decoder_width,
            self.decoder_depth,
            self.decoder_heads,
            self.patch_stride,
            self.feature_channels,
            **self._transformer,
        )

    @property
    def _transformer(self) -> dict:
        """What the blocks of all transformers have in common."""
        return {
            "mlp_ratio": self.mlp_ratio,
            "remat": self.remat,
            "dtype": self.dtype,
            "precision": self.precision,
        }

    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"]
    ) -> Float[Array, "batch height width 3"]:
        """Restores square images of a window's or a training crop's size; not clipped."""
        _check_images(image, self, 3 * self.views)
        if self.is_initializing():
            self.training_outputs(image, mean_of_views(image), train=True)
        return self.image_head(image, self.features(image))

    def encode(
        self, image: Float[ArrayLike, "batch height width channels"]
    ) -> list[Float[Array, "batch tokens embedding"]]:
        """Returns the primary encoder's outputs, one after each of its blocks."""
        # Of two views as of one: a sharp image has one view, whatever the model's.
        _check_images(image, self, 3 if image.shape[-1:] == (3,) else 3 * self.views)
        return self.primary_encoder(self.tokenizer(mean_of_views(image)))

    def features(
        self, image: Float[ArrayLike, "batch height width channels"]
    ) -> Float[Array, "batch trimmed_height trimmed_width features"]:
        """Returns the decoder's feature map, trimmed by (input_kernel - 1) / 2 pixels a side."""
        primary = self.encode(image)
        return self.decoder(primary, self.contextual_encoder(primary[-1]))

    def training_outputs(
        self,
        blurred: Float[ArrayLike, "batch height width channels"],
        sharp: Float[ArrayLike, "batch height width 3"],
        train: bool,
    ) -> TrainingOutputs:
        """Restores the blurred images and returns all that the losses compare.

        Both go through the encoders as one batch, in pairs, so that of a batch that lies on many
        devices no image moves; a sharp image has one view, whatever the model's.
        The projector sees the blurred ones first, then the sharp ones. With `train` its batch norm
        uses and updates the batch's statistics: the collection "batch_stats" must be mutable then.
        """
        _check_images(blurred, self, 3 * self.views)
        _check_images(sharp, self, 3)
        if blurred.shape[:3] != sharp.shape[:3]:
            raise UserError(
                f"blurred images of {_shape(blurred)}, sharp images of {_shape(sharp)}: batch, "
                "height and width must be the same"
            )
        primary = self.encode(_interleaved(mean_of_views(blurred), jnp.asarray(sharp)))
        context = self.contextual_encoder
        normalized = context.normalized_tokens(primary[-1])
        blurred_tokens, sharp_tokens = _parted(normalized)
        contextual = context.scale(blurred_tokens)
        features = self.decoder([_parted(tokens)[0] for tokens in primary], contextual)
        blurred_logit, sharp_logit = _parted(context.sharpness_logit(normalized))
        return TrainingOutputs(
            restored=self.image_head(blurred, features),
            contextual_tokens=contextual,
            sharp_tokens=sharp_tokens,
            blurred_logit=blurred_logit,
            sharp_logit=sharp_logit,
            blurred_projection=context.project(contextual, train),
            sharp_projection=context.project(sharp_tokens, train),
        )


def _check_images(images, model, channels):
    if images.ndim == 3:
        raise UserError(
            f"an image of {_shape(images)}: the batch axis is missing. Give image[None] for a "
            "batch of one, or call `deblur`, which takes one image of any size"
        )
    if images.ndim != 4 or images.shape[-1] != channels:
        raise UserError(
            f"images of shape {_shape(images)}: the model takes batch x height x width x "
            f"{channels} ({model.views} view{'s' * (model.views > 1)})"
        )
    _, height, width, _ = images.shape
    if height != width:
        raise UserError(
            f"images of {height} x {width} pixels: the model takes squares, `deblur` any image"
        )
    check_window("image side", height, model)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images of {images.dtype}: the model takes floats in [0, 1]; `unit_range` of "
            "vitdeblur_jax.data.transforms makes them"
        )


def _shape(images):
    return " x ".join(map(str, images.shape)) or "a single number"


def _interleaved(first, second):
    """Joins two batches in pairs, so that a device that holds a part of both has nothing to send.

    Laid one behind the other, both halves of the batch, and of what becomes of it, would have to be
    gathered whole on every device.
    """
    pairs = jnp.stack([first, second], axis=1)
    return pairs.reshape(-1, *first.shape[1:])


def _parted(joined):
    pairs = joined.reshape(-1, 2, *joined.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def mean_of_views(
    image: Float[Array | np.ndarray, "*batch height width channels"],
) -> Float[Array | np.ndarray, "*batch height width 3"]:
    """Returns what the encoders, and people, see of an image with one view or two."""
    return image.reshape(*image.shape[:-1], -1, 3).mean(axis=-2)


def initial_variables(model: ViTDeblur, seed: int) -> dict:
    """Returns the variables of an untrained model, heads included; the same for the same seed."""
    return _initialize(model, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def _initialize(model, key):
    side = model.training_window
    return model.init(key, jnp.zeros((2, side, side, 3 * model.views)))


def abstract_variables(model: ViTDeblur) -> dict:
    """Returns the variables' shapes and dtypes (`jax.ShapeDtypeStruct`); allocates nothing."""
    return jax.eval_shape(lambda: initial_variables(model, 0))
