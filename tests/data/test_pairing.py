"""Pairing by name, against pairs that are known because the names are built from them."""

import random
import re

import pytest

from vitdeblur_jax.data.pairing import Pairing, pair_names
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.natural_order import natural_key

TWELVE = range(1, 13)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("{}_blur", "{}"),
        ("{}", "{}_gt"),
        ("img{}", "gt_{:02}"),
        ("{:03}", "gt{}"),
        ("s{}_in", "s{}"),
        ("s{}", "sharp_s{:04}"),
        ("2023_{}", "{}"),
        ("2023-05-01_{}", "2023-05-01_{:03}_sharp"),
        ("v2_{}", "gt1_{}"),
        ("{:04}x4", "{}"),
        ("IMG_{}", "img-{:02}"),
        ("photo ({})", "{}"),
        ("été_{}", "e\N{COMBINING ACUTE ACCENT}te\N{COMBINING ACUTE ACCENT}-{}"),
        ("模糊{}", "清晰{}"),
        ("1P0A{:04}_L", "1P0A{:04}_R"),
        ("scene{}_view3", "scene{:02}_view3_gt"),
    ],
)
def test_numbers_pair_as_integers_whatever_stands_around_them(left, right):
    want = tuple((left.format(i), right.format(i)) for i in TWELVE)
    lefts, rights = ([pair[side] for pair in want] for side in (0, 1))
    assert pair_names(sorted(lefts), sorted(rights, reverse=True)) == Pairing(want, "name")


@pytest.mark.parametrize(
    ("left", "right", "by"),
    [
        ("img1", "gt_01", "name"),
        ("castle_blur", "castle", "name"),
        ("1P0A0002", "1P0A0001", "order"),
        ("a", "b", "order"),
    ],
)
def test_one_file_in_each_folder_is_a_pair(left, right, by):
    assert pair_names([left], [right]) == Pairing(((left, right),), by)


def test_words_pair_whole_before_letters():
    cats = ["a_blur", "ab_blur", "b_blur"]
    assert dict(pair_names(cats, ["a", "ab", "b"]).pairs) == {
        "a_blur": "a",
        "ab_blur": "ab",
        "b_blur": "b",
    }
    assert pair_names(["castleblur", "houseblur"], ["castle", "house"]).by == "name"


def test_shared_letters_of_words_are_not_taken_for_a_prefix():
    found = pair_names(["house_b", "horse_b", "tree_b"], ["gt_house", "gt_horse"])
    assert dict(found.pairs) == {"house_b": "gt_house", "horse_b": "gt_horse"}
    assert found.unpaired == ("tree_b",)


def test_missing_files_on_both_sides_are_unpaired_and_shift_nothing():
    found = pair_names(
        [f"{i:03}_b" for i in TWELVE if i != 9], [f"{i:03}_s" for i in TWELVE if i != 4]
    )
    assert found.unpaired == ("004_b", "009_s")
    assert found.pairs == tuple((f"{i:03}_b", f"{i:03}_s") for i in TWELVE if i not in (4, 9))
    assert pair_names("123", "124").unpaired == ("3", "4")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["s1_v1", "s1_v2"], ["s1_v1", "s2_v1"]),  # s1_v2 and s2_v1 lack partners
        (["a_1_x", "a_2_x"], ["a_1", "b_1"]),
        (["a_a", "a_b"], ["a_a", "b_a"]),
    ],
)
def test_what_one_side_happens_to_share_is_not_removed_if_names_match_with_it(left, right):
    found = pair_names(left, right)
    assert found.pairs == ((left[0], right[0]),)
    assert found.unpaired == (left[1], right[1])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("2023_{}", "2024_{}"),
        ("cam1_{}", "cam2_{}"),
        ("s2_{}", "s{}"),  # many of scene 2, or one of each scene?
        ("2_{}", "{}"),
        ("1_{}", "{}_1"),
        ("s1_v{}", "s{}_v1"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused_with_the_first(left, right):
    lefts, rights = ([side.format(i) for i in TWELVE[1:]] for side in (left, right))
    message = f"the numbers of {lefts[0]} and {rights[0]} contradict each other"
    with pytest.raises(UserError, match=re.escape(message)):
        pair_names(lefts, rights)


def test_names_that_differ_only_in_padding_case_or_separators_are_refused():
    for one, other in (("01", "1"), ("IMG_1", "img-1"), ("a_b", "A b")):
        with pytest.raises(UserError, match=r"differ only in case, separators or zero padding"):
            pair_names([one, other, "2"], ["1", "2", "3"])
    assert pair_names(["01", "1"], ["1", "01"]).pairs == (("01", "01"), ("1", "1"))


def test_order_decides_only_where_the_names_share_nothing_and_the_counts_are_equal():
    assert pair_names(["1P0A0012", "1P0A0002"], ["1P0A0001", "1P0A0011"]) == Pairing(
        (("1P0A0002", "1P0A0001"), ("1P0A0012", "1P0A0011")), "order"
    )
    found = pair_names(["b10", "b9"], ["s100", "s20"])
    assert found == Pairing((("b9", "s20"), ("b10", "s100")), "order")
    assert pair_names(["b1", "b2", "b3"], ["s4", "s5"]).pairs == ()
    days = ["20240501_101500", "20240502_101500"], ["20240501_101503", "20240502_101507"]
    assert pair_names(*days).pairs == ()  # the days are the same, the seconds are not


def test_natural_order_counts():
    names = [f"{word}{number}" for word in ("a", "B") for number in (1, 2, 9, 10, 100)]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == names
    assert sorted(["a", "1", "", "a1b", "a1"], key=natural_key) == ["", "1", "a", "a1", "a1b"]


BEFORE = ("", "", "img", "gt_", "blur-", "2023_", "2024-01-", "v2_", "x4", "out of focus ", "cam1_")
BEHIND = ("", "", "_in", "_blur", "-gt", "_x4", "s", "_L", "_1", "_2023", " (1)", ".v2")
WORDS = ("cat", "dog", "house", "horse", "tree", "a", "b", "ab", "in", "blur", "x")
LABELS = ("", "", "s", "scene", "view", "v", "cat")


def made_up_folder(rng: random.Random, keys: list[tuple], labels: list[str]) -> dict[str, tuple]:
    """Returns the name of each key that is there; none are there by chance, or half of them."""
    before, behind, padding = rng.choice(BEFORE), rng.choice(BEHIND), rng.choice((0, 1, 3))
    separator, missing = rng.choice("_- "), rng.choice((0, 0, 0.1, 0.5))
    names = {}
    for key in keys:
        fields = [str(field).zfill(padding) if isinstance(field, int) else field for field in key]
        middle = separator.join(map("".join, zip(labels, fields, strict=True)))
        # Two numbers need something between them to be two.
        first = "_" * (before[-1:].isdigit() and middle[0].isdigit())
        last = "_" * (middle[-1].isdigit() and behind[:1].isdigit())
        if rng.random() >= missing:
            names[f"{before}{first}{middle}{last}{behind}"] = key
    return names


@pytest.mark.parametrize("seed", range(4))
def test_names_made_of_known_keys_are_paired_right_or_refused(seed):
    rng, paired = random.Random(seed), 0
    for _ in range(600):
        kinds = [rng.choice((int, int, int, str)) for _ in range(rng.choice((1, 1, 2, 3)))]
        labels, largest = [rng.choice(LABELS) for _ in kinds], rng.choice((3, 12, 100))
        keys = {
            tuple(rng.randint(0, largest) if k is int else rng.choice(WORDS) for k in kinds)
            for _ in range(rng.choice((2, 3, 5, 12)))
        }
        left, right = (made_up_folder(rng, sorted(keys, key=str), labels) for _ in range(2))
        if min(len(left), len(right)) < 2:
            continue
        names = [rng.sample(list(side), len(side)) for side in (left, right)]
        try:
            found = pair_names(*names)
        except UserError:
            continue
        if found.unpaired:
            continue
        are_right = all(left[one] == right[other] for one, other in found.pairs)
        assert are_right or (found.by == "order" and not set(left.values()) & set(right.values()))
        paired += are_right
    assert paired > 120


def test_names_of_separators_alone_are_names():
    assert set(pair_names(["_", "a"], ["x", "y"]).unpaired) <= {"_", "a", "x", "y"}
