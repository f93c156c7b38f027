"""Multi-head attention as a pure function, and the one place that chooses how it is computed."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
    if query.dtype.itemsize == 2 and jax.default_backend() == "gpu":
        branches["cuda"] = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return jax.lax.platform_dependent(query, key, value, default=all_heads, **branches)


def _all_heads(query, key, value, precision):
    scores = jnp.einsum(
        "bthw,bshw->bhts", query, key, precision=precision, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5).astype(value.dtype)
    return jnp.einsum("bhts,bshw->bthw", weights, value, precision=precision)


def _head_by_head(query, key, value, precision):
    """Normalises after the product with `value`: tokens x width divisions, not tokens x tokens."""
    batch, tokens, heads, width = query.shape

    def one_head(head):
        q, k, v = head
        scores = jnp.matmul(
            q * width**-0.5, k.T, precision=precision, preferred_element_type=jnp.float32
        )
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        mixed = jnp.matmul(
            weights.astype(v.dtype), v, precision=precision, preferred_element_type=jnp.float32
        )
        return (mixed / total).astype(v.dtype)

    def split(x):
        return x.transpose(0, 2, 1, 3).reshape(batch * heads, tokens, width)

    mixed = jax.lax.map(one_head, (split(query), split(key), split(value)))
    return mixed.reshape(batch, heads, tokens, width).transpose(0, 2, 1, 3)
