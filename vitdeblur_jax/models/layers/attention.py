"""Multi-head attention, with the fastest implementation for each platform."""

import contextlib
import functools

import jax
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.cpu_attention import attention_by_head
from vitdeblur_jax.models.layers.custom_gradient import with_gradient


@functools.partial(jax.jit, static_argnames="precision", inline=True)  # one trace for all blocks
def dot_product_attention(
    query: Float[Array, "batch tokens num_heads head_dim"],
    key: Float[Array, "batch tokens num_heads head_dim"],
    value: Float[Array, "batch tokens num_heads head_dim"],
    precision: str | None = None,
) -> Float[Array, "batch tokens num_heads head_dim"]:
    """Returns softmax(query @ key^T / sqrt(head_dim)) @ value for each head; softmax in float32.

    It equals `jax.nn.dot_product_attention`. In half precision a GPU uses cuDNN's fused kernel. A
    CPU computes one head at a time.
    """
    plain = functools.partial(_plain, precision=precision)
    branches = {"cpu": functools.partial(attention_by_head, precision=precision)}
    if _cudnn_has_a_kernel(query):
        fused = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
        # The fused kernel has a backward pass but no forward-mode derivative.
        branches["cuda"] = with_gradient(
            fused, functools.partial(jax.vjp, fused), lambda pull_back, g: pull_back(g), plain
        )
    return jax.lax.platform_dependent(query, key, value, default=plain, **branches)


def _cudnn_has_a_kernel(query) -> bool:
    """Returns whether cuDNN supports this query; without cuDNN its branch cannot be traced."""
    device, head_dim = jax.devices()[0], query.shape[-1]
    if query.dtype.itemsize != 2 or head_dim % 8 or head_dim > 128 or device.platform != "gpu":
        return False
    is_cuda = "cuda" in device.client.platform_version.lower()
    return is_cuda and float(device.compute_capability) >= 8


def _plain(query, key, value, precision):
    # `jax.nn.dot_product_attention` has no argument for the precision.
    context = jax.default_matmul_precision(precision) if precision else contextlib.nullcontext()
    with context:
        return jax.nn.dot_product_attention(query, key, value)
