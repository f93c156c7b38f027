"""Seconds to defocus a training crop on one core: the package's NumPy and SciPy against jitted JAX.

    python -m benchmarks.defocus_speed

Everything runs on one core, as in a worker process. The JAX version blurs the same slices with
XLA's FFT. Its times exclude compilation, which every number of slices needs again, and the steps
that NumPy does for both (edges, kernels, positions between slices). The last line measures
`synthesize` as a whole, with the default distribution of scenes.
"""

import os
import time
from functools import partial

import numpy as np

SIDE = 360
LARGEST = 8.0


def main() -> None:
    """Prints the seconds and their ratio."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before XLA makes its threads

    from vitdeblur_jax.data.defocus.apertures import disk
    from vitdeblur_jax.data.defocus.settings import SynthesisSettings
    from vitdeblur_jax.data.defocus.synthesis import synthesize
    from vitdeblur_jax.data.defocus.thin_lens import render, surfaces_of

    image = np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE
    scenes = {
        "smooth field": LARGEST * (x + y * (1 - y)) - 2,
        "four layers": np.float32(LARGEST / 2) * (np.floor(2 * x) + np.floor(2 * y) - 1),
    }
    for name, radius in scenes.items():
        surfaces = surfaces_of(image, radius)
        in_jax = jax_rendering(surfaces)
        difference = np.abs(in_jax() - render(surfaces, disk())).max()
        in_numpy = partial(render, surfaces, disk())
        numpy_seconds, jax_seconds = shortest_times(in_numpy, in_jax)
        print(
            f"{name}: NumPy {numpy_seconds:.3f} s, JAX {jax_seconds:.3f} s, "
            f"{jax_seconds / numpy_seconds:.2f} x; largest difference {difference:.1e}"
        )
    settings, rng = SynthesisSettings(), np.random.default_rng(0)
    sharp = (255 * image).astype(np.uint8)
    started = time.perf_counter()
    for _ in range(60):
        synthesize(sharp, settings, rng)
    print(f"synthesize: {60 / (time.perf_counter() - started):.1f} crops per second")


def jax_rendering(surfaces):
    """Returns a JAX function that renders the surfaces through a disk, like `render`."""
    import jax
    import jax.numpy as jnp
    from scipy.fft import next_fast_len

    from vitdeblur_jax.data.defocus.apertures import disk, point_image
    from vitdeblur_jax.data.defocus.thin_lens import _slice_radii

    radii = _slice_radii(surfaces)
    margin = int(np.ceil(np.abs(radii).max()))
    kernels = np.zeros((len(radii), 2 * margin + 1, 2 * margin + 1), np.float32)
    for kernel, radius in zip(kernels, radii, strict=True):
        small = point_image(disk(), float(radius))
        edge = margin - len(small) // 2
        kernel[edge : edge + len(small), edge : edge + len(small)] = small
    places = [np.interp(s.radius, radii, np.arange(len(radii))) for s in surfaces]
    places = jnp.asarray(np.stack(places), jnp.float32)
    opaque = [
        np.dstack((s.color, np.ones_like(s.present))) * s.present[..., None] for s in surfaces
    ]
    opaque = jnp.asarray(np.stack(opaque).transpose(0, 3, 1, 2), jnp.float32)

    @jax.jit
    def render(opaque, places, kernels):
        widths = ((margin, margin), (margin, margin))
        opaque = jnp.pad(opaque, ((0, 0), (0, 0), *widths), mode="symmetric")
        places = jnp.pad(places, ((0, 0), *widths), mode="symmetric")
        height, width = places.shape[1:]
        size = [2 * next_fast_len((side + 1) // 2, real=True) for side in (height, width)]

        def add(gathered, slice_):
            index, kernel = slice_
            weights = jnp.maximum(1 - jnp.abs(places - index), 0)
            # A Python sum: XLA's sum over this axis takes 8 times as long.
            packed = sum(weights[i] * opaque[i] for i in range(len(opaque)))
            spectrum = jnp.fft.rfft2(packed, size) * jnp.fft.rfft2(kernel, size)
            blurred = jnp.fft.irfft2(spectrum, size)  # the margin absorbs values that wrap around
            blurred = jnp.roll(blurred, (-margin, -margin), (1, 2))[:, :height, :width]
            share = jnp.minimum(1, (1 - gathered[3]) / jnp.maximum(blurred[3], 1e-6))
            return gathered + share * blurred, None

        start = jnp.zeros(opaque.shape[1:])
        indices = jnp.arange(len(kernels), dtype=jnp.float32)
        gathered, _ = jax.lax.scan(add, start, (indices, kernels))
        gathered = gathered[:, margin:-margin, margin:-margin]
        return (gathered[:3] / gathered[3]).transpose(1, 2, 0)

    kernels = jnp.asarray(kernels)
    return lambda: np.asarray(render(opaque, places, kernels))


def shortest_times(*works, rounds: int = 15) -> list[float]:
    """Returns the shortest time of each function in seconds; they take turns after a warm-up."""
    times = []
    for _ in range(rounds + 1):
        times.append([])
        for work in works:
            started = time.perf_counter()
            work()
            times[-1].append(time.perf_counter() - started)
    return [min(column) for column in zip(*times[1:], strict=True)]


if __name__ == "__main__":
    main()
