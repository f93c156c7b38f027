"""ViTDeblur: tokenizer, primary encoder, contextual encoder, decoder and image head.

Liang, Jiang, Liu, Ma: "Decoupling Image Deblurring Into Twofold: A Hierarchical Model for Defocus
Deblurring", IEEE Transactions on Computational Imaging 10, 2024.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from vitdeblur_jax.models.layers.views import mean_of_views
from vitdeblur_jax.models.tilings import Windows
from vitdeblur_jax.models.vitdeblur import initialization, losses, published
from vitdeblur_jax.models.vitdeblur.configuration import check_side
from vitdeblur_jax.models.vitdeblur.overlap import averaged_features, check_overlap
from vitdeblur_jax.models.vitdeblur.pairs import PairOutputs, interleaved, parted
from vitdeblur_jax.utils.errors import UserError

_OF_THE_PROJECTOR = {"vicreg_invariance", "vicreg_variance", "vicreg_covariance"}
_BLOCKS = ("width", "depth", "num_heads")
_ARCHITECTURE = {
    "tokenizer": ("patch_size", "patch_stride", "position_grid", "pretraining_grid"),
    "primary_encoder": _BLOCKS,
    "contextual_encoder": ("depth", "num_heads", "projector_widths"),
    "decoder": (*_BLOCKS, "patch_overlap"),
    "image_head": ("features", "input_kernel", "output_kernel"),
}


class ViTDeblur(nn.Module):
    """A hierarchical Vision Transformer that restores defocused images.

    Images are float32 RGB in [0, 1], `(batch, height, width, 3 * views)`. Two views (dual-pixel)
    are left, then right, and the encoders process their mean. `make_vitdeblur` builds a model from
    a configuration. Any part can be replaced by a module with the same call signature:
    `model.clone(decoder=MyDecoder())`.

    The variables are three collections: "params", "batch_stats" (the projector's running
    statistics) and "position_embedding" (a fixed table).

    Attributes:
      tokenizer, primary_encoder, contextual_encoder, decoder, image_head: The parts.
      tiling: The windows of a large image. `tiling.size` is also the side of the images that
        initialize the parameters.
      train_stride: Step between the windows of a training crop, whose feature maps are averaged;
        0: the crop is one window.

    Raises:
      UserError: The images are not square, not floats, or their side does not fit the patches.
    """

    tokenizer: nn.Module
    primary_encoder: nn.Module
    contextual_encoder: nn.Module
    decoder: nn.Module
    image_head: nn.Module
    tiling: Windows
    train_stride: int = 0

    LOSS_TERMS: ClassVar[Mapping[str, float]] = {
        "contextual_cosine": 0.2,
        "contextual_l1": 0.0,
        "sharpness": 0.06,  # the published 0.2 * 0.3
        "vicreg_invariance": 0.0,  # the published code logs these with 0.01, 0.01 and 0.001
        "vicreg_variance": 0.0,
        "vicreg_covariance": 0.0,
    }

    @property
    def views(self) -> int:
        """The number of views: 1, or 2 for dual-pixel images."""
        return self.image_head.views

    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"]
    ) -> Float[Array, "batch height width 3"]:
        """Restores square images, such as windows or training crops; the output is not clipped."""
        _check_images(image, self, 3 * self.views)
        if self.is_initializing():  # also the heads that only training uses
            return self.pair_outputs(image, mean_of_views(image), train=True).restored
        return self.image_head(image, self.features(image))

    def encode(
        self, image: Float[ArrayLike, "batch height width channels"]
    ) -> list[Float[Array, "batch tokens embedding"]]:
        """Returns the primary encoder's outputs, one per block."""
        # A sharp image has one view, even if the model has two.
        _check_images(image, self, 3 if image.shape[-1:] == (3,) else 3 * self.views)
        return self.primary_encoder(self.tokenizer(mean_of_views(image)))

    def features(
        self, image: Float[ArrayLike, "batch height width channels"]
    ) -> Float[Array, "batch trimmed_height trimmed_width features"]:
        """Returns the decoder's feature map, trimmed by (input_kernel - 1) / 2 pixels per side."""
        primary = self.encode(image)
        return self.decoder(primary, self.contextual_encoder(primary[-1]))

    def head_tile(
        self,
        image: Float[ArrayLike, "window window channels"],
        features: Float[ArrayLike, "side side features"],
        rows: Int[ArrayLike, " padded"],
        columns: Int[ArrayLike, " padded"],
    ) -> Float[Array, "tile tile 3"]:
        """Returns a tile of the restored image.

        Args:
          image: A square of the input.
          features: The blended feature map of that square, trimmed.
          rows: The row of `features` for each padded row of the tile. Only these indices express
            the reflection at the image's borders.
          columns: The column of `features` for each padded column of the tile.
        """
        joined = self.image_head.add_input(image[None], features[None])
        return self.image_head.to_image(joined[:, rows][:, :, columns])[0]

    def pair_outputs(
        self,
        blurred: Float[ArrayLike, "batch height width channels"],
        sharp: Float[ArrayLike, "batch height width 3"],
        train: bool,
    ) -> PairOutputs:
        """Restores the blurred images and returns all inputs of the losses.

        The encoders process blurred and sharp images as one batch of interleaved pairs, so that no
        image of a sharded batch moves between devices. A sharp image has one view, even if the
        model has two. The projector processes the blurred images first, then the sharp ones. With
        `train`, its batch norm uses the batch's statistics and updates the running ones, and the
        collection "batch_stats" must be mutable.
        """
        _check_images(blurred, self, 3 * self.views)
        _check_images(sharp, self, 3)
        if blurred.shape[:3] != sharp.shape[:3]:
            raise UserError(
                f"blurred images of {_shape(blurred)}, sharp images of {_shape(sharp)}: batch, "
                "height and width must be equal"
            )
        primary = self.encode(interleaved(mean_of_views(blurred), jnp.asarray(sharp)))
        context = self.contextual_encoder
        normalized = context.normalized_tokens(primary[-1])
        blurred_tokens, sharp_tokens = parted(normalized)
        contextual = context.scale(blurred_tokens)
        features = self.decoder([parted(tokens)[0] for tokens in primary], contextual)
        blurred_logit, sharp_logit = parted(context.sharpness_logit(normalized))
        return PairOutputs(
            restored=self.image_head(blurred, features),
            contextual_tokens=contextual,
            sharp_tokens=sharp_tokens,
            blurred_logit=blurred_logit,
            sharp_logit=sharp_logit,
            blurred_projection=context.project(contextual, train),
            sharp_projection=context.project(sharp_tokens, train),
        )

    def training_outputs(
        self,
        blurred: Float[ArrayLike, "batch height width channels"],
        sharp: Float[ArrayLike, "batch height width 3"],
        train: bool,
        terms: frozenset[str],
    ) -> tuple[Float[Array, "batch height width 3"], dict[str, Array]]:
        """Returns the restored images and the requested terms of the published objective.

        Without terms the sharp images are not encoded, which halves the encoders' work.
        """
        if self.train_stride:
            features = averaged_features(self.features, blurred, self.tiling, self.train_stride)
            return self.image_head(blurred, features), {}
        if not terms:
            return self(blurred), {}
        outputs = self.pair_outputs(blurred, sharp, train)
        context = outputs.contextual_tokens, outputs.sharp_tokens
        logits = outputs.blurred_logit, outputs.sharp_logit
        projections = outputs.blurred_projection, outputs.sharp_projection
        functions = {
            "contextual_cosine": (losses.contextual_cosine_loss, context),
            "contextual_l1": (losses.contextual_l1_loss, context),
            "sharpness": (losses.sharpness_loss, logits),
            "vicreg_invariance": (losses.vicreg_invariance, projections),
            "vicreg_variance": (losses.vicreg_variance, projections),
            "vicreg_covariance": (losses.vicreg_covariance, projections),
        }
        return outputs.restored, {
            name: function(*arguments)
            for name, (function, arguments) in functions.items()
            if name in terms
        }

    @nn.nowrap
    def params_without_gradient(self, terms: frozenset[str]) -> tuple[tuple[str, ...], ...]:
        """Returns the paths of the heads that no term in `terms` uses; they are not trained.

        PyTorch's optimizers skip parameters without a gradient. With a gradient of zero, weight
        decay would still shrink them.
        """
        heads = []
        if not terms & _OF_THE_PROJECTOR:
            heads += [("contextual_encoder", "projector")]
        if "sharpness" not in terms:
            heads += [("contextual_encoder", "sharpness"), ("contextual_encoder", "sharpness_norm")]
        return tuple(heads)

    @nn.nowrap
    def check_training(self, crop: int, batch_size: int, weights: Mapping[str, float]) -> None:
        """Raises `UserError` if these settings cannot train the model; see `models.network`."""
        own = [name for name in self.LOSS_TERMS if weights.get(name)]
        if not any(weight for name, weight in weights.items() if name not in self.LOSS_TERMS):
            raise UserError(
                "no restoration loss has a weight, so the decoder would not be trained; raise "
                "loss.charbonnier above 0"
            )
        if own and batch_size < 2:
            raise UserError(
                "batch norm needs at least two images per step, but there is only one; raise "
                "batch_size, lower grad_accum_steps or set the contextual weights in loss to 0"
            )
        if self.train_stride:
            check_overlap(crop, self.tiling, self.train_stride, bool(own))
        else:
            check_side("crop", crop, architecture(self))

    INITIAL_OPTIONS: ClassVar[Mapping[str, str | bool]] = {
        "encoder": "",
        "identity_init": False,
        "dct_init": False,
    }

    @nn.nowrap
    def check_initial(self, options: Mapping) -> None:
        """Raises `UserError` for options that contradict each other."""
        if options["encoder"] and options["dct_init"]:
            raise UserError(
                "initial.dct_init would overwrite the weights of initial.encoder; set only one"
            )

    @nn.nowrap
    def initial_files(self, options: Mapping, read: Callable) -> dict[tuple[str, ...], Array]:
        """Returns the variables of tokenizer and primary encoder from `options["encoder"]`."""
        path = options["encoder"]
        if not path:
            return {}
        state_dict = read(path, published.encoder_shapes(self), ("pos_embed",))
        return published.encoder_from_pretraining(self, state_dict, path)

    @nn.nowrap
    def extends(self) -> tuple[nn.Module, Callable[[dict], dict]] | None:
        """Returns the model without `patch_overlap`; see `models.vitdeblur.initialization`."""
        return initialization.without_patch_overlap(self)

    @nn.nowrap
    def initialized(self, variables: dict, options: Mapping) -> dict:
        """Returns the initial variables; see `models.vitdeblur.initialization`."""
        if options["dct_init"]:
            variables = initialization.dct_init(variables)
        if options["identity_init"]:
            variables = initialization.identity_init(variables)
        return variables


def architecture(model: nn.Module) -> ml_collections.ConfigDict:
    """Returns the configuration of the standard parts; replaced parts may lack some values."""
    parts = {}
    for part, names in _ARCHITECTURE.items():
        module = getattr(model, part)
        parts[part] = {name: getattr(module, name) for name in names if hasattr(module, name)}
    shared = {"mlp_ratio": model.primary_encoder.mlp_ratio, "views": model.views}
    return ml_collections.ConfigDict({**parts, **shared})


def _check_images(images, model, channels):
    if images.ndim == 3:
        raise UserError(
            f"an image of {_shape(images)}: the batch axis is missing. Pass image[None] as a "
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
            f"images of {height} x {width} pixels: the model takes squares; `deblur` takes any size"
        )
    check_side("image side", height, architecture(model))
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images of {images.dtype}: the model takes floats in [0, 1]; convert them with "
            "`vitdeblur_jax.data.transforms.unit_range`"
        )


def _shape(images):
    return " x ".join(map(str, images.shape)) or "a single number"
