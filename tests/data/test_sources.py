"""Sources are compared with the files themselves, read by other libraries, and with each other."""

import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import imagecodecs
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests import made_up_data
from vitdeblur_jax.data import sources
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.defocus.synthesis import synthesize
from vitdeblur_jax.data.defocus.synthesis_files import generator_for, synthesize_folder
from vitdeblur_jax.data.input_pipeline import make_train_dataset
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.records.preparation import prepare
from vitdeblur_jax.data.sources import FolderSource, PreparedSource, SyntheticSource
from vitdeblur_jax.utils.errors import UserError

SETTINGS = SynthesisSettings(noise=1.0)


@pytest.fixture
def images(tmp_path):
    made_up_data.sharp_images(tmp_path / "sharp")
    return sorted((tmp_path / "sharp").iterdir())


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert one["name"] == other["name"]
    for key in one.keys() - {"name"}:
        assert one[key].dtype == other[key].dtype
        np.testing.assert_array_equal(one[key], other[key])


def test_folder_gives_the_files_as_pillow_reads_them(tmp_path):
    made_up_data.pairs(tmp_path)
    source = FolderSource(find_pairs(tmp_path, "pairs"))
    assert len(source) == 3
    for i, example in enumerate(source):
        assert example["name"] == f"photo{i:03}"
        for key, folder in (("blurred", "blurred"), ("sharp", "sharp")):
            with Image.open(tmp_path / folder / f"photo{i:03}.png") as image:
                np.testing.assert_array_equal(example[key], image)
    assert source.files(1) == (tmp_path / "blurred/photo001.png", tmp_path / "sharp/photo001.png")


def test_folder_reads_16_bits_in_full_or_the_upper_8(tmp_path):
    made_up_data.pairs(tmp_path, bits=16)
    pairs = find_pairs(tmp_path, "pairs")
    deep, shallow = FolderSource(pairs, bit_depth=16)[0], FolderSource(pairs, bit_depth=8)[0]
    written = imagecodecs.imread(tmp_path / "sharp/photo000.png")
    assert deep["sharp"].dtype == np.uint16
    np.testing.assert_array_equal(deep["sharp"], written)
    assert shallow["sharp"].dtype == np.uint8
    np.testing.assert_array_equal(shallow["sharp"], written // 256)


def test_folder_refuses_8_bits_where_16_are_wanted(tmp_path):
    made_up_data.pairs(tmp_path)
    source = FolderSource(find_pairs(tmp_path, "pairs"), bit_depth=16)
    with pytest.raises(UserError, match=r"photo000.png has 8 bits a channel where 16 are wanted"):
        source[0]
    with pytest.raises(UserError, match="the bit depth is 12"):
        FolderSource([], bit_depth=12)


def test_folder_without_targets_has_no_sharp(tmp_path):
    made_up_data.cuhk(tmp_path)
    source = FolderSource(find_pairs(tmp_path, "images"))
    assert source[0].keys() == {"name", "blurred"}
    assert source.files(0) == (tmp_path / "out_of_focus0000.png",)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("layout", "views"), [("dpdd", "single"), ("dpdd_dual_pixel", "dual_pixel")]
)
def test_prepared_equals_folder_bit_for_bit(bits, layout, views, tmp_path):
    counts = made_up_data.dpdd(tmp_path / "data", bits=bits)
    folder = prepare(tmp_path / "data", "dpdd", tmp_path, config=f"{views}_{bits}bit")
    for split, count in counts.items():
        prepared = PreparedSource(folder, split)
        plain = FolderSource(find_pairs(tmp_path / "data", layout, split), bits)
        assert len(prepared) == len(plain) == count
        for one, other in zip(prepared, plain, strict=True):
            assert_same(one, other)
        assert_same(prepared[-1], plain[-1])


def test_prepared_synthetic_equals_on_the_fly(images, tmp_path):
    folder = prepare(tmp_path / "sharp", "synthetic_defocus", tmp_path)
    made = SyntheticSource(images, SynthesisSettings(), seed=0)
    for one, other in zip(PreparedSource(folder, "train"), made, strict=True):
        assert_same(one, other)


def test_prepared_is_read_by_worker_processes_and_threads(tmp_path):
    made_up_data.pairs(tmp_path / "data", count=20)
    source = PreparedSource(prepare(tmp_path / "data", None, tmp_path), "train")
    source[0]  # open files must not hinder
    assert_same(pickle.loads(pickle.dumps(source))[3], source[3])
    with ThreadPoolExecutor(8) as threads:
        for i, example in enumerate(threads.map(source.__getitem__, range(20))):
            assert example["name"] == f"photo{i:03}"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert_same(processes.submit(source.__getitem__, 7).result(), source[7])


def test_training_gets_the_same_batches_from_prepared_and_folder(tmp_path):
    made_up_data.pairs(tmp_path / "data")
    prepared = PreparedSource(prepare(tmp_path / "data", None, tmp_path), "train")
    plain = FolderSource(find_pairs(tmp_path / "data", "pairs"))
    for step in range(4):
        one, other = (
            make_train_dataset([source], seed=1, batch_size=2, crop=8).batches[step]
            for source in (prepared, plain)
        )
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_prepared_tells_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"no prepared data set in .*nowhere.*no folder"):
        PreparedSource(tmp_path / "nowhere", "train")
    made_up_data.pairs(tmp_path / "data")
    with pytest.raises(UserError, match=r"no prepared data set .*holds blurred, sharp"):
        PreparedSource(tmp_path / "data", "train")
    folder = prepare(tmp_path / "data", None, tmp_path)
    with pytest.raises(UserError, match=r"no split 'test' in .*; there are train"):
        PreparedSource(folder, "test")
    source = PreparedSource(folder, "train")
    for index in (3, -4):
        with pytest.raises(IndexError):
            source[index]


def test_prepared_is_found_below_the_folder_that_prepare_was_given(tmp_path):
    made_up_data.pairs(tmp_path / "data")
    folder = prepare(tmp_path / "data", None, tmp_path / "out")
    (tmp_path / "out/realdof/8bit/1.0.0.unfinished").mkdir(parents=True)
    for root in (folder, *list(folder.parents)[:3]):
        assert PreparedSource(root, "train").folder == folder


def test_several_prepared_sets_are_not_guessed_at(tmp_path):
    for name in ("dpdd/single_8bit/1.0.0", "lfdof/8bit/1.0.0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "dataset_info.json").write_text("{}")
    message = (
        r"several prepared data sets; name one of dpdd/single_8bit/1\.0\.0, lfdof/8bit/1\.0\.0"
    )
    with pytest.raises(UserError, match=message):
        PreparedSource(tmp_path, "train")


def test_prepared_tells_of_damage(tmp_path):
    made_up_data.pairs(tmp_path / "data")
    folder = prepare(tmp_path / "data", None, tmp_path)
    (file,) = folder.glob("*.array_record*")
    data = file.read_bytes()
    row = made_up_data.random_image(3)[5].tobytes()  # of the second sharp one
    assert data.count(row) == 1
    file.write_bytes(data.replace(row, row[::-1]))
    source = PreparedSource(folder, "train")
    with pytest.raises(UserError, match=r"example 1 of train cannot be read"):
        list(source)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_prepared_tells_of_an_incomplete_copy(tmp_path, name):
    made_up_data.pairs(tmp_path / "data")
    folder = prepare(tmp_path / "data", None, tmp_path)
    if name == "features.json":
        (folder / name).unlink()
    else:
        (folder / name).write_text((folder / name).read_text()[:-20])
    with pytest.raises(UserError, match=r"dataset_info\.json|cannot be read"):
        PreparedSource(folder, "train")


def test_prepared_by_the_builder_reads_alike(tmp_path):
    made_up_data.realdof(tmp_path / "data")
    builder = tfds.builder("realdof", data_dir=tmp_path, file_format="array_record")
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "data")
    builder.download_and_prepare(download_config=config)
    plain = FolderSource(find_pairs(tmp_path / "data", "realdof"))
    for one, other in zip(PreparedSource(builder.data_dir, "test"), plain, strict=True):
        assert_same(one, other)


def test_synthetic_is_what_synthesize_writes(images, tmp_path):
    synthesize_folder(tmp_path / "sharp", tmp_path / "out", SETTINGS, seed=5)
    source = SyntheticSource(images, SETTINGS, seed=5)
    assert len(source) == 2
    for example in source:
        for key, folder in (("blurred", "input"), ("sharp", "target")):
            written = imagecodecs.imread(tmp_path / "out" / folder / f"{example['name']}.png")
            np.testing.assert_array_equal(example[key], written)
        assert example["radius"].shape == (40, 48)
        assert example["radius"].dtype == np.float32


def test_synthetic_samples_differ_by_their_draws_alone(images):
    source = SyntheticSource(images, SETTINGS, seed=5)
    again = pickle.loads(pickle.dumps(source))
    assert [example["name"] for example in source] == ["sharp0", "sharp1"]
    blurred = set()
    for seed in (0, 1, 2):
        for index in (0, 1):
            example = source.sample(index, np.random.default_rng(seed))
            assert_same(example, again.sample(index, np.random.default_rng(seed)))
            blurred.add(example["blurred"].tobytes())
    assert len(blurred) == 6
    assert_same(source[1], again[1])
    assert source.files(1) == (images[1],)


def test_images_of_different_names_have_different_draws():
    draws = [generator_for(name, seed=0).random() for name in ("a", "a_1", "a\x01", "b")]
    assert len(set(draws)) == len(draws)


def test_names_that_are_not_utf8_have_a_generator():
    assert generator_for(os.fsdecode(b"caf\xe9"), seed=0).random() != (
        generator_for(os.fsdecode(b"caf\xe8"), seed=0).random()
    )


def test_synthetic_crop_is_part_of_the_image(images):
    source = SyntheticSource(images, SETTINGS, seed=5, crop=20)
    places = set()
    for epoch in range(8):
        example = source.sample(0, np.random.default_rng(epoch))
        assert example["blurred"].shape == example["sharp"].shape == (20, 20, 3)
        assert example["radius"].shape == (20, 20)
        whole = imagecodecs.imread(images[0])
        places |= {
            (top, left)
            for top in range(21)
            for left in range(29)
            if np.array_equal(whole[top : top + 20, left : left + 20], example["sharp"])
        }
    assert len(places) > 4
    with pytest.raises(UserError, match=r"sharp0.png: no crop of 41 in 48 x 40 pixels"):
        SyntheticSource(images, SETTINGS, seed=5, crop=41)[0]


def test_synthetic_crop_is_cut_out_of_the_whole(images):
    source = SyntheticSource(images, SETTINGS, seed=5, crop=10)
    whole = imagecodecs.imread(images[0])
    for epoch in range(20):
        example = source.sample(0, np.random.default_rng(epoch))
        rng = np.random.default_rng(epoch)
        top, left = rng.integers(whole.shape[0] - 9), rng.integers(whole.shape[1] - 9)
        want = synthesize(whole, SETTINGS, rng)
        part = slice(top, top + 10), slice(left, left + 10)
        np.testing.assert_array_equal(example["sharp"], want["sharp"][part])
        np.testing.assert_array_equal(example["radius"], want["radius"][part])


def test_scene_of_a_crop_is_not_that_of_all_of_a_large_image(tmp_path, monkeypatch):
    made_up_data.write(tmp_path / "large.png", 1, size=(700, 900))
    sizes = []

    def spy(sharp, settings, rng, wanted):
        sizes.append(sharp.shape)
        return synthesize(sharp, settings, rng, wanted=wanted)

    monkeypatch.setattr(sources, "synthesize", spy)
    source = SyntheticSource([tmp_path / "large.png"], SETTINGS, seed=5, crop=64)
    assert {
        source.sample(0, np.random.default_rng(epoch))["blurred"].shape for epoch in range(5)
    } == {(64, 64, 3)}
    assert set(sizes) == {(480, 480, 3)}


def test_synthetic_takes_the_upper_bits(tmp_path):
    deep = made_up_data.write(tmp_path / "deep.png", 1, bits=16)
    example = SyntheticSource([tmp_path / "deep.png"], SETTINGS, seed=0)[0]
    np.testing.assert_array_equal(example["sharp"], deep // 256)
