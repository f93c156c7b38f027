"""Which image belongs to which pair, on files named and sized as each system does."""

import re

import numpy as np
import pytest

from tests import made_up_data
from tests.made_up_data import random_image
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.pairs import Pair
from vitdeblur_jax.evaluation.alignment import align
from vitdeblur_jax.evaluation.match import match
from vitdeblur_jax.evaluation.profiles import PROFILES, find_profile
from vitdeblur_jax.utils.errors import UserError

COUNT = 12
SOURCES = [f"1P0A{2 * i + 100:04}" for i in range(COUNT)]
TARGETS = [f"1P0A{2 * i + 101:04}" for i in range(COUNT)]

# What each system leaves in its folder: by position, its image; and what lies beside.
SAVED = {
    "input": (lambda i: f"{SOURCES[i]}.png", []),
    "DPDNet": (
        lambda i: f"{SOURCES[i]}_p.png",
        [f"{s}_{x}.png" for s in SOURCES for x in "ig"],
    ),
    "AIFNet": (
        lambda i: f"out_aif/{SOURCES[i]}.png",
        [f"out_dfm/{s}.png" for s in SOURCES],
    ),
    "MDP": (
        lambda i: f"{SOURCES[i]}_p_s.png",
        [f"{s}_{x}.png" for s in SOURCES for x in ("i", "g", "p_l", "p_r")],
    ),
    "KPAC": (lambda i: f"{SOURCES[i]}.png", []),
    "IFANet": (lambda i: f"{i + 1:02d}.png", [f"input/{i + 1:02d}.png" for i in range(COUNT)]),
    "GKMNet": (lambda i: f"{SOURCES[i]}.png", []),
    "DRBNet": (lambda i: f"{SOURCES[i]}.jpg", []),
    "Restormer": (lambda i: f"{TARGETS[i]}.png", []),
    "NRKNet": (lambda i: f"{i:04d}.png", []),
    "ViTDeblur": (lambda i: f"{TARGETS[i]}_recover.png", []),
    "BasicSR": (
        lambda i: f"{SOURCES[i]}_NAFNet-width32.png",
        [f"{s}_gt.png" for s in SOURCES],
    ),
    "evaluate.py": (
        lambda i: f"restored/{SOURCES[i]}.png",
        ["metrics.json", "images/1.png"],
    ),
}


@pytest.fixture
def pairs(tmp_path):
    """Pairs as in DPDD: the names of source and target differ."""
    root = tmp_path / "set/test_c"
    names = zip(SOURCES, TARGETS, strict=True)
    return [
        Pair(source, (root / f"source/{source}.png",), root / f"target/{target}.png")
        for source, target in names
    ]


def save(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"only names count here")
    return folder


def saved_by(system, folder):
    name, beside = SAVED[system]
    return save(folder, [*map(name, range(COUNT)), *beside])


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        match(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_system_is_tested():
    assert list(SAVED) == [profile.system for profile in PROFILES]


@pytest.mark.parametrize("system", SAVED)
def test_names_are_recognised(tmp_path, pairs, system):
    folder, name = saved_by(system, tmp_path / "saved"), SAVED[system][0]
    expected = {pair.name: folder / name(i) for i, pair in enumerate(pairs)}
    found = match(folder, pairs)
    assert found.files == expected
    assert found.missing == {}
    assert find_profile(system) in found.profiles
    assert f"{COUNT} of {COUNT} images" in found.rule
    assert system in found.rule
    named = match(folder, pairs, find_profile(system.upper()))
    assert named.files == expected
    assert named.profiles == (find_profile(system),)


def test_the_rule_says_what_matched(tmp_path, pairs):
    folder = saved_by("DPDNet", tmp_path / "saved")
    save(folder, ["sheet.png", "notes.txt"])
    assert match(folder, pairs).rule == (
        "12 of 12 images by {source}_p (DPDNet, BasicSR); 24 accompanying files ignored; "
        "1 other images unmatched"
    )
    assert match(saved_by("Restormer", tmp_path / "other"), pairs).rule == (
        "12 of 12 images by target names (Restormer)"
    )


@pytest.mark.parametrize("system", SAVED)
def test_one_is_missing(tmp_path, pairs, system):
    folder, name = saved_by(system, tmp_path / "saved"), SAVED[system][0]
    (folder / name(5)).unlink()
    found = match(folder, pairs)
    assert list(found.missing) == [SOURCES[5]]
    assert found.missing[SOURCES[5]] in name(5)
    assert len(found.files) == COUNT - 1
    assert found.rule.startswith(f"{COUNT - 1} of {COUNT} images")


def test_different_images_that_fit_are_not_guessed_at(tmp_path, pairs):
    folder = saved_by("input", tmp_path / "saved")
    saved_by("Restormer", folder)
    said = refusal(folder, pairs)
    assert "Restormer" in said
    assert "input" in said
    assert ":" in re.search(r"NAME:\w+=", said)[0]
    chosen = match(folder, pairs, find_profile("restormer"))
    assert chosen.files[SOURCES[0]].name == f"{TARGETS[0]}.png"
    assert "12 other images unmatched" in chosen.rule


def test_two_suffixes_are_not_guessed_at(tmp_path, pairs):
    folder = save(tmp_path / "saved", [f"{s}_{x}.png" for s in SOURCES for x in ("a", "b")])
    assert "BasicSR" in refusal(folder, pairs)
    assert "BasicSR" in refusal(folder, pairs, find_profile("basicsr"))


def test_an_incomplete_set_beside_a_complete_one_is_not_passed_over(tmp_path, pairs):
    """The blurred inputs lie beside the results, of which one is missing."""
    folder = saved_by("input", tmp_path / "saved")
    save(folder, [f"{s}_recover.png" for s in SOURCES[1:]])
    assert "ViTDeblur" in refusal(folder, pairs)


def test_names_that_are_numbers(tmp_path):
    """Sources named 00, 01, ... as IFANet numbers its results, but from 0."""
    root = tmp_path / "set"
    pairs = [
        Pair(name, (root / f"input/{name}.png",), root / f"target/{name}.png")
        for name in (f"{i:02}" for i in range(COUNT))
    ]
    folder = save(tmp_path / "saved", [f"{pair.name}.png" for pair in pairs])
    assert {path.stem: name for name, path in match(folder, pairs).files.items()} == {
        pair.name: pair.name for pair in pairs
    }
    (folder / "00.png").unlink()  # now they may be the sources' names, or numbers from 1
    assert "IFANet" in refusal(folder, pairs)


@pytest.mark.parametrize("system", ["IFANet", "NRKNet"])
def test_counted_images_are_not_guessed_at_where_orders_differ(tmp_path, system):
    root = tmp_path / "set"
    pairs = [
        Pair(f"a{i}", (root / f"input/a{i}.png",), root / f"target/a{i}.png")
        for i in range(1, COUNT + 1)
    ]
    message = refusal(saved_by(system, tmp_path / "saved"), pairs)
    assert message.endswith("alphabetical and natural order of the pairs differ")


def test_two_images_of_one_name(tmp_path, pairs):
    folder = saved_by("KPAC", tmp_path / "saved")
    save(folder, [f"{SOURCES[0]}.jpg"])
    assert f"{SOURCES[0]}.jpg and {SOURCES[0]}.png" in refusal(folder, pairs)


def test_nothing_fits(tmp_path, pairs):
    folder = save(tmp_path / "saved", ["holiday.png"])
    said = refusal(folder, pairs)
    assert "1P0A0101_recover" in said
    assert "it holds holiday.png" in said
    assert "1P0A0100_p_s" in refusal(folder, pairs, find_profile("mdp"))
    assert "cannot be listed" in refusal(tmp_path / "nowhere", pairs)
    with pytest.raises(UserError, match="'restormer'"):
        find_profile("restorer")


def test_scenes_of_several_images(tmp_path):
    """LFDOF: a target's name stands for several results, so it tells nothing."""
    made_up_data.lfdof(tmp_path / "set")
    pairs = find_pairs(tmp_path / "set", "lfdof")
    inputs = match(tmp_path / "set/test_data/input", pairs)
    assert [inputs.files[pair.name] for pair in pairs] == [pair.source[0] for pair in pairs]
    ours = save(tmp_path / "ours", [f"restored/{pair.name}.png" for pair in pairs])
    assert set(match(ours, pairs).files) == {pair.name for pair in pairs}
    theirs = save(tmp_path / "theirs", [f"{p.source[0].stem}_recover.png" for p in pairs])
    assert set(match(theirs, pairs).files) == {pair.name for pair in pairs}
    targets = save(tmp_path / "targets", {f"{p.target.stem}.png" for p in pairs})
    assert "no image" in refusal(targets, pairs)


def test_braces_in_names(tmp_path):
    pair = Pair("{0}", (tmp_path / "in/{0}.png",), tmp_path / "out/{target}.png")
    folder = save(tmp_path / "saved", ["{0}_{x}.png"])
    assert match(folder, [pair]).files == {"{0}": folder / "{0}_{x}.png"}


def test_hostile_folders(tmp_path, pairs):
    folder = saved_by("Restormer", tmp_path / "saved")
    (folder / "loop").symlink_to(folder)
    (folder / "knot.png").symlink_to(folder / "knot.png")
    (folder / "dangling.png").symlink_to(folder / "nothing")
    (folder / f"{SOURCES[0]}.png").mkdir()
    save(folder, [f"{SOURCES[0]}{i}_{i}.png" for i in range(10_000)])
    save(folder, ['a "quoted" <b>&\n.png', "ä_ß.png"])
    found = match(folder, pairs)
    assert found.files[SOURCES[3]] == folder / f"{TARGETS[3]}.png"
    assert "\n" not in found.rule


# Sizes


def aligned(system, saved, size=(50, 70)):
    target = random_image(0, size)
    return target, align(saved, target, [find_profile(system)])


def test_the_same_size_stays():
    for system in SAVED:
        image = random_image(1, (50, 70))
        target, (first, second, note) = aligned(system, image)
        assert first is image
        np.testing.assert_array_equal(second, target)
        assert note == ""


@pytest.mark.parametrize(
    ("system", "size"), [("AIFNet", (48, 64)), ("DRBNet", (48, 64)), ("IFANet", (48, 64))]
)
def test_what_was_cropped_is_compared_with_that_part(system, size):
    _, (image, reference, note) = aligned(system, random_image(0, (50, 70))[:48, :64])
    np.testing.assert_array_equal(image, reference)
    assert image.shape[:2] == size
    assert "cropped to a multiple of" in note
    assert aligned(system, random_image(0, (49, 64)))[1] is None


def test_multiples_differ():
    small = random_image(0, (56, 72))
    assert align(small, random_image(0, (60, 79)), [find_profile("ifanet")]) is not None
    assert align(small, random_image(0, (60, 79)), [find_profile("aifnet")]) is None


@pytest.mark.parametrize(("system", "before"), [("NRKNet", (7, 5)), ("ViTDeblur", (0, 0))])
def test_what_was_padded_is_cut_back(system, before):
    target = random_image(0, (50, 70))
    padding = [(b, total - b) for b, total in zip(before, (14, 10), strict=True)]
    padded = np.pad(target, [*padding, (0, 0)], mode="reflect")
    assert padded.shape == (64, 80, 3)
    image, reference, note = align(padded, target, [find_profile(system)])
    np.testing.assert_array_equal(image, target)
    np.testing.assert_array_equal(reference, target)
    assert "padded to a multiple of 16" in note
    assert align(padded[1:], target, [find_profile(system)]) is None


def test_an_odd_padding_has_its_smaller_half_first():
    target = random_image(0, (47, 64))
    padded = np.pad(target, [(0, 1), (0, 0), (0, 0)])
    image, _, _ = align(padded, target, [find_profile("nrknet")])
    np.testing.assert_array_equal(image, target)


def test_two_explanations_are_none():
    target = random_image(0, (50, 70))
    both = [find_profile("nrknet"), find_profile("vitdeblur")]
    assert align(random_image(0, (64, 80)), target, both) is None


def test_systems_that_save_the_same_size_explain_no_other():
    for system in ("input", "KPAC", "Restormer", "BasicSR", "MDP", "DPDNet"):
        assert aligned(system, random_image(0, (48, 64)))[1] is None
        assert aligned(system, random_image(0, (64, 80)))[1] is None
