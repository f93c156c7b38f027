r"""Milliseconds of each implementation for XLA:CPU, against the plain one that it replaces.

    python -m benchmarks.cpu_forms

Both run in one process in turns, with the shapes of the `tiny` and `base` models, in float32 and in
bfloat16, forward and with the gradient. Prints the shortest times, and "may be deleted" if the
plain implementation is within 5 %. For rematerialization, which saves memory and not time, it
prints megabytes. If all lines of an implementation say "may be deleted", it is no longer needed.
Takes a few minutes on an idle machine.
"""

import functools
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitdeblur_jax.models.layers import transformer_block
from vitdeblur_jax.models.layers.convolution import direct_convolution
from vitdeblur_jax.models.layers.cpu_attention import attention_by_head
from vitdeblur_jax.models.layers.cpu_convolution import convolution_by_fourier_transform
from vitdeblur_jax.models.layers.cpu_depthwise import depthwise_by_shifts
from vitdeblur_jax.models.layers.cpu_products import dense_on_cpu
from vitdeblur_jax.models.layers.cpu_remat import gradient_computed_once
from vitdeblur_jax.models.layers.depthwise import depthwise_by_xla
from vitdeblur_jax.training.step import SAVE_MEMORY_ON_CPU

SECONDS = 2.0  # per pair of forms
ENOUGH = 1.05
# batch, tokens, width, heads of the encoders
BLOCKS = {"tiny": (4, 145, 128, 4), "base": (1, 962, 768, 12)}
# batch, side, channels, kernel, features of the image head's two convolutions
CONVOLUTIONS = {"tiny": ((4, 106, 3, 11, 3), (4, 118, 3, 13, 3)), "base": ((1, 320, 3, 11, 24),)}
CONVOLUTIONS["base"] += ((1, 332, 24, 13, 3),)


def main() -> None:
    """Prints a line for each form, model, dtype and direction."""
    for dtype in "float32", "bfloat16":
        for model, (batch, tokens, width, num_heads) in BLOCKS.items():
            where = f"{model}, {dtype}"
            tokens = arrays(dtype, (batch, tokens, width))[0]
            if dtype == "bfloat16":
                products(where, tokens)
            attention(where, tokens, num_heads)
            for sizes in CONVOLUTIONS[model]:
                convolution(where, dtype, *sizes)
            residual_gradients(where, tokens, num_heads)
            remat(where, tokens, num_heads)
        depthwise(f"Restormer, {dtype}", dtype)


def arrays(dtype: str, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Returns random arrays of standard deviation 1."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def products(where: str, x: jax.Array) -> None:
    """Dense layers in half precision: Mlp.fc1 with its GELU."""
    width = x.shape[-1]
    kernel, bias = arrays("float32", (width, 4 * width), (4 * width,))
    params = {"kernel": kernel * width**-0.5, "bias": bias}
    layer = nn.Dense(4 * width, dtype=x.dtype)

    def with_gelu(dense):
        return lambda params, x: jax.nn.gelu(dense(params, x), approximate=False)

    forms = dense_on_cpu, lambda params, x: layer.apply({"params": params}, x)
    compare(f"cpu_products, {where}", *map(with_gelu, forms), params, x)


def attention(where: str, x: jax.Array, num_heads: int) -> None:
    """Attention one head at a time."""
    batch, tokens, width = x.shape
    qkv = arrays(x.dtype, *3 * [(batch, tokens, num_heads, width // num_heads)])
    forms = attention_by_head, jax.nn.dot_product_attention
    compare(f"cpu_attention, {where}", *forms, *qkv)


def convolution(where, dtype, batch, side, channels, kernel, features) -> None:
    """Convolution by the Fourier transform."""
    shapes = (batch, side, side, channels), (kernel, kernel, channels, features)
    forms = convolution_by_fourier_transform, direct_convolution
    compare(f"cpu_convolution {kernel} x {kernel}, {where}", *forms, *arrays(dtype, *shapes))


def depthwise(where: str, dtype: str) -> None:
    """Depthwise convolution by shifts, in the first level of Restormer."""
    operands = arrays(dtype, (1, 128, 128, 48), (3, 3, 1, 48))
    compare(f"cpu_depthwise, {where}", depthwise_by_shifts, depthwise_by_xla, *operands)


def residual_gradients(where: str, x: jax.Array, num_heads: int) -> None:
    """A chain of residual blocks, with each gradient computed once, or as XLA likes."""
    blocks, params = chain(transformer_block.TransformerBlock, x, num_heads)

    def plainly(params, x):
        transformer_block.gradient_computed_once = lambda x: x
        out = blocks(params, x)
        transformer_block.gradient_computed_once = gradient_computed_once
        return out

    compare(
        f"gradient_computed_once, {where}", blocks, plainly, params, x, directions=("gradient",)
    )


def remat(where: str, x: jax.Array, num_heads: int) -> None:
    """Recomputation in the backward pass: megabytes of temporary memory, not milliseconds."""
    block = transformer_block.TransformerBlock
    sizes = []
    for block_class in transformer_block.RematOnCpuBlock, nn.remat(block):
        blocks, params = chain(block_class, x, num_heads)
        lowered = jax.jit(gradient_of(blocks)).lower(params, x)
        compiled = lowered.compile(compiler_options=SAVE_MEMORY_ON_CPU)
        sizes.append(compiled.memory_analysis().temp_size_in_bytes / 1e6)
    show(f"cpu_remat, {where}, memory", *sizes, "MB")


def chain(block_class: type[nn.Module], x: jax.Array, num_heads: int) -> tuple[Callable, dict]:
    """Returns four blocks as a function of parameters and tokens, and their parameters."""
    settings = {"width": x.shape[-1], "num_heads": num_heads, "dtype": x.dtype.name}
    blocks = nn.Sequential([block_class(**settings) for _ in range(4)])
    shapes = jax.eval_shape(blocks.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(0)
    scale = x.shape[-1] ** -0.5

    def fill(leaf):
        return jnp.asarray(scale * rng.standard_normal(leaf.shape, np.float32))

    return lambda params, x: blocks.apply({"params": params}, x), jax.tree.map(fill, shapes)


def gradient_of(function: Callable) -> Callable:
    """Returns the gradients of the sum of squares of all arguments."""

    def loss(*args):
        return (function(*args).astype(jnp.float32) ** 2).mean()

    return lambda *args: jax.grad(loss, tuple(range(len(args))))(*args)


def compare(what, on_cpu, plain, *args, directions=("forward", "gradient")) -> None:
    """Prints the shortest times of both forms, run in turns."""
    for direction in directions:
        wrap = gradient_of if direction == "gradient" else lambda function: function
        forms = [functools.partial(jax.jit(wrap(form)), *args) for form in (on_cpu, plain)]
        times = [[], []]
        for form in forms:
            jax.block_until_ready(form())
        started = time.perf_counter()
        while len(times[0]) < 3 or time.perf_counter() - started < SECONDS:
            for form, measured in zip(forms, times, strict=True):
                begun = time.perf_counter()
                jax.block_until_ready(form())
                measured.append(1000 * (time.perf_counter() - begun))
        show(f"{what}, {direction}", *map(min, times), "ms")


def show(what: str, on_cpu: float, plain: float, unit: str) -> None:
    """Prints both figures, their ratio, and what follows."""
    verdict = "" if plain > ENOUGH * on_cpu else "; may be deleted"
    print(
        f"{what}: {on_cpu:.2f} {unit}, plain {plain:.2f} {unit}, {plain / on_cpu:.2f} x{verdict}",
        flush=True,
    )


if __name__ == "__main__":
    main()
