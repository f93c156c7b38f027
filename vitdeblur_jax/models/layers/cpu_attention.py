"""Attention one head at a time, for XLA:CPU.

XLA:CPU writes the scores of all heads to memory and reads them again for the softmax and for the
second product. Those of a single head stay in the cache. The backward pass needs more arrays of
that size, so it takes a block of queries at a time.

`python -m benchmarks.cpu_forms`, on two cores with AVX-512: `jax.nn.dot_product_attention` takes
3.1 to 5.2 times as long in the `base` model, and 1.5 times in the gradient of `tiny`. Forward in
`tiny` it takes 0.9 to 1.2 times as long.

Delete this file, and its branch in `attention.py`, when all its lines of that command say so.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.cpu_products import product_of_columns, product_on_cpu
from vitdeblur_jax.models.layers.custom_gradient import with_gradient

QUERIES = 256  # at most, in a block of the backward pass


def attention_by_head(
    query: Float[Array, "batch tokens num_heads head_dim"],
    key: Float[Array, "batch tokens num_heads head_dim"],
    value: Float[Array, "batch tokens num_heads head_dim"],
    precision: str | None = None,
) -> Float[Array, "batch tokens num_heads head_dim"]:
    """Returns softmax(query @ key^T / sqrt(head_dim)) @ value for each head; softmax in float32.

    It loops over the heads only, so the batch may be sharded. It normalizes after the product with
    `value`: tokens x head_dim divisions, not tokens x tokens. The backward pass recomputes the
    scores instead of reading those of all heads.
    """
    attend = functools.partial(_mix, precision)

    def forward(*qkv):
        mixed = attend(*qkv)
        return mixed, (*qkv, mixed)

    return with_gradient(attend, forward, functools.partial(_gradients, precision))(
        query, key, value
    )


def _mix(precision, *qkv):
    def one_head(head):
        query, key, value = head
        weights, total = _weights(_scaled(query), key, precision)
        return product_on_cpu(weights.astype(value.dtype), value, precision=precision) / total

    return _for_each_head(one_head, qkv)


def _gradients(precision, kept, gradient):
    """Returns the gradients of query, key and value."""

    def one_head(head):
        query, key, value, mixed, gradient = head
        # Not in the blocks: XLA:CPU's fusion of this sum with a product is wrong under `jax.vmap`.
        mean = (mixed.astype(jnp.float32) * gradient).sum(axis=-1, keepdims=True)
        blocks = [_in_blocks(x) for x in (_scaled(query), gradient, mean)]
        start = (jnp.zeros(key.shape, jnp.float32),) * 2
        of_block = functools.partial(_gradients_of_block, precision, key, value)
        (of_key, of_value), of_queries = jax.lax.scan(of_block, start, blocks)
        of_query = of_queries.swapaxes(0, 1).reshape(query.shape[0], -1, query.shape[-1])
        return of_query[:, : query.shape[1]] * query.shape[-1] ** -0.5, of_key, of_value

    return _for_each_head(one_head, (*kept, gradient))


def _gradients_of_block(precision, key, value, sums, block):
    """Adds a block's part to the gradients of key and value; returns those and the queries'."""
    query, gradient, mean = block
    weights, total = _weights(query, key, precision)
    gradient = (gradient / total).astype(value.dtype)
    of_weights = product_on_cpu(gradient, value, transposed=True, precision=precision)
    of_scores = (weights * (of_weights - mean / total)).astype(value.dtype)
    of_query = product_on_cpu(of_scores, key, precision=precision)
    of_key = product_of_columns(of_scores, query, precision)
    of_value = product_of_columns(weights.astype(value.dtype), gradient, precision)
    return (sums[0] + of_key, sums[1] + of_value), of_query


def _weights(query, key, precision):
    """Returns float32 weights in (0, 1] and their sum over the keys."""
    scores = product_on_cpu(query, key, transposed=True, precision=precision)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    return weights, weights.sum(axis=-1, keepdims=True)


def _scaled(query):
    return query * query.shape[-1] ** -0.5


def _in_blocks(x):
    """Returns (blocks, batch, rows, head_dim), with zeros behind the last token."""
    batch, tokens, width = x.shape
    count = -(-tokens // QUERIES)
    rows = -(-tokens // count)
    padded = jnp.pad(x, ((0, 0), (0, count * rows - tokens), (0, 0)))
    return padded.reshape(batch, count, rows, width).swapaxes(0, 1)


def _for_each_head(function, arrays):
    """Maps `function` of (batch, tokens, head_dim) arrays over the third axis of `arrays`."""
    heads_first = [x.transpose(2, 0, 1, 3) for x in arrays]
    # XLA:CPU would convert the whole result in half precision to float32 and back for each head.
    found = jax.lax.map(function, heads_first)
    return jax.tree.map(lambda x: x.transpose(1, 2, 0, 3).astype(arrays[0].dtype), found)
