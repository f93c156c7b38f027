"""The contextual encoder, which learns abstract, sharp features, and its training heads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.dense import Dense
from vitdeblur_jax.models.layers.transformer_block import layer_norm, transformer_blocks
from vitdeblur_jax.utils.errors import UserError


class ContextualEncoder(nn.Module):
    """Transformer blocks and a norm on the last primary output, then a scale per channel.

    For a sharp image, the losses use the output of the norm. For a blurred image, losses and
    decoder use h_s: this output times `blur_parameter`, which is initialized to zero.

    Attributes:
      width, depth, num_heads, mlp_ratio: Sizes of the transformer.
      projector_widths: Hidden and output channels of the VICReg projector.
      remat: Whether to recompute the blocks in the backward pass.
      dtype, precision: See `TransformerBlock`.
    """

    width: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    projector_widths: tuple[int, int] = (256, 128)
    remat: bool = False
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        self.blocks = transformer_blocks(
            self.depth,
            self.remat,
            width=self.width,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            dtype=self.dtype,
            precision=self.precision,
        )
        self.norm = layer_norm(1e-5, self.dtype)
        self.blur_parameter = self.param("blur_parameter", nn.initializers.zeros, (self.width,))
        self.sharpness_norm = layer_norm(1e-5)
        self.sharpness = Dense(1, dtype="float32", precision=self.precision)
        self.projector = Projector(self.projector_widths, self.precision)

    def __call__(
        self, tokens: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        """Returns h_s."""
        return self.scale(self.normalized_tokens(tokens))

    def normalized_tokens(
        self, tokens: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        """Returns the tokens after the blocks and the norm, without `blur_parameter`."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def scale(
        self, normalized: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        """Returns h_s from the output of `normalized_tokens`."""
        return normalized * self.blur_parameter.astype(self.dtype)

    def sharpness_logit(
        self, normalized: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, " batch"]:
        """Returns the float32 logit of "this image is sharp" from normalized tokens."""
        return self.sharpness(self.sharpness_norm(_mean_without_class_token(normalized)))[:, 0]

    def project(
        self, tokens: Float[Array, "batch tokens embedding"], train: bool
    ) -> Float[Array, "batch projection"]:
        """Returns the float32 projection for the VICReg terms.

        Args:
          tokens: The tokens h_s of a blurred image, or the normalized tokens of a sharp one.
          train: Whether to normalize with the batch's own statistics and update the running ones.
            The collection "batch_stats" must then be mutable.
        """
        return self.projector(_mean_without_class_token(tokens), train)


def _mean_without_class_token(tokens):
    return tokens[:, 1:].astype(jnp.float32).mean(axis=1)


class Projector(nn.Module):
    """A linear layer, batch norm, ReLU, and a linear layer without bias."""

    widths: tuple[int, int]
    precision: str | None = None

    def setup(self):
        hidden, output = self.widths
        self.hidden = Dense(hidden, dtype="float32", precision=self.precision)
        self.batch_norm = BatchNorm()
        self.output = Dense(output, use_bias=False, dtype="float32", precision=self.precision)

    def __call__(
        self, x: Float[Array, "batch width"], train: bool
    ) -> Float[Array, "batch projection"]:
        return self.output(jax.nn.relu(self.batch_norm(self.hidden(x), train)))


class BatchNorm(nn.Module):
    """Batch normalization with PyTorch's running statistics.

    The running variance is unbiased, as in PyTorch and the published checkpoints. Linen's is
    biased.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "batch width"], train: bool) -> Float[Array, "batch width"]:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        running_variance = self.variable("batch_stats", "var", jnp.ones, width)
        mean, variance = running_mean.value, running_variance.value
        if train and not self.is_initializing():
            if x.shape[0] < 2:
                raise UserError("batch norm needs at least 2 images to train on; this batch has 1")
            mean, variance = x.mean(axis=0), x.var(axis=0)
            unbiased = variance * x.shape[0] / (x.shape[0] - 1)
            keep, take = self.momentum, 1 - self.momentum
            running_mean.value = keep * running_mean.value + take * mean
            running_variance.value = keep * running_variance.value + take * unbiased
        return (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale + bias
