"""Which examples a run sees: what is held out, in which order, and what is told of bad folders."""

import shutil
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image

from tests import made_up_data
from tests.training.small_run import quick_config
from vitdeblur_jax.data.records.preparation import prepare
from vitdeblur_jax.distributed.sharding import batch_sharded, local_mesh
from vitdeblur_jax.training.data import TrainingData, validation_indices
from vitdeblur_jax.training.stages import Stage, stages
from vitdeblur_jax.utils.errors import UserError

CROP = 16


def settings(root, **changes):
    return quick_config(root, **{"crop": CROP, "data__layout": "pairs", **changes})


def batches(data, step, count, stage=None):
    """Returns some batches from a step on, on the host."""
    stage = stage or data.stage(step)
    on_device = data.batches(step, stage, batch_sharded(local_mesh()))
    try:
        return [jax.device_get(next(on_device)) for _ in range(count)]
    finally:
        on_device.close()


@pytest.fixture
def plain(tmp_path):
    """Five pairs, each of one gray value: 10, 20, ..."""
    for number in range(5):
        for folder in ("blurred", "sharp"):
            (tmp_path / folder).mkdir(exist_ok=True)
            gray = np.full((20, 24, 3), 10 * (number + 1), np.uint8)
            Image.fromarray(gray).save(tmp_path / folder / f"gray{number}.png")
    return tmp_path


@pytest.mark.parametrize("hold_out", [1, 2])
def test_a_sharp_image_held_out_is_in_no_pair_trained_on(tmp_path, hold_out):
    for scene, count in enumerate((3, 1, 2)):  # as in LFDOF, several blurred ones share a target
        base = tmp_path / "train_data"
        for number in range(count):
            made_up_data.write(base / f"input/s{scene}/s{scene}_ap{number}.png", number)
        made_up_data.write(base / f"ground_truth/s{scene}.png", 9)
    config = settings(tmp_path, data__layout="lfdof", data__hold_out=hold_out, validation__every=10)
    data = TrainingData(config)
    aside = [pair for pair in data.validation[""].pairs]
    taken = Counter(int(i) for batch in batches(data, 0, 6) for i in batch["index"])
    targets = {pair.target for pair in aside}
    assert len(targets) == hold_out
    trained = [name for step in range(6) for name in data.names(step)]
    assert {name.split("_")[0] for name in trained} == {"s0", "s1", "s2"} - {
        target.stem for target in targets
    }
    assert len(taken) + len(aside) == 6


def test_synthetic_data_hold_images_out_in_every_epoch(tmp_path):
    for number in range(4):
        made_up_data.write(tmp_path / f"photo{number}.png", number, size=(24, 40))
    config = settings(tmp_path, data__kind="synthetic", data__hold_out=2, validation__every=10)
    data = TrainingData(config)
    source = data.validation[""]
    aside = [source[number]["name"] for number in range(len(source))]
    assert aside == ["photo0", "photo3"]
    assert source[0]["blurred"].shape == (24, 40, 3)
    names = [name for step in range(5) for name in data.names(step)]
    assert set(names) == {"photo1 (index 0)", "photo2 (index 1)"}


def test_every_epoch_of_synthetic_data_has_another_crop_and_another_blur(tmp_path):
    made_up_data.write(tmp_path / "photo.png", 0, size=(24, 40))
    changes = {"data__kind": "synthetic", "data__vertical_flip": False, "batch_size": 1}
    data = TrainingData(settings(tmp_path, **changes, data__quarter_turns=False))
    epochs = batches(data, 0, 6)  # of one image: one step each
    for key in ("blurred", "sharp"):
        assert len({epoch[key].tobytes() for epoch in epochs}) > 4
    resumed = batches(data, 4, 2)
    for one, other in zip(resumed, epochs[4:], strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_prepared_data_have_their_own_parts(tmp_path):
    made_up_data.dpdd(tmp_path / "dpdd")
    folder = prepare(tmp_path / "dpdd", None, tmp_path / "prepared")
    config = settings(folder, data__kind="prepared", validation__every=10)
    data = TrainingData(config)
    assert [len(part) for part in (*data._sources(None), data.validation[""])] == [3, 2]
    assert batches(data, 0, 1)[0]["blurred"].shape == (4, CROP, CROP, 3)
    assert data.fingerprint["data"]["examples"] == 3
    with pytest.raises(UserError, match=r"data\.hold_out is for pairs and synthetic data"):
        TrainingData(settings(folder, data__kind="prepared", data__hold_out=1))
    with pytest.raises(UserError, match=r"crop is 21 pixels, but .* has 24 x 20; choose"):
        TrainingData(settings(folder, data__kind="prepared", crop=21))
    views = prepare(tmp_path / "dpdd", None, tmp_path / "prepared", config="dual_pixel_8bit")
    with pytest.raises(UserError, match=r"has 2 views, but the network takes 1"):
        TrainingData(
            settings(
                folder, data__kind="prepared", validation__every=9, validation__root=str(views)
            )
        )


def test_workers_change_nothing(tmp_path):
    made_up_data.sharp_images(tmp_path)
    none, one = (
        batches(TrainingData(settings(tmp_path, data__kind="synthetic", data__workers=count)), 3, 3)
        for count in (0, 1)
    )
    for batch, same in zip(none, one, strict=True):
        assert batch.keys() == same.keys() == {"blurred", "sharp", "index"}
        for key in batch:
            np.testing.assert_array_equal(batch[key], same[key])


def test_the_names_of_a_step_are_those_of_its_batch(plain):
    data = TrainingData(settings(plain, progressive=((3, CROP, 2),)))
    for step in range(6):
        (batch,) = batches(data, step, 1)
        grays = batch["sharp"][:, 0, 0, 0]
        indices = batch["index"]
        expected = [
            f"gray{gray // 10 - 1} (index {index})"
            for gray, index in zip(grays, indices, strict=True)
        ]
        assert data.names(step) == expected
        assert len(expected) == (4 if step < 3 else 2)


def test_stages_count_the_examples_before_them():
    config = settings("", num_steps=20, batch_size=8, progressive=((5, 20, 4), (9, 24, 2)))
    plan = [Stage(0, 0, CROP, 8), Stage(5, 40, 20, 4), Stage(9, 56, 24, 2)]
    assert stages(config) == plan


def test_each_step_has_its_stage_and_no_example_is_left_out_or_repeated(plain):
    data = TrainingData(settings(plain, num_steps=9, progressive=((2, 20, 2), (5, 18, 3))))
    stage_of = [data.stage(step) for step in range(9)]
    assert [stage.crop for stage in stage_of] == [CROP] * 2 + [20] * 3 + [18] * 4
    assert [data.end_of(stage) for stage in stage_of] == [2] * 2 + [5] * 3 + [9] * 4
    taken = []
    for step in range(9):
        (batch,) = batches(data, step, 1)
        assert batch["blurred"].shape == (len(batch["index"]), *[stage_of[step].crop] * 2, 3)
        taken += batch["index"].tolist()
    assert len(taken) == 2 * 4 + 3 * 2 + 4 * 3
    one_by_one = TrainingData(settings(plain, batch_size=1, num_steps=99))
    assert taken == [int(batch["index"][0]) for batch in batches(one_by_one, 0, len(taken))]
    for epoch in range(5):
        assert sorted(taken[5 * epoch : 5 * epoch + 5]) == list(range(5))


def test_validation_takes_examples_evenly(plain):
    assert TrainingData(settings(plain)).validation == {}
    config = settings(plain, data__hold_out=3, validation__every=1)
    source = TrainingData(config).validation[""]
    assert validation_indices(source, 0) == [0, 1, 2]
    assert validation_indices(source, 2) == [0, 2]
    assert validation_indices(source, 9) == [0, 1, 2]
    assert validation_indices(range(100), 5) == [0, 25, 50, 74, 99]


def _empty(root):
    shutil.rmtree(root / "sharp")
    (root / "sharp").mkdir()


def _smaller_image(root):
    for folder in ("blurred", "sharp"):
        made_up_data.write(root / folder / "gray2.png", 0, size=(15, 24))


def _without_targets(root):
    for number in range(5):
        (root / f"blurred/gray{number}.png").rename(root / f"{number}.png")


@pytest.mark.parametrize(
    ("changes", "harm", "message"),
    [
        ({"data__root": ""}, None, r"--config\.data\.root is missing"),
        ({"data__root": "nowhere"}, None, "pairs: nowhere is not a folder"),
        ({"data__root": "nowhere", "data__kind": "synthetic"}, None, "no folder 'nowhere'"),
        ({"data__root": "nowhere", "data__kind": "prepared"}, None, "nowhere.*it is no folder"),
        ({}, _empty, "pairs: no images in .*sharp"),
        ({"data__kind": "synthetic", "data__root": "sharp"}, _empty, "no images in .*sharp"),
        ({"data__layout": "pears"}, None, "unknown layout 'pears' .did you mean 'pairs'"),
        ({"data__layout": "dpdd"}, None, "no train_c/source"),
        ({"crop": 21}, None, "crop is 21 pixels, but .* has 24 x 20; choose a smaller crop"),
        ({"progressive": ((9, 21, 2),)}, None, "crop is 21 pixels, but .* has 24 x 20"),
        ({}, _smaller_image, "crop is 16 pixels, but .*gray2.png has 24 x 15"),
        ({"views": 2}, None, r"gray0 has 1 view, but the network takes 2"),
        ({"data__layout": "images"}, _without_targets, "0: has no sharp image"),
        ({"data__hold_out": 5}, None, r"data\.hold_out is 5, .* none remain for training"),
        ({"data__hold_out": 99}, None, r"data\.hold_out is 99, .* none remain for training"),
        ({"data__bit_depth": 12}, None, "the bit depth is 12"),
        ({"data__bit_depth": 16}, None, "gray0.png has 8 bits a channel where 16 are wanted"),
        ({"validation__every": 5}, None, "the validation data is the training data"),
        (
            {"validation__every": 5, "data__kind": "synthetic", "data__root": "sharp"},
            None,
            "the validation data is the training data",
        ),
        ({"validation__every": 5, "validation__root": "nowhere"}, None, "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_trained_on_is_told(plain, monkeypatch, changes, harm, message):
    monkeypatch.chdir(plain)
    if harm:
        harm(plain)
    changes = dict(changes)
    views = changes.pop("views", 1)
    with pytest.raises(UserError, match=message) as told:
        TrainingData(settings(".", **changes), views)
    assert "\n" not in str(told.value)


def test_every_image_of_synthetic_data_is_checked(plain):
    made_up_data.write(plain / "sharp/gray1.png", 0, size=(15, 24))
    config = settings(plain / "sharp", data__kind="synthetic")
    with pytest.raises(UserError, match=r"gray1\.png has 24 x 15"):
        TrainingData(config)


def test_training_says_how_pairs_were_made(plain, capsys):
    for number in range(5):
        (plain / f"sharp/gray{number}.png").rename(plain / f"sharp/{9 - number}.png")
    TrainingData(settings(plain, data__hold_out=1, validation__every=1))
    said = capsys.readouterr().err
    assert said == f"{plain}, train: paired by order, first: gray0 <-> 5, last: gray4 <-> 9\n"


def test_validation_may_be_with_what_is_trained_on_if_asked_for(plain):
    config = settings(plain, validation__every=5, validation__root=str(plain))
    assert len(TrainingData(config).validation[""]) == 5
