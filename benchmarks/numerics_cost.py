r"""What bfloat16 and TF32 cost in PSNR, with the bundled weights.

    python -m benchmarks.numerics_cost --pairs FOLDER ...

`--pairs` are folders of real pairs that `vitdeblur data check` recognizes. The first line is the
image of the golden output in `tests/data`, which has no target. On a GPU, TF32 is
`precision="default"`. Elsewhere it is emulated: the inputs of all products and convolutions are
rounded to 10 bits of mantissa.
"""

import argparse
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.sources import FolderSource
from vitdeblur_jax.inference import restoration
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.inference.pixels import as_float
from vitdeblur_jax.metrics import measure
from vitdeblur_jax.models.layers.views import mean_of_views
from vitdeblur_jax.models.network import with_numerics
from vitdeblur_jax.utils.table import format_table

_GOLDEN = Path(__file__).parents[1] / "tests/data/evaluation_seed0.npz"
_MANTISSA_OF_TF32 = 10  # bits


def main() -> None:
    """Prints a line for each image and each numerics."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", nargs="*", default=[], help="folders of real pairs")
    folders = parser.parse_args().pairs
    pretrained = load_pretrained()
    with np.load(_GOLDEN) as file:
        rows = rows_of(pretrained, "golden image", as_float(file["image_rgb"]), None)
    for folder in folders:
        source = FolderSource(find_pairs(folder, "pairs"), 8)
        for index, pair in enumerate(source.pairs):
            blurred = mean_of_views(as_float(source[index]["blurred"]))
            rows += rows_of(pretrained, pair.name, blurred, as_float(source[index]["sharp"]))
    header = ("image", "numerics", "PSNR to the target, dB", "PSNR to float32, dB", "largest")
    print(format_table(header, rows))


def rows_of(
    pretrained: Pretrained, name: str, blurred: np.ndarray, sharp: np.ndarray | None
) -> list[tuple[str, ...]]:
    """Returns a line for each numerics: the gain lost, and the distance from float32."""
    exact, rows = None, []
    for numerics, context, changes in (
        ("float32", contextlib.nullcontext, {}),
        ("TF32", tf32, {"precision": "default"}),
        ("bfloat16", contextlib.nullcontext, {"dtype": "bfloat16"}),
    ):
        model = with_numerics(pretrained.model, **changes)
        with context():
            restored = deblur(blurred, dataclasses.replace(pretrained, model=model)).clip(0, 1)
        exact = restored if exact is None else exact
        error = np.abs(restored - exact)
        rows.append(
            (
                name,
                numerics,
                "" if sharp is None else f"{measure(restored, sharp)['psnr']:.4f}",
                f"{-10 * np.log10(np.square(error).mean()):.1f}" if error.any() else "",
                f"{error.max():.1e}",
            )
        )
    return rows


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Rounds the inputs of products to TF32, unless the device does."""
    if jax.default_backend() == "gpu":
        yield
        return
    with (
        mock.patch.object(restoration, "window_features", rounded(restoration.window_features)),
        mock.patch.object(restoration, "head_tile", rounded(restoration.head_tile)),
    ):
        yield


def rounded(function: Callable) -> Callable:
    """Returns the function of `(network, *arrays)` with the inputs of products rounded to TF32."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(network, *arrays):
        plain = functools.partial(function, network)
        program, shape = jax.make_jaxpr(plain, return_shape=True)(*arrays)
        (result,) = _evaluated(program, jax.tree.leaves(arrays))
        return result.astype(shape.dtype)

    return run


def _evaluated(program: ClosedJaxpr, arguments: list) -> list:
    jaxpr = program.jaxpr
    variables = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(variables, [*program.consts, *arguments], strict=True))

    def value_of(variable):
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        found = _outputs(equation, [value_of(variable) for variable in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [value_of(variable) for variable in jaxpr.outvars]


def _outputs(equation, inputs):
    primitive, params = equation.primitive, equation.params
    if primitive.name == "platform_index":  # takes the form for GPUs
        return [len(params["platforms"]) - 1]
    if primitive.name == "cond" and isinstance(inputs[0], int):
        return _evaluated(params["branches"][inputs[0]], inputs[1:])
    if primitive.name in ("jit", "custom_jvp_call", "custom_vjp_call"):
        return _evaluated(params.get("jaxpr") or params["call_jaxpr"], inputs)
    if primitive.name in ("dot_general", "conv_general_dilated"):
        inputs = [jax.lax.reduce_precision(value, 8, _MANTISSA_OF_TF32) for value in inputs]
    found = primitive.bind(*inputs, **params)
    return found if primitive.multiple_results else [found]


if __name__ == "__main__":
    main()
