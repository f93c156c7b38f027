"""PSNR, SSIM and MAE against scikit-image and recorded values."""

import jax
import jaxtyping
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter
from skimage import metrics as theirs

from vitdeblur_jax import metrics
from vitdeblur_jax.metrics import (
    mean_absolute_error,
    measure,
    peak_signal_noise_ratio,
    structural_similarity,
    structural_similarity_gaussian,
    structural_similarity_luminance,
)
from vitdeblur_jax.utils.errors import UserError

METRICS = (
    peak_signal_noise_ratio,
    structural_similarity,
    mean_absolute_error,
    structural_similarity_gaussian,
)
COMPILED = tuple(map(jax.jit, METRICS))
SHAPE = (40, 48, 3)  # one for all, to compile once

# Measured once with scikit-image 0.26 in float64: PSNR and SSIM of an image and its Gaussian blur.
RECORDED = {
    "astronaut": (2, np.s_[:256, :320], 25.632366426090453, 0.8208094001327874),
    "chelsea": (1, np.s_[:, :], 33.67955869376277, 0.9152691238636389),
}


def recorded_pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the blurred and the sharp image, float64."""
    radius, crop, *_ = RECORDED[name]
    sharp = Image.fromarray(getattr(skimage.data, name)())
    blurred = sharp.filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(blurred)[crop] / 255, np.asarray(sharp)[crop] / 255


def real_pair() -> tuple[np.ndarray, np.ndarray]:
    blurred, sharp = recorded_pair("astronaut")
    face = np.s_[90:130, 190:238]
    return blurred[face], sharp[face]


def random_pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random(SHAPE), rng.random(SHAPE)


def flat_pair() -> tuple[np.ndarray, np.ndarray]:
    """Returns two flat images: all variances are zero, their rounding errors are not."""
    return np.full(SHAPE, 0.7), np.full(SHAPE, 0.9)


PAIRS = {"real": real_pair, "random": random_pair, "flat": flat_pair}


def ours(image: np.ndarray, reference: np.ndarray, dtype: type) -> list[float]:
    with jax.enable_x64(dtype is np.float64):
        values = [
            metric(*jax.device_put([image.astype(dtype), reference.astype(dtype)]))
            for metric in COMPILED
        ]
        assert all(value.dtype == dtype for value in values)
        return [float(value) for value in values]


def scikit_image(image: np.ndarray, reference: np.ndarray) -> list[float]:
    return [
        theirs.peak_signal_noise_ratio(reference, image, data_range=1),
        theirs.structural_similarity(reference, image, data_range=1, channel_axis=-1),
        np.abs(image - reference).mean(),
        theirs.structural_similarity(
            reference,
            image,
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        ),
    ]


@pytest.mark.parametrize("pair", PAIRS)
def test_float64_is_scikit_image(pair):
    images = PAIRS[pair]()
    np.testing.assert_allclose(ours(*images, np.float64), scikit_image(*images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("pair", PAIRS)
def test_float32_is_near_scikit_image(pair):
    """Of SSIM least digits stay: where all is flat it is a ratio of rounding errors and C2."""
    images = PAIRS[pair]()
    differences = np.abs(np.subtract(ours(*images, np.float32), scikit_image(*images)))
    of_ssim = 1e-4 if pair == "flat" else 2e-6
    assert (differences <= [1e-4, of_ssim, 1e-6, of_ssim]).all(), differences


@pytest.mark.parametrize("name", RECORDED)
def test_float64_is_what_was_recorded(name):
    psnr, ssim, *_ = ours(*recorded_pair(name), np.float64)
    assert (psnr, ssim) == pytest.approx(RECORDED[name][2:], rel=0, abs=1e-10)


def test_order_of_images_does_not_matter():
    image, reference = real_pair()
    there, back = ours(image, reference, np.float64), ours(reference, image, np.float64)
    assert there == pytest.approx(back, rel=0, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identical_images(dtype):
    image, _ = random_pair()
    assert ours(image, image, dtype) == pytest.approx([np.inf, 1, 0, 1], rel=0, abs=1e-7)


def test_nan_is_not_hidden():
    image, reference = random_pair()
    image[5, 5, 1] = np.nan
    assert np.isnan(ours(image, reference, np.float64)).all()


@pytest.mark.parametrize("size", [(6, 20), (20, 6), (1, 1)])
def test_ssim_refuses_images_smaller_than_its_window(size):
    image = np.zeros((*size, 3), np.float32)
    said = f"the image is {size[1]} x {size[0]}"
    with pytest.raises(UserError, match=f"at least 7 x 7 pixels; {said}"):
        jax.eval_shape(structural_similarity, image, image)
    for metric in (structural_similarity_gaussian, structural_similarity_luminance):
        with pytest.raises(UserError, match=f"at least 11 x 11 pixels; {said}"):
            jax.eval_shape(metric, image, image)


@pytest.mark.parametrize("side", [7, 11])
def test_ssim_of_the_smallest_image(side):
    image, reference = (array[:side, :side] for array in random_pair())
    with jax.enable_x64(True):
        ssim = structural_similarity if side == 7 else structural_similarity_gaussian
        options = {"win_size": 7}
        if side == 11:
            options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected = theirs.structural_similarity(
            reference, image, data_range=1, channel_axis=-1, **options
        )
        assert float(jax.jit(ssim)(image, reference)) == pytest.approx(expected, rel=0, abs=1e-10)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "ssim",
    [
        structural_similarity,
        structural_similarity_gaussian,
        structural_similarity_luminance,
    ],
)
def test_gradients_of_ssim_are_finite(pair, ssim):
    image, reference = jax.device_put(PAIRS[pair]())
    slope = jax.jit(jax.grad(ssim))
    gradient = np.asarray(slope(image, reference))
    assert np.isfinite(gradient).all()
    assert np.isfinite(slope(image, image)).all()
    if pair != "flat":
        uphill = np.asarray(image) + 0.01 * gradient / np.abs(gradient).max()
        ssim = jax.jit(ssim)
        assert ssim(uphill, reference) > ssim(image, reference)


def test_the_gradient_of_psnr_is_finite_for_identical_images():
    image = jax.device_put(random_pair()[0])
    slope = jax.jit(jax.grad(peak_signal_noise_ratio))
    np.testing.assert_array_equal(slope(image, image), 0)


def test_metrics_batch_and_compile():
    images, references = (np.float32([array, array[::-1] ** 2]) for array in random_pair())
    for metric in COMPILED:
        separate = [metric(*pair) for pair in zip(images, references, strict=True)]
        together = jax.jit(jax.vmap(metric))(images, references)
        np.testing.assert_allclose(together, separate, rtol=1e-5, atol=1e-6)


def test_metrics_need_no_cpu_device(monkeypatch):
    """As under JAX_PLATFORMS=cuda; here the first device is a CPU all the same."""
    images = np.random.default_rng(0).random((2, *SHAPE))
    expected, local_devices = measure(*images), jax.local_devices

    def without_cpu(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return local_devices()

    monkeypatch.setattr(jax, "local_devices", without_cpu)
    metrics._measuring_device.cache_clear()
    assert measure(*images) == expected
    metrics._measuring_device.cache_clear()


@pytest.fixture
def as_users_run(monkeypatch):
    """The tests check annotations of shapes, users do not."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


NOT_COMPARED = {
    "8 bits": (np.uint8, 255, "uint8; metrics take floats in [0, 1]: divide it by 255"),
    "16 bits": (np.uint16, 65535, "uint16; metrics take floats in [0, 1]: divide it by 65535"),
    "floats to 255": (np.float32, 255, "metrics take floats in [0, 1]; this reference ranges from"),
}


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("names", [("psnr",), ("ssim",), ("fsimc",), ("ssim_luminance",)])
@pytest.mark.parametrize("case", NOT_COMPARED)
def test_images_on_another_scale_than_metrics_take_are_refused(case, names):
    dtype, scale, message = NOT_COMPARED[case]
    pair = tuple((scale * image).astype(dtype) for image in random_pair())
    for measured in (lambda: metrics.METRICS[names[0]].function(*pair), lambda: measure(*pair)):
        with pytest.raises(UserError) as raised:
            measured()
        assert message in str(raised.value)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("metric", metrics.METRICS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., 0], "is 40 x 48; metrics take height x width x"),
        (lambda x: x[None], "use jax.vmap for a batch"),
        (lambda x: x.transpose(2, 0, 1), "is 3 x 40 x 48; metrics take height x width x"),
        (lambda x: x[:0], "is 0 x 48 x 3"),
        (lambda x: x.tolist(), "is a list; metrics take NumPy or JAX arrays"),
    ],
)
def test_every_metric_says_which_shape_it_takes(metric, change, message):
    pair = map(change, random_pair())
    needs_weights = metric.startswith(("lpips", "musiq", "ckdn"))
    with pytest.raises(UserError, match=message):
        metrics.METRICS[metric].function(*pair, *[{}] * needs_weights)


@pytest.mark.usefixtures("as_users_run")
def test_images_of_two_shapes_are_not_compared():
    image, reference = random_pair()
    for other in (image[:30], image[:1], image[..., :1], image[:, :1]):
        for metric in ("psnr", "mae", "ssim", "fsim"):
            with pytest.raises(UserError, match=r"same shape|3 \(RGB\)"):
                metrics.METRICS[metric].function(other, reference)


def test_a_network_that_diverges_is_measured_all_the_same():
    image, reference = random_pair()
    assert float(peak_signal_noise_ratio(1000 * image, reference)) < -50
    assert np.isnan(measure(np.full_like(image, np.nan), reference, ("psnr",))["psnr"])
