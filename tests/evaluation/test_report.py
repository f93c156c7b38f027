"""The report's files: what lies in them, and that no name breaks out of the page."""

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.made_up_report import HOSTILE, made_up_scores, noise
from vitdeblur_jax.evaluation.report import add_image, error_map, write_report
from vitdeblur_jax.utils.errors import UserError

ONE = made_up_scores(["a"], {"b": {"a": 20.0}})


def contents_of(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="contents">(.*?)</script>', page)
    return json.loads(text)


def test_hostile_names_stay_inside_the_data(tmp_path: Path):
    scores = made_up_scores([*HOSTILE], {name: dict.fromkeys(HOSTILE, 20.0) for name in HOSTILE})
    harmless = write_report(tmp_path, ONE).read_text()
    page = write_report(tmp_path, scores).read_text()
    assert contents_of(page)["scores"] == scores
    for sign in "<>&":
        assert page.count(sign) == harmless.count(sign)


def test_the_policy_allows_the_pages_own_script_and_style_alone(tmp_path: Path):
    page = write_report(tmp_path, ONE).read_text()
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "'self' file: data:"
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_images_are_kept_without_loss(tmp_path: Path):
    pixels, target = noise(0, 300, 700), noise(1, 300, 700)
    add_image(tmp_path, 4, 2, pixels, target)
    add_image(tmp_path, 4, 0, target, None)
    names = {path.name for path in (tmp_path / "images").iterdir()}
    of_method = {"4-2.png", "4-2-thumbnail.jpg", "4-2-error.jpg"}
    assert names == of_method | {"4-0.png", "4-0-thumbnail.jpg"}
    with Image.open(tmp_path / "images/4-2.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    with Image.open(tmp_path / "images/4-2-thumbnail.jpg") as image:
        assert image.size == (320, 137)
    with Image.open(tmp_path / "images/4-2-error.jpg") as image:
        assert image.mode == "L"
        assert image.size == (700, 300)


def test_a_single_pixel_is_an_image(tmp_path: Path):
    add_image(tmp_path, 0, 1, noise(0, 1, 1), noise(1, 1, 1))
    page = write_report(tmp_path, ONE).read_text()
    assert contents_of(page)["sizes"] == [[None, [1, 1]]]


def test_the_error_map_is_black_without_error_and_white_from_a_tenth():
    target = np.full((1, 4, 3), 100, np.uint8)
    pixels = target.copy()
    pixels[0, 1] += np.uint8([3, 0, 3])  # 2 on average
    pixels[0, 2] -= np.uint8(20)
    pixels[0, 3] += np.uint8(26)
    assert error_map(pixels, target).tolist() == [[0, 20, 200, 255]]
    assert error_map(target, pixels).tolist() == [[0, 20, 200, 255]]


def test_images_that_a_method_lacks_are_left_out(tmp_path: Path):
    for image in range(2):
        for method in range(3):  # those of an earlier report lie there, too
            add_image(tmp_path, image, method, noise(0, 8 - method, 9), None)
    scores = made_up_scores(["a", "b"], {"first": {"a": 20.0, "b": 21.0}, "second": {"a": 22.0}})
    sizes = contents_of(write_report(tmp_path, scores).read_text())["sizes"]
    assert sizes == [[[9, 8], [9, 7], [9, 6]], [[9, 8], [9, 7], None]]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"images: cannot be made \(Not a directory\)"):
        add_image(tmp_path / "file", 0, 0, noise(0, 2, 2), None)
