"""TensorFlow Datasets' own test case needs TensorFlow; without, its checks are made here instead.

Where TensorFlow is installed, it runs as well.
"""

import importlib.util
import itertools
import subprocess
import sys
import unittest

import imagecodecs
import numpy as np
import pytest
import tensorflow_datasets as tfds
from scipy import ndimage

from tests import made_up_data
from tests.made_up_data import DATA_SETS, random_image
from vitdeblur_jax.data.records.builders import BUILDERS
from vitdeblur_jax.data.records.patches import patch_corners, sharpest, sharpness_energy
from vitdeblur_jax.utils.errors import UserError

PATCHES = (520, 516)  # height, width: four patches
SMALL_CONFIGS = [
    (name, config.name)
    for name, builder in BUILDERS.items()
    for config in builder.BUILDER_CONFIGS
    if not config.train_patches
]


@pytest.fixture(autouse=True)
def _quiet():
    tfds.disable_progress_bar()


def make_up(name: str, config: str, root) -> dict[str, int]:
    deep = {"bits": 16} if "16bit" in config else {}
    return DATA_SETS[name](root, **deep)


def build(name: str, config: str, root, out):
    builder = tfds.builder(f"{name}/{config}", data_dir=out, file_format="array_record")
    manual = tfds.download.DownloadConfig(manual_dir=root)
    builder.download_and_prepare(download_config=manual)
    return builder


def examples_of(builder) -> dict[str, list[dict]]:
    return {split: list(builder.as_data_source(split)) for split in builder.info.splits}


def content(example: dict) -> bytes:
    return b"".join(np.asarray(example[key]).tobytes() for key in sorted(example) if key != "name")


@pytest.mark.parametrize(("name", "config"), SMALL_CONFIGS)
def test_builds_what_its_features_say(name, config, tmp_path):
    counts = make_up(name, config, tmp_path / "data")
    builder = build(name, config, tmp_path / "data", tmp_path / "out")
    reloaded = tfds.builder(f"{name}/{config}", data_dir=tmp_path / "out")
    assert {s: info.num_examples for s, info in reloaded.info.splits.items()} == counts
    examples = examples_of(reloaded)
    for split in counts:
        for one, other in zip(examples[split], examples_of(builder)[split], strict=True):
            assert content(one) == content(other)
        names = [example["name"] for example in examples[split]]
        assert names == sorted(set(names))
        for example in examples[split]:
            assert example.keys() == builder.info.features.keys()
            for key, feature in builder.info.features.items():
                if key != "name":
                    tfds.core.utils.assert_shape_match(example[key].shape, feature.shape)
                    assert example[key].dtype == feature.np_dtype
    for one, other in itertools.combinations(examples.values(), 2):
        assert not set(map(content, one)) & set(map(content, other))


@pytest.mark.parametrize("name", BUILDERS)
def test_is_registered_and_introduces_itself(name, tmp_path):
    assert name in tfds.list_builders(with_community_datasets=False)
    builder = tfds.builder(name, data_dir=tmp_path)
    info = builder.info
    assert info.name == name
    assert info.description
    assert info.redistribution_info.license
    assert len({config.name for config in builder.BUILDER_CONFIGS}) == len(builder.BUILDER_CONFIGS)
    if name not in ("paired_folder", "synthetic_defocus"):
        assert info.homepage in " ".join(builder.instructions().split()) or name == "pixeldp"
        assert info.citation.startswith("@")
    assert not set(builder.get_metadata().tags)


def test_pairs_and_views_are_the_right_ones(tmp_path):
    made_up_data.dpdd(tmp_path / "data", bits=16)
    builder = build("dpdd", "dual_pixel_16bit", tmp_path / "data", tmp_path / "out")
    for i, example in enumerate(builder.as_data_source("train")):
        folder = tmp_path / "data"
        left, right, sharp = (
            imagecodecs.imread(folder / f"train_{view}.png")
            for view in (
                f"l/source/1P0A{100 + 2 * i:04}_L",
                f"r/source/1P0A{100 + 2 * i:04}_R",
                f"c/target/1P0A{101 + 2 * i:04}",
            )
        )
        np.testing.assert_array_equal(example["blurred"], np.concatenate([left, right], axis=-1))
        np.testing.assert_array_equal(example["sharp"], sharp)


def test_8_bits_are_the_upper_ones_of_16(tmp_path):
    made_up_data.pairs(tmp_path / "data", bits=16, count=1)
    builder = build("paired_folder", "8bit", tmp_path / "data", tmp_path / "out")
    example = builder.as_data_source("train")[0]
    np.testing.assert_array_equal(example["blurred"], random_image(0, bits=16) // 256)


def test_images_of_a_scene_share_their_sharp_one(tmp_path):
    made_up_data.lfdof(tmp_path / "data")
    builder = build("lfdof", "8bit", tmp_path / "data", tmp_path / "out")
    for example in builder.as_data_source("train"):
        scene = int(example["name"][4:8])
        np.testing.assert_array_equal(example["sharp"], random_image(10 * scene + 9))


def test_a_root_that_is_one_part_becomes_one_split(tmp_path):
    made_up_data.lfdof(tmp_path / "data")
    part = tmp_path / "data/test_data"
    assert list(build("lfdof", "8bit", part, tmp_path / "out").info.splits) == ["test"]
    flat = tmp_path / "sample"
    (part / "ground_truth").rename(flat.with_name("truth"))
    for name in ("IMG_0005", "IMG_0006"):
        made_up_data.write(flat / f"input/{name}.png", 1)
        made_up_data.write(flat / f"ground_truth/{name}.png", 2)
    assert list(build("lfdof", "8bit", flat, tmp_path / "out2").info.splits) == ["train"]


@pytest.mark.parametrize(("kind", "count"), [("all", 8), ("sharpest", 6)])
def test_train_patches_are_cut_and_others_are_whole(kind, count, tmp_path):
    made_up_data.dpdd(tmp_path / "data", size=PATCHES, counts={"train": 2, "test": 1})
    builder = build("dpdd", f"single_8bit_{kind}_patches", tmp_path / "data", tmp_path / "out")
    train, test = builder.as_data_source("train"), builder.as_data_source("test")
    assert (len(train), len(test)) == (count, 1)
    assert test[0]["sharp"].shape == (*PATCHES, 3)
    names = {example["name"].decode() for example in train}
    assert len(names) == count
    assert names <= {f"1P0A{n}_{y}_{x}" for n in ("0100", "0102") for y in (0, 8) for x in (0, 4)}
    whole = random_image(9, PATCHES)
    for example in train:
        number, top, left = example["name"].decode().split("_")
        if number == "1P0A0100":
            rows, columns = slice(int(top), int(top) + 512), slice(int(left), int(left) + 512)
            np.testing.assert_array_equal(example["sharp"], whole[rows, columns])


def test_patches_of_a_dpdd_image():
    corners = patch_corners(1120, 1680)
    assert [top for top, left in corners if left == 0] == [0, 204, 408, 608]
    assert [left for top, left in corners if top == 0] == [0, 204, 408, 612, 816, 1020, 1168]
    assert len(set(corners)) == len(corners) == 28
    assert patch_corners(512, 716) == [(0, 0), (0, 204)]
    with pytest.raises(UserError, match="700 x 511 pixels; patches need at least 512 x 512"):
        patch_corners(511, 700)


def test_sharpness_energy_by_its_definition():
    """Size 3 by SciPy's Sobel operator; the larger ones as it smoothed by binomials."""
    rng = np.random.default_rng(0)
    noise = rng.random((720, 1120, 3))
    amount = ndimage.zoom(rng.random((3, 4)), (240, 280), order=1)[..., None]
    sharp = (255 * (0.5 + (noise - 0.5) * amount)).astype(np.uint8)
    corners = patch_corners(720, 1120)
    gray = sharp @ np.array([0.299, 0.587, 0.114])
    energies = []
    for size in (3, 7, 11, 15):
        binomial = np.poly1d([1, 1]) ** (size - 3)
        binomial = np.atleast_1d(binomial.coeffs)
        smooth = ndimage.correlate1d(gray, binomial, 0, mode="mirror")
        smooth = ndimage.correlate1d(smooth, binomial, 1, mode="mirror")
        size_of = np.hypot(*(ndimage.sobel(smooth, axis, mode="mirror") for axis in (0, 1)))
        sums = np.array([size_of[top : top + 512, x : x + 512].sum() for top, x in corners])
        energies.append((sums - sums.min()) / (sums.max() - sums.min()))
    expected = np.prod(energies, axis=0)
    np.testing.assert_allclose(sharpness_energy(sharp, corners), expected, rtol=1e-3, atol=1e-6)
    kept = sharpest(sharp, corners)
    assert kept == [corners[i] for i in sorted(np.argsort(expected)[int(0.3 * len(corners)) :])]
    assert len(kept) < len(corners)


def test_flat_images_lose_patches_too():
    corners = patch_corners(716, 716)
    assert len(sharpest(np.zeros((716, 716, 3), np.uint8), corners)) == 3


@pytest.mark.parametrize("name", BUILDERS)
def test_missing_data_says_where_from_and_where_to(name, tmp_path):
    builder = tfds.builder(name, data_dir=tmp_path / "out")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "nowhere")
    with pytest.raises(UserError) as raised:
        builder.download_and_prepare(download_config=config)
    message = str(raised.value)
    assert str(tmp_path / "nowhere") in message
    assert builder.instructions() in message
    assert "\n" not in message


@pytest.mark.parametrize("name", BUILDERS)
def test_other_data_says_what_was_found_instead(name, tmp_path):
    (tmp_path / "data/holidays").mkdir(parents=True)
    builder = tfds.builder(name, data_dir=tmp_path / "out")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "data")
    with pytest.raises(UserError) as raised:
        builder.download_and_prepare(download_config=config)
    message = str(raised.value)
    assert builder.instructions() in message
    assert str(tmp_path / "data") in message
    assert "\n" not in message
    if name not in ("cuhk", "synthetic_defocus"):
        assert "holidays" in message


def test_the_rest_leaves_tensorflow_datasets_and_the_import_system_alone():
    run(
        "import sys, vitdeblur_jax.data.image_io, vitdeblur_jax.data.sources;"
        "import vitdeblur_jax.cli.main;"
        "import vitdeblur_jax.data.records.preparation;"
        "ours = [f for f in sys.meta_path if type(f).__module__.startswith('vitdeblur_jax')];"
        "assert not ours, ours;"
        "assert 'tensorflow_datasets' not in sys.modules;"
        "import vitdeblur_jax.data.records.builders, tensorflow_datasets as tfds;"
        "assert tfds.builder_cls('dpdd').name == 'dpdd'; tfds.builder('realdof')"
    )


def run(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="needs TensorFlow")
@pytest.mark.filterwarnings("ignore")  # TensorFlow's own
@pytest.mark.parametrize(("name", "config"), SMALL_CONFIGS)
def test_passes_the_test_case_of_tensorflow_datasets(name, config, tmp_path):
    case = type(
        "BuilderTest",
        (tfds.testing.DatasetBuilderTestCase,),
        {
            "DATASET_CLASS": BUILDERS[name],
            "BUILDER_CONFIG_NAMES_TO_TEST": [config],
            "SPLITS": make_up(name, config, tmp_path),
            "EXAMPLE_DIR": str(tmp_path),
        },
    )
    result = unittest.defaultTestLoader.loadTestsFromTestCase(case).run(unittest.TestResult())
    assert result.testsRun > 4
    assert result.wasSuccessful(), result.errors + result.failures
