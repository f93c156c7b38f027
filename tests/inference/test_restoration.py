import dataclasses
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.signal import correlate

from tests.forked import run_program
from tests.small_model import small_pretrained
from vitdeblur_jax.inference import restoration, strips, windows
from vitdeblur_jax.inference.chosen_tiling import count_tiles
from vitdeblur_jax.inference.pixels import as_dtype, as_float
from vitdeblur_jax.inference.restoration import restore, window_features
from vitdeblur_jax.inference.windows import window_starts
from vitdeblur_jax.models.network import with_numerics
from vitdeblur_jax.utils.errors import UserError

ROOT = Path(__file__).parents[2]
SIZES = [(1, 1), (1, 60), (7, 5), (42, 42), (43, 50), (100, 61), (131, 42), (90, 160)]


def _image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _restore(pretrained, image, **options):
    return np.concatenate(list(restore(pretrained.model, pretrained.variables, image, **options)))


def _by_definition(pretrained, image, stride):
    """Blends all windows over the whole image, then applies the head once, in float64."""
    height, width = image.shape[:2]
    missing = max(0, 42 - height), max(0, 42 - width)
    image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect") / 255
    total = np.zeros((image.shape[0] - 6, image.shape[1] - 6, 5))
    count = np.zeros((*total.shape[:2], 1))
    for top in _starts(image.shape[0], stride):
        for left in _starts(image.shape[1], stride):
            window = image[None, top : top + 42, left : left + 42].astype(np.float32)
            features = window_features(pretrained.model, pretrained.variables, window)[0]
            total[top : top + 36, left : left + 36] += features
            count[top : top + 36, left : left + 36] += 1
    head = pretrained.variables["params"]["image_head"]
    twice = np.concatenate([image, image], axis=-1)
    joined = total / count + _convolve(twice, head["input_convolution"])
    padded = np.pad(joined, ((5, 5), (5, 5), (0, 0)), mode="reflect")
    return _convolve(padded, head["output_convolution"])[:height, :width]


def _starts(length, stride):
    starts, start = [], 0
    while start + 42 < length:
        starts.append(start)
        start += stride
    return [*starts, length - 42]


def _convolve(image, parameters):
    kernel = np.asarray(parameters["kernel"], np.float64)
    channels = [correlate(image, kernel[..., o], "valid")[..., 0] for o in range(kernel.shape[-1])]
    return np.stack(channels, axis=-1) + np.asarray(parameters["bias"])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_streaming_equals_the_definition(small, height, width):
    image = _image(height, width)
    restored = _restore(small, image, stride=17)
    assert restored.shape == (height, width, 3)
    np.testing.assert_allclose(restored, _by_definition(small, image, 17), atol=2e-5)


def test_predictions_that_overlap_are_restored_by_the_definition():
    pretrained, image = small_pretrained(decoder__patch_overlap=3), _image(70, 61)
    restored = _restore(pretrained, image, stride=17)
    np.testing.assert_allclose(restored, _by_definition(pretrained, image, 17), atol=2e-5)


def test_strides_and_batch_sizes(small):
    image = _image(80, 71)
    for stride in (36, 13):
        expected = _by_definition(small, image, stride)
        for batch_size in (1, 3):
            restored = _restore(small, image, stride=stride, batch_size=batch_size)
            np.testing.assert_allclose(restored, expected, atol=2e-5)


def _compiled_functions():
    """Returns the jitted functions of the restoration by name."""
    return {
        f"{function.__module__}.{name}": function
        for module in (restoration, strips, windows)
        for name, function in vars(module).items()
        if hasattr(function, "_cache_size")
    }


def _compilations():
    """Returns the number of compilations so far of each function."""
    return {name: function._cache_size() for name, function in _compiled_functions().items()}


def test_the_network_is_compiled_once_for_all_sizes_and_dtypes(small):
    _restore(small, _image(50, 50), stride=17)
    before = _compilations()
    for height, width in [(44, 99), (3, 300), (150, 1), (64, 64)]:
        for dtype in (np.uint8, np.uint16, np.float32, np.float64):
            image = _image(height, width)
            floats = np.issubdtype(dtype, np.floating)
            _restore(small, (image / 255 if floats else image).astype(dtype), stride=30)
    after = _compilations()
    for name in ("window_features", "head_tile", "restored_tiles"):
        name = f"{restoration.__name__}.{name}"
        assert after[name] == before[name]


def test_ten_sizes_compile_once_for_each_bucket(small):
    sizes = [(42, 600 + 11 * n) for n in range(5)] + [(38 + 7 * n, 1000 - n) for n in range(5)]
    assert {strips.bucket_of(width) for _, width in sizes} == {768, 1024}
    for function in _compiled_functions().values():
        function.clear_cache()  # other tests may have compiled for these sizes
    before = _compilations()
    for height, width in sizes:
        _restore(small, _image(height, width), stride=36)
    after = _compilations()
    assert max(after[name] - before[name] for name in after) == 2


@pytest.mark.parametrize(
    ("width", "bucket"),
    [(1, 256), (256, 256), (257, 512), (1025, 1280), (1680, 1792), (2049, 2560), (6000, 6144)],
)
def test_buckets(width, bucket):
    assert strips.bucket_of(width) == bucket


def test_the_published_windows():
    assert window_starts(414, 320, 94) == [0, 94]
    assert window_starts(508, 320, 94) == [0, 94, 188]
    assert window_starts(320, 320, 94) == [0]
    assert window_starts(1008, 320, 94) == [0, 94, 188, 282, 376, 470, 564, 658, 688]


def test_progress_counts_every_window(small):
    done = []
    image = _image(90, 100)
    _restore(small, image, stride=20, batch_size=5, on_tiles=done.append)
    assert sum(done) == count_tiles(small.model, 90, 100, 20) == 4 * 4


def test_rows_are_yielded_before_all_windows_are_computed(small):
    done = []
    rows = restore(small.model, small.variables, _image(400, 50), stride=30, on_tiles=done.append)
    first = next(rows)
    assert 0 < len(first) < 50
    assert sum(done) < 0.4 * count_tiles(small.model, 400, 50, 30)


def test_memory_does_not_grow_with_height(small, monkeypatch):
    maps = jax.numpy.zeros((1, 36, 36, 5))
    monkeypatch.setattr(restoration, "window_features", lambda *_: maps)

    def peaks(height):
        """Returns the peak on the host, and the largest sum of all arrays on the device."""
        image, on_device = _image(height, 120), 0
        tracemalloc.start()
        for _ in restore(small.model, small.variables, image, stride=30, batch_size=1):
            on_device = max(on_device, sum(array.nbytes for array in jax.live_arrays()))
        on_host = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return on_host, on_device

    peaks(400)
    whole = np.zeros((1600, 120, 3), np.float32).nbytes
    growth = np.subtract(peaks(2000), peaks(400))
    assert (growth < 0.1 * whole).all()


def test_several_devices_give_the_same_result(small, tmp_path):
    image = _image(60, 100)
    np.save(tmp_path / "one.npy", _restore(small, image, stride=25))
    program = """
import sys
import jax, numpy as np
from tests.small_model import small_pretrained
from tests.inference.test_restoration import _image, _restore
from vitdeblur_jax.inference import restoration
from vitdeblur_jax.distributed import sharding
from vitdeblur_jax.models.network import with_numerics
assert jax.device_count() == 4
small = small_pretrained()
restored = _restore(small, _image(60, 100), stride=25)
np.testing.assert_allclose(restored, np.load(sys.argv[1]), atol=1e-5)
mesh = sharding.local_mesh()
windows = jax.device_put(np.zeros((4, 42, 42, 3), np.float32), sharding.batch_sharded(mesh))
variables = jax.device_put(small.variables, sharding.replicated(mesh))
maps = restoration.window_features(small.model, variables, windows)
assert [shard.data.shape[0] for shard in maps.addressable_shards] == [1, 1, 1, 1]
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    ended = run_program(["-c", program, tmp_path / "one.npy"], ROOT, **flags)
    assert ended.returncode == 0, ended.stderr


def test_bfloat16_is_close_to_float32(small):
    image = _image(50, 60)
    model = with_numerics(small.model, dtype="bfloat16")
    exact = _restore(small, image)
    half = _restore(dataclasses.replace(small, model=model), image)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).mean() < 0.05 * exact.std()


def test_a_nonfinite_output_is_an_error(small):
    broken = jax.tree.map(lambda leaf: leaf, small.variables)
    bias = broken["params"]["image_head"]["output_convolution"]["bias"]
    broken["params"]["image_head"]["output_convolution"]["bias"] = bias.at[0].set(np.nan)
    with pytest.raises(UserError, match="not finite"):
        _restore(dataclasses.replace(small, variables=broken), _image(50, 60))


def test_the_default_stride_is_that_of_the_network(small):
    image = _image(80, 71)
    model = small.model.clone(tiling=small.model.tiling._replace(stride=13))
    own = _restore(dataclasses.replace(small, model=model), image)
    np.testing.assert_array_equal(own, _restore(small, image, stride=13))
    assert count_tiles(model, 80, 71) == count_tiles(small.model, 80, 71, 13) == 4 * 4


def test_reflection_is_repeated_as_often_as_needed():
    image = np.arange(3, dtype=np.uint8).reshape(1, 3, 1)
    extended = strips.extended_image(image, 0, 9, 9)
    pixels, white = extended.strip(4, 2)
    assert (pixels.shape, white) == ((2, 256, 1), 255)
    np.testing.assert_array_equal(pixels[1, :9, 0], [0, 1, 2, 1, 0, 1, 2, 1, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("strength", [1, 0.3])
def test_rows_come_back_in_the_dtype_and_strength_of_the_output(small, dtype, strength):
    image = _image(90, 61)
    plain = _restore(small, image)
    found = _restore(small, image, output=strips.Output(dtype, strength))
    assert found.dtype == dtype
    mixed = as_dtype(strength * plain + (1 - strength) * as_float(image), dtype)
    atol = 1e-6 if dtype is np.float32 else 1  # integers may be rounded the other way
    np.testing.assert_allclose(found.astype(float), mixed.astype(float), atol=atol)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_survive_a_round_trip_through_floats(dtype):
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    floats = as_float(values)
    assert (floats.min(), floats.max(), floats.dtype) == (0, 1, np.float32)
    np.testing.assert_array_equal(as_dtype(floats, dtype), values)
    beyond = as_dtype(np.array([-0.3, 1.7], np.float32), dtype)
    np.testing.assert_array_equal(beyond, [0, np.iinfo(dtype).max])


def test_rounding_is_to_the_nearest():
    np.testing.assert_array_equal(as_dtype(np.float32([10.6, 10.4]) / 255, np.uint8), [11, 10])


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((5, 5), np.uint8), "5 x 5"),
        (np.zeros((5, 5, 4), np.uint8), "5 x 5 x 4"),
        (np.zeros((0, 5, 3), np.uint8), "0 x 5 x 3"),
        (np.zeros((5, 5, 3), np.int32), "int32"),
        (np.zeros((5, 5, 3), bool), "bool"),
        (np.full((5, 5, 3), np.nan, np.float32), "not finite"),
        (np.full((5, 5, 3), 255, np.float32), "255"),
    ],
)
def test_a_wrong_image_is_refused(small, image, told):
    with pytest.raises(UserError, match=told):
        restore(small.model, small.variables, image)  # before any row is taken


@pytest.mark.parametrize("stride", [0, -1, 37])
def test_a_stride_that_leaves_gaps_is_refused(small, stride):
    with pytest.raises(UserError, match=f"{stride}.*36"):
        _restore(small, _image(50, 50), stride=stride)


def test_a_batch_size_below_one_is_refused(small):
    with pytest.raises(UserError, match="batch size is 0"):
        _restore(small, _image(50, 50), stride=30, batch_size=0)


def test_a_margin_is_added_by_reflection_and_cropped(small):
    model = small.model.clone(tiling=small.model.tiling._replace(margin=9))
    for height, width in ((80, 71), (30, 100)):
        image = _image(height, width)
        extended = np.pad(image, ((9, 9), (9, 9), (0, 0)), mode="reflect")
        wide = np.concatenate(list(restore(small.model, small.variables, extended)))
        found = np.concatenate(list(restore(model, small.variables, image)))
        np.testing.assert_array_equal(found, wide[9:-9, 9:-9])
        assert count_tiles(model, height, width) == count_tiles(small.model, *extended.shape[:2])
