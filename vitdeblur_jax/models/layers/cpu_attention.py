"""Attention one head at a time, for XLA:CPU.

XLA:CPU writes the scores of all heads to memory and reads them again for the softmax and for the
second product. Those of a single head stay in the cache.

`python -m benchmarks.cpu_forms`, on two cores with AVX-512: `jax.nn.dot_product_attention` takes
2.3 to 11 times as long in the `base` model, and 1.3 to 1.7 times in the gradient of `tiny`. Forward
in `tiny` it is up to 1.3 times as fast, 0.1 ms per block.

Delete this file, and its branch in `attention.py`, when all its lines of that command say so.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.cpu_products import product_on_cpu


def attention_by_head(
    query: Float[Array, "batch tokens num_heads head_dim"],
    key: Float[Array, "batch tokens num_heads head_dim"],
    value: Float[Array, "batch tokens num_heads head_dim"],
    precision: str | None = None,
) -> Float[Array, "batch tokens num_heads head_dim"]:
    """Returns softmax(query @ key^T / sqrt(head_dim)) @ value for each head; softmax in float32.

    It loops over the heads only, so the batch may be sharded. It normalizes after the product with
    `value`: tokens x head_dim divisions, not tokens x tokens.
    """
    scale = query.shape[-1] ** -0.5

    def one_head(head):
        q, k, v = head
        scores = product_on_cpu(q * scale, k, transposed=True, precision=precision)
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        mixed = product_on_cpu(weights.astype(v.dtype), v, precision=precision)
        return (mixed / total).astype(v.dtype)

    # The backward pass recomputes the scores of a head instead of reading those of all heads.
    one_head = jax.checkpoint(one_head, prevent_cse=False)
    heads_first = [x.transpose(2, 0, 1, 3) for x in (query, key, value)]
    return jax.lax.map(one_head, heads_first).transpose(1, 2, 0, 3)
