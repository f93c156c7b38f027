"""MDP: predicts a sharp image and both views of a dual-pixel sensor from one blurred image.

A. Abuolaim, M. Afifi, M. S. Brown, "Improving Single-Image Defocus Deblurring: How Dual-Pixel
Images Help Through Multi-Task Learning", WACV 2022. One encoder feeds three decoders, for the left
view, the right view and the sharp image. At half the size, each decoder takes the features of all
three, so training on views helps the sharp image. 46 860 397 parameters; the sharp image depends on
45 094 735 of them.

The published code is under the Apache License 2.0; its README links to the weights
(github.com/Abdullah-Abuolaim/multi-task-defocus-deblurring-dual-pixel-nimat). The file of phase 2
contains the whole network. In the file of phase 1, the decoder of the sharp image is untrained.

Peculiarity: a ReLU on three channels precedes the last convolution of each decoder, which is 1 x 1.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.resize import nearest_upsample
from vitdeblur_jax.models.layers.unet import ReluConv, max_pool, same_conv
from vitdeblur_jax.models.layers.views import views_and_combined
from vitdeblur_jax.models.published import Entry, Path, bgr_views, joined, keras_conv
from vitdeblur_jax.models.tilings import HaloTiles, check_image
from vitdeblur_jax.utils.config_checks import integer, sequence

CONFIGURATIONS = {"mdp": {}, "mdp_dual": {"views": 2}}
RULES = {"views": integer(1, 3), "widths": sequence(integer(1, 4096), length=5)}

_IMAGES = ("left", "right", "sharp")
_EARLY = ("bottleneck", "upsample_8", "decoder_8", "upsample_4", "decoder_4_0", "decoder_4_1")
_LATE = ("decoder_2_0", "decoder_2_1", "upsample_1", "decoder_1_0", "decoder_1_1", "to_rgb")
_ENCODER = ("1_0", "1_1", "2_0", "2_1", "4_0", "4_1", "8")

Maps = Float[Array, "_ _ _ _"]  # (batch, height, width, channels), of several sizes


class MDP(nn.Module):
    """The whole network.

    `LOSS_TERMS` are the additional loss terms of the published training's second phase with their
    weights. The mean squared error of the sharp image has weight 1. The first phase trains the
    decoders of the views with weight 1 for their error; the decoder of the sharp image is frozen.
    With one view, there are no targets for "views" and "view_difference".

    Attributes:
      views: 1; or, to train on views, 2 (left and right) or 3 (left, right and combined). The
        network takes only the combined image; with two views, this is their mean.
      widths: Number of channels of each level, from the finest to the bottleneck.
      dtype: Dtype of the computation. The output is float32.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    views: int = 1
    widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 1024)
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def LOSS_TERMS(self) -> dict[str, float]:
        """The terms with their published weights. With one view, only "mean_of_views"."""
        names = ("mean_of_views", "views", "view_difference")
        return dict.fromkeys(names[:1] if self.views == 1 else names, 0.2)

    @property
    def tiling(self) -> HaloTiles:
        """Tiles with a halo of 96 pixels, which covers the receptive field of 86 pixels."""
        return HaloTiles(halo=96, multiple=16)

    def setup(self):
        numerics = {"widths": self.widths, "dtype": self.dtype, "precision": self.precision}
        self.encoder = Encoder(**numerics)
        self.early = {image: EarlyDecoder(**numerics) for image in _IMAGES}
        self.late = {image: LateDecoder(**numerics) for image in _IMAGES}

    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width 3"]:
        """Returns the deblurred image in [0, 1], the output of a sigmoid.

        Args:
          image: `3 * views` channels, RGB in [0, 1]; sides are multiples of 16.
          train: Has no effect.
        """
        if self.is_initializing():
            return self.left_right_sharp(image)[..., 6:]
        return self.late["sharp"](*self._features(image))

    def left_right_sharp(
        self, image: Float[ArrayLike, "batch height width channels"]
    ) -> Float[Array, "batch height width 9"]:
        """Returns the left view, the right view and the deblurred image."""
        features = self._features(image)
        return jnp.concatenate([self.late[name](*features) for name in _IMAGES], axis=-1)

    def training_outputs(
        self,
        blurred: Float[ArrayLike, "batch height width channels"],
        sharp: Float[ArrayLike, "batch height width 3"],
        train: bool,
        terms: frozenset[str],
    ) -> tuple[Float[Array, "batch height width 3"], dict[str, Float[Array, " batch"]]]:
        """Returns the deblurred image, and the loss terms of each example.

        Args:
          blurred: The network's input. Its views are the targets of two terms.
          sharp: Not used.
          train: Has no effect.
          terms: Names in `LOSS_TERMS`. "views" is the mean squared error of the views,
            "view_difference" that of left minus right, and "mean_of_views" that of the mean of
            the predicted views, with the combined image as target.
        """
        outputs = self.left_right_sharp(blurred)
        predicted, restored = outputs[..., :6], outputs[..., 6:]
        views, combined = views_and_combined(jnp.asarray(blurred, jnp.float32))
        pairs = {
            "views": lambda: predicted - views,
            "mean_of_views": lambda: (predicted[..., :3] + predicted[..., 3:]) / 2 - combined,
            "view_difference": lambda: _left_minus_right(predicted) - _left_minus_right(views),
        }
        return restored, {name: (pairs[name]() ** 2).mean(axis=(1, 2, 3)) for name in terms}

    @nn.nowrap
    def params_without_gradient(self, terms: frozenset[str]) -> tuple[tuple[str, ...], ...]:
        """Returns the paths of the late decoders of the views if no term depends on them."""
        return () if terms else (("late_left",), ("late_right",))

    def _features(self, image):
        """Returns the inputs of the late decoders: the joint and the finest encoder features."""
        check_image(image.shape, self.views, self.tiling.multiple, (1, 2, 3))
        _, combined = views_and_combined(jnp.asarray(image, jnp.float32))
        skips = self.encoder(combined)
        halves = [self.early[name](skips) for name in _IMAGES]
        return jnp.concatenate([skips[1], *halves], axis=-1), skips[0]


def _left_minus_right(views):
    return views[..., :3] - views[..., 3:6]


class _Part(nn.Module):
    """A part of the network, with its widths."""

    widths: tuple[int, int, int, int, int]
    dtype: str = "float32"
    precision: str = "highest"

    def _conv(self, name, level, x, kernel_size=3):
        conv = ReluConv(self.widths[level], kernel_size, self.dtype, self.precision, name=name)
        return conv(x)

    def _up(self, level, x):
        return self._conv(f"upsample_{2**level}", level, nearest_upsample(x), 2)


class Encoder(_Part):
    """Three levels with two convolutions and a level with one, separated by max-pooling."""

    @nn.compact
    def __call__(self, x: Maps) -> list[Maps]:
        """Returns the features at scales 1, 1/2, 1/4 and 1/8."""
        skips = []
        for level in range(3):
            x = self._conv(f"encoder_{2**level}_0", level, x)
            x = self._conv(f"encoder_{2**level}_1", level, x)
            skips.append(x)
            x = max_pool(x)
        return [*skips, self._conv("encoder_8", 3, x)]


class EarlyDecoder(_Part):
    """The bottleneck of one image and its decoder up to half the size."""

    @nn.compact
    def __call__(self, skips: list[Maps]) -> Maps:
        x = self._conv("bottleneck", 4, max_pool(skips[3]))
        x = jnp.concatenate([skips[3], self._up(3, x)], axis=-1)
        x = self._conv("decoder_8", 3, x)
        x = jnp.concatenate([skips[2], self._up(2, x)], axis=-1)
        x = self._conv("decoder_4_1", 2, self._conv("decoder_4_0", 2, x))
        return self._up(1, x)


class LateDecoder(_Part):
    """The rest of the decoder of one image. It takes the joint features of all three images."""

    @nn.compact
    def __call__(self, joint: Maps, finest: Maps) -> Float[Array, "batch height width 3"]:
        """Returns the image, float32."""
        x = self._conv("decoder_2_1", 1, self._conv("decoder_2_0", 1, joint))
        x = jnp.concatenate([finest, self._up(0, x)], axis=-1)
        x = self._conv("decoder_1_1", 0, self._conv("decoder_1_0", 0, x))
        x = ReluConv(3, 3, self.dtype, self.precision, name="to_rgb")(x)
        return nn.sigmoid(same_conv(self, 3, 1, "output")(x).astype(jnp.float32))


def published_entries(network: MDP) -> dict[Path, Entry]:
    """Returns each variable's name and layout in the published Keras files.

    Keras numbers layers in order of creation in a new process. The published network takes and
    returns BGR images.
    """
    paths = [("encoder", f"encoder_{name}", "conv") for name in _ENCODER]
    for image in _IMAGES:
        paths += [(f"early_{image}", name, "conv") for name in (*_EARLY, "upsample_2")]
    for image in _IMAGES:
        paths += [(f"late_{image}", name, "conv") for name in _LATE]
        paths.append((f"late_{image}", "output"))
    parts = []
    for number, path in enumerate(paths):
        name = f"conv2d_{number}" if number else "conv2d"
        if path[-1] == "output":
            parts.append(keras_conv(path, name, bgr_views(3), bgr_views(0)))
        else:
            parts.append(keras_conv(path, name, *([] if number else [bgr_views(2)])))
    return joined(parts)
