"""The count of products against formulas by hand, and against XLA's where XLA counts right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.flops import count_flops
from vitdeblur_jax.models.layers.convolution import valid_convolution
from vitdeblur_jax.models.layers.cpu_remat import remat_on_cpu

MATRIX = jnp.zeros((16, 16))
IMAGE, KERNEL = jnp.zeros((2, 20, 18, 3)), jnp.zeros((5, 7, 3, 4))
CONVOLUTION = 2 * (2 * 16 * 12 * 4) * (5 * 7 * 3)


def count(function, *arguments, platform="tpu"):
    return count_flops(jax.make_jaxpr(function)(*arguments), platform)


def convolve(image, kernel, **settings):
    numbers = ("NHWC", "HWIO", "NHWC")
    settings = {"window_strides": (1, 1), "padding": "VALID", **settings}
    return jax.lax.conv_general_dilated(image, kernel, dimension_numbers=numbers, **settings)


def test_a_product_of_batches():
    flops = count(
        lambda x, y: jnp.einsum("bij,bjk->bik", x, y), np.ones((5, 2, 3)), np.ones((5, 3, 7))
    )
    assert flops == {"default": 2 * 5 * 2 * 3 * 7}


def test_a_scan_counts_as_often_as_it_turns():
    def chain(matrix):
        return jax.lax.scan(lambda x, _: (x @ matrix, None), matrix, length=7)[0]

    assert count(jax.jit(chain), MATRIX) == {"default": 7 * 2 * 16**3}


def test_precisions_are_told_apart():
    def products(x):
        half = x.astype(jnp.bfloat16)
        return half @ half, jnp.matmul(x, x, precision="highest"), jnp.matmul(x, x)

    once = 2 * 16**3
    assert count(products, MATRIX) == {"bfloat16": once, "highest": once, "default": once}


def test_a_convolution():
    assert count(convolve, IMAGE, KERNEL) == {"default": CONVOLUTION}


def test_zeros_of_padding_are_no_arithmetic():
    flops = count(lambda *x: convolve(*x, padding=((4, 4), (6, 6))), IMAGE, KERNEL)
    assert flops == {"default": 2 * 2 * 4 * 3 * (20 * 5) * (18 * 7)}


@pytest.mark.parametrize("settings", [{}, {"window_strides": (3, 2)}, {"padding": "SAME"}])
def test_each_gradient_of_a_convolution_takes_what_it_takes(settings):
    def loss(image, kernel):
        return (convolve(image, kernel, **settings) ** 2).sum()

    forward = count(loss, IMAGE, KERNEL).total()
    assert count(jax.value_and_grad(loss, (0, 1)), IMAGE, KERNEL).total() == 3 * forward


def test_groups_of_features():
    flops = count(lambda *x: convolve(*x, feature_group_count=3), IMAGE, jnp.zeros((5, 7, 1, 6)))
    assert flops == {"default": 2 * (2 * 16 * 12 * 6) * (5 * 7)}


def test_a_gradient_with_what_is_computed_twice():
    def loss(weights, x):
        layer = remat_on_cpu(lambda w, x: jnp.tanh(x @ w))
        return layer(weights, layer(weights, x)).sum()

    # Each layer: forward, again on the way back, the gradients of weights and input; but nobody
    # asks for the gradient of the first input.
    assert count(jax.value_and_grad(loss), MATRIX, MATRIX).total() == (2 * 4 - 1) * 2 * 16**3


def test_what_no_output_needs_is_left_out():
    assert count(lambda x: (x @ x, x + 1)[1], MATRIX) == {}


def test_the_branch_of_the_platform_counts():
    assert count(valid_convolution, IMAGE, KERNEL) == {"default": CONVOLUTION}
    assert count(valid_convolution, IMAGE, KERNEL, platform="cpu") == {}  # by Fourier transforms


def test_the_longer_branch_of_a_condition_counts():
    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count(either, MATRIX).total() == 2 * 2 * 16**3


def test_products_in_a_while_loop_cannot_be_counted():
    def loop(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="while loop"):
        count(loop, MATRIX)
