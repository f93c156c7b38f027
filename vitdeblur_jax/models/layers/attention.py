"""Multi-head attention as a pure function, and the one place that chooses how it is computed."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.cpu_products import product_on_cpu


def dot_product_attention(
    query: Float[Array, "batch tokens heads width"],
    key: Float[Array, "batch tokens heads width"],
    value: Float[Array, "batch tokens heads width"],
    precision: str | None = None,
) -> Float[Array, "batch tokens heads width"]:
    """Returns softmax(query @ key / sqrt(width)) @ value for each head; softmax in float32.

    The way depends on the platform that the program is lowered for: on a CPU one head at a time, so
    that the scores of a head stay in the cache; elsewhere all heads at once, on a GPU in half
    precision by cuDNN's fused kernel.
    """
    all_heads = functools.partial(_all_heads, precision=precision)
    branches = {"cpu": functools.partial(_head_by_head, precision=precision)}
    if _cudnn_has_a_kernel(query):
        branches["cuda"] = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return jax.lax.platform_dependent(query, key, value, default=all_heads, **branches)


def _cudnn_has_a_kernel(query) -> bool:
    """Tells before tracing: on a machine without cuDNN its branch cannot even be traced."""
    device, width = jax.devices()[0], query.shape[-1]
    if query.dtype.itemsize != 2 or width % 8 or width > 128 or device.platform != "gpu":
        return False
    is_cuda = "cuda" in device.client.platform_version.lower()
    return is_cuda and float(device.compute_capability) >= 8


def _all_heads(query, key, value, precision):
    scores = jnp.einsum(
        "bthw,bshw->bhts", query, key, precision=precision, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5).astype(value.dtype)
    return jnp.einsum("bhts,bshw->bthw", weights, value, precision=precision)


def _head_by_head(query, key, value, precision):
    """Goes through the heads alone, so that the batch can lie on several devices.

    Normalises after the product with `value`: tokens x width divisions, not tokens x tokens.
    """
    scale = query.shape[-1] ** -0.5

    def one_head(head):
        q, k, v = head
        scores = product_on_cpu(q * scale, k, transposed=True, precision=precision)
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        mixed = product_on_cpu(weights.astype(v.dtype), v, precision=precision)
        return (mixed / total).astype(v.dtype)

    # The backward pass computes a head's scores again, in the cache, rather than fetch all heads'.
    one_head = jax.checkpoint(one_head, prevent_cse=False)
    heads_first = [x.transpose(2, 0, 1, 3) for x in (query, key, value)]
    return jax.lax.map(one_head, heads_first).transpose(1, 2, 0, 3)
