"""Synthetic pairs: the sRGB standard, noise as measured, the same bytes for the same seed."""

import dataclasses
import io
import os

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vitdeblur_jax.data.defocus import synthesis_files
from vitdeblur_jax.data.defocus.apertures import disk, point_image
from vitdeblur_jax.data.defocus.camera import (
    add_noise,
    extend_highlights,
)
from vitdeblur_jax.data.defocus.scenes import draw_aperture, draw_radius_map
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.defocus.synthesis import synthesize
from vitdeblur_jax.data.defocus.synthesis_files import generator_for, synthesize_folder
from vitdeblur_jax.data.image_io import read_rgb, write_image
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.pairs import read_pair
from vitdeblur_jax.data.srgb import linear_to_srgb, srgb_to_linear
from vitdeblur_jax.utils.errors import UserError

# All in focus, nothing added.
CLEAN = SynthesisSettings(
    usual_radius=(0.0, 0.0), largest_radius=0.0, noise=0.0, jpeg_share=0.0, smooth_share=0.0
)


@pytest.fixture(scope="module")
def sharp() -> np.ndarray:
    noise = np.random.default_rng(7).standard_normal((96, 80, 3))
    noise = ndimage.gaussian_filter(noise, (1, 1, 0))
    return np.clip(128 + 80 * noise / noise.std(), 0, 255).astype(np.uint8)


def draw(sharp, seed=0, segmentation=None, **settings):
    rng = np.random.default_rng(seed)
    return synthesize(sharp, SynthesisSettings(**settings), rng, segmentation)


def test_srgb_matches_the_standard():
    # IEC 61966-2-1: a line below 0.0031308, 0.5 is 0.21404, 188 of 255 is about half the light.
    encoded = np.array([0.0, 0.04, 0.5, 188 / 255, 1.0])
    np.testing.assert_allclose(
        srgb_to_linear(encoded), [0, 0.04 / 12.92, 0.2140411, 0.5028865, 1], atol=1e-7
    )


def test_srgb_there_and_back_is_exact():
    values = np.arange(256)
    light = srgb_to_linear(values / 255).astype(np.float32)
    np.testing.assert_array_equal(np.rint(255 * linear_to_srgb(light)), values)


@pytest.mark.parametrize("settings", [{}, {"dual_pixel": True, "highlight_gain": 4.0}])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_same_seed_gives_the_same_bytes(sharp, seed, settings):
    first, second = (draw(sharp, seed, **settings) for _ in range(2))
    other = draw(sharp, seed + 100, **settings)
    assert first.keys() == {"blurred", "sharp", "radius"}
    for key, value in first.items():
        assert value.tobytes() == second[key].tobytes()
    assert first["blurred"].tobytes() != other["blurred"].tobytes()
    assert first["blurred"].shape == (96, 80, 6 if settings else 3)
    assert first["blurred"].dtype == np.uint8
    assert first["radius"].shape == (96, 80)
    assert first["radius"].dtype == np.float32


@pytest.mark.parametrize("seed", range(6))
def test_a_part_is_cut_out_of_the_whole(sharp, seed):
    settings = SynthesisSettings(smooth_share=0.0, most_layers=1, noise=0.0, jpeg_share=0.0)
    part = slice(5 * seed, 5 * seed + 24), slice(50 - 10 * seed, 80 - 10 * seed)
    whole = synthesize(sharp, settings, np.random.default_rng(seed))
    example = synthesize(sharp, settings, np.random.default_rng(seed), wanted=part)
    np.testing.assert_array_equal(example["sharp"], sharp[part])
    np.testing.assert_array_equal(example["radius"], whole["radius"][part])
    # A tilted plane's slices depend a little on how much of it is seen.
    difference = np.abs(example["blurred"].astype(int) - whole["blurred"][part])
    assert difference.max() <= 2
    assert difference.mean() < 0.3


@pytest.mark.parametrize("corner", [(24, 20), (25, 27), (31, 22)])
def test_a_part_has_the_jpeg_blocks_of_the_whole(sharp, corner):
    settings = dataclasses.replace(CLEAN, largest_radius=18.0, jpeg_share=1.0)
    part = slice(corner[0], corner[0] + 20), slice(corner[1], corner[1] + 20)
    whole, example = (
        synthesize(sharp, settings, np.random.default_rng(0), wanted=wanted)["blurred"]
        for wanted in (None, part)
    )
    np.testing.assert_array_equal(example, whole[part])


def test_in_focus_nothing_changes(sharp):
    example = synthesize(sharp, CLEAN, np.random.default_rng(0))
    np.testing.assert_array_equal(example["blurred"], sharp)
    np.testing.assert_array_equal(example["sharp"], sharp)


@pytest.mark.parametrize("tone", [1.0, 0.7])
def test_one_flat_layer_matches_a_plain_convolution_in_linear_light(sharp, tone):
    settings = {"tone": (tone, tone)}
    settings |= {"most_layers": 1, "smooth_share": 0.0, "noise": 0.0, "jpeg_share": 0.0}
    settings |= {"disk_share": 1.0, "polygon_share": 0.0}
    seeds = range(50)
    examples = (draw(sharp, seed, **settings) for seed in seeds)
    example = next(e for e in examples if np.ptp(e["radius"]) == 0 and e["radius"][0, 0] > 3)
    kernel = point_image(disk(), float(example["radius"][0, 0]))
    light = srgb_to_linear(sharp / 255) ** tone
    light = np.stack([ndimage.convolve(c, kernel) for c in np.moveaxis(light, -1, 0)], axis=-1)
    want = 255 * linear_to_srgb(light ** (1 / tone))
    assert np.abs(example["blurred"] - want).max() < 0.51


def test_views_of_a_dual_pixel_add_up_in_linear_light(sharp):
    settings = {"most_layers": 1, "smooth_share": 0.0, "noise": 0.0, "jpeg_share": 0.0}
    whole, views = draw(sharp, 3, **settings), draw(sharp, 3, dual_pixel=True, **settings)
    np.testing.assert_array_equal(whole["radius"], views["radius"])
    assert np.abs(whole["radius"]).max() > 2
    light = srgb_to_linear(views["blurred"] / 255)
    mean = (light[..., :3] + light[..., 3:]) / 2
    assert np.abs(views["blurred"][..., :3] - views["blurred"][..., 3:].astype(int)).max() > 10
    assert np.abs(255 * linear_to_srgb(mean) - whole["blurred"]).max() < 1.5  # three roundings


def test_noise_has_the_deviation_that_was_asked_for():
    rng = np.random.default_rng(0)
    light = np.full((300, 300), 0.2140411, np.float32)
    noisy = linear_to_srgb(np.clip(add_noise(light, 2 / 255, rng), 0, 1))
    assert 255 * noisy.std() == pytest.approx(2, rel=0.02)
    # Shot noise: variance in proportion to the light, but for the read noise.
    bright = add_noise(4 * light, 2 / 255, rng).var() / add_noise(light, 2 / 255, rng).var()
    assert bright == pytest.approx(4, rel=0.05)
    assert add_noise(0 * light, 2 / 255, rng).std() > 0


def test_highlights_alone_become_brighter():
    sharp = np.array([[[255, 255, 255], [250, 255, 255], [255, 0, 255], [100, 90, 80]]], np.uint8)
    light, extended = extend_highlights(sharp, 1.0), extend_highlights(sharp, 3.0)
    np.testing.assert_allclose(light, srgb_to_linear(sharp / 255), rtol=1e-6)
    np.testing.assert_allclose(extended[0, 0], 3)
    np.testing.assert_array_equal(extended[0, 1:], light[0, 1:])


def test_jpeg_is_drawn_from_its_share(sharp):
    plain, coded = (
        draw(sharp, 5, noise=0.0, jpeg_share=share, jpeg_quality=(90, 90)) for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain["radius"], coded["radius"])
    buffer = io.BytesIO()
    Image.fromarray(plain["blurred"]).save(buffer, "JPEG", quality=90)
    np.testing.assert_array_equal(coded["blurred"], np.asarray(Image.open(buffer)))


def test_a_segment_is_one_plane(sharp):
    labels = np.zeros((96, 80), np.int32)
    labels[:, 40:] = 7
    labels[50:] = 3
    y, x = np.mgrid[:96, :80]
    settings = SynthesisSettings(smooth_share=0.0, largest_radius=20.0)
    spread = []
    for seed in range(30):
        radius = draw_radius_map(sharp, settings, np.random.default_rng(seed), labels)
        spread.append(np.ptp(radius))
        for label in (0, 3, 7):
            inside = labels == label
            design = np.stack([np.ones(inside.sum()), y[inside], x[inside]], axis=1)
            fit = design @ np.linalg.lstsq(design, radius[inside], rcond=None)[0]
            np.testing.assert_allclose(fit, radius[inside], atol=1e-4)
    assert max(spread) > 3


def test_radii_follow_the_settings(sharp):
    settings = SynthesisSettings()
    maps = [draw_radius_map(sharp, settings, np.random.default_rng(seed)) for seed in range(300)]
    assert max(np.abs(radius).max() for radius in maps) <= 12
    size = np.abs([radius[48, 40] for radius in maps])
    assert 0.7 < np.mean((size > 0.5) & (size < 8)) < 0.95
    assert np.mean(size < 0.5) > 0.03
    assert np.mean(size > 8) > 0.02
    assert 0.3 < np.mean([radius[48, 40] < 0 for radius in maps]) < 0.7


def test_apertures_follow_their_shares():
    rng = np.random.default_rng(0)
    kernels = [point_image(draw_aperture(SynthesisSettings(), rng), 6.0) for _ in range(400)]
    whole = point_image(disk(), 6.0)
    is_disk = [np.array_equal(kernel, whole) for kernel in kernels]
    # Of the others, a cat's eye is the same upside down; so are polygons of 6 and 8 blades.
    is_odd = [np.abs(kernel - kernel[::-1, ::-1]).max() > 1e-6 for kernel in kernels]
    assert np.mean(is_disk) == pytest.approx(0.6, abs=0.06)
    assert np.mean(is_odd) == pytest.approx(0.2 * 3 / 5, abs=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"disk_share": 0.9},
        {"jpeg_share": -0.1},
        {"usual_radius": (3.0, 1.0)},
        {"largest_radius": 4.0},
        {"jpeg_quality": (90, 101)},
        {"most_layers": 0},
        {"highlight_gain": 0.5},
        {"falloff": (0.5, -0.5)},
        {"falloff": (0.0, 1.5)},
        {"tone": (0.0, 1.0)},
    ],
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(UserError) as caught:
        SynthesisSettings(**settings)
    assert next(iter(settings)) in str(caught.value)


def write_images(folder, sharp, names=("a", "b", "c")):
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(np.roll(sharp, 5 * i, axis=0)).save(folder / f"{name}.png")


def test_folder_becomes_pairs_whatever_else_is_in_it(tmp_path, sharp):
    write_images(tmp_path / "sharp", sharp)
    out = tmp_path / "out"
    assert synthesize_folder(tmp_path / "sharp", out, SynthesisSettings(), 3) == 3
    pairs = find_pairs(out, "pairs")
    assert [pair.name for pair in pairs] == ["a", "b", "c"]
    source, target = read_pair(pairs[1])
    np.testing.assert_array_equal(target, np.roll(sharp, 5, axis=0))
    want = synthesize(target, SynthesisSettings(), generator_for("b", 3))["blurred"]
    np.testing.assert_array_equal(source, want)
    (tmp_path / "sharp" / "a.png").unlink()
    assert synthesize_folder(tmp_path / "sharp", tmp_path / "fewer", SynthesisSettings(), 3) == 2
    assert (tmp_path / "fewer/input/b.png").read_bytes() == (out / "input/b.png").read_bytes()


def test_dual_pixel_views_go_into_two_folders(tmp_path, sharp):
    write_images(tmp_path / "sharp", sharp, ("a",))
    settings = SynthesisSettings(dual_pixel=True)
    synthesize_folder(tmp_path / "sharp", tmp_path / "out", settings, 3)
    views = synthesize(sharp, settings, generator_for("a", 3))["blurred"]
    for i, name in enumerate(("input_left", "input_right")):
        view = np.asarray(Image.open(tmp_path / "out" / name / "a.png"))
        np.testing.assert_array_equal(view, views[..., 3 * i : 3 * i + 3])


def test_existing_pairs_are_replaced_only_when_asked(tmp_path, sharp):
    write_images(tmp_path / "sharp", sharp)
    (tmp_path / "out/target").mkdir(parents=True)
    old = tmp_path / "out/target/b.png"
    old.write_bytes(b"old")
    with pytest.raises(UserError, match=r"b\.png exists"):
        synthesize_folder(tmp_path / "sharp", tmp_path / "out", SynthesisSettings(), 0)
    assert old.read_bytes() == b"old"
    assert not (tmp_path / "out/input").exists()
    synthesize_folder(tmp_path / "sharp", tmp_path / "out", SynthesisSettings(), 0, overwrite=True)
    assert read_rgb(old).shape == (96, 80, 3)


def interrupted(monkeypatch, after: int):
    """Interrupts the writing of pairs after some files."""
    written = []

    def write(image, path):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        write_image(image, path)

    monkeypatch.setattr(synthesis_files, "write_image", write)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.png")}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


def test_interrupted_synthesis_resumes_with_what_is_missing(tmp_path, sharp, monkeypatch, capsys):
    write_images(tmp_path / "sharp", sharp)
    arguments = tmp_path / "sharp", tmp_path / "out", SynthesisSettings(), 3
    with monkeypatch.context() as patch:
        interrupted(patch, after=3)  # of the second pair only the blurred one is there
        with pytest.raises(KeyboardInterrupt):
            synthesize_folder(*arguments)
    before = times(tmp_path / "out")
    capsys.readouterr()
    assert synthesize_folder(*arguments) == 3
    assert capsys.readouterr().err.splitlines()[0] == "1 of 3 pairs are done already"
    after = times(tmp_path / "out")
    kept = {path.name for path, time in before.items() if after[path] == time}
    assert kept == {"a.png"}
    synthesize_folder(tmp_path / "sharp", tmp_path / "whole", SynthesisSettings(), 3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert synthesize_folder(*arguments) == 3
    assert times(tmp_path / "out") == after


def test_pairs_of_another_seed_or_settings_are_not_mixed_in(tmp_path, sharp, monkeypatch):
    write_images(tmp_path / "sharp", sharp, ("a", "b"))
    folders, settings = (tmp_path / "sharp", tmp_path / "out"), SynthesisSettings()
    synthesize_folder(*folders, settings, 3)
    first = contents(tmp_path / "out")
    for other in ((settings, 4), (SynthesisSettings(noise=1.0), 3)):
        with pytest.raises(UserError, match=r"a\.png exists from another folder, another seed or"):
            synthesize_folder(*folders, *other)
    write_images(tmp_path / "others", sharp[::-1], ("a",))
    with pytest.raises(UserError, match=r"a\.png exists from another folder"):
        synthesize_folder(tmp_path / "others", tmp_path / "out", settings, 3)
    assert contents(tmp_path / "out") == first
    with monkeypatch.context() as patch:
        interrupted(patch, after=1)
        with pytest.raises(KeyboardInterrupt):
            synthesize_folder(*folders, settings, 4, overwrite=True)
    synthesize_folder(*folders, settings, 4)  # what is left of seed 3 is replaced
    synthesize_folder(tmp_path / "sharp", tmp_path / "new", settings, 4)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_an_image_that_has_changed_is_put_out_of_focus_again(tmp_path, sharp):
    write_images(tmp_path / "sharp", sharp, ("a", "b"))
    arguments = tmp_path / "sharp", tmp_path / "out", SynthesisSettings(), 3
    synthesize_folder(*arguments)
    Image.fromarray(sharp[::-1]).save(tmp_path / "new.png")
    os.utime(tmp_path / "new.png", (1, 1))  # as of a file copied from elsewhere
    os.replace(tmp_path / "new.png", tmp_path / "sharp/b.png")
    synthesize_folder(*arguments)
    np.testing.assert_array_equal(read_rgb(tmp_path / "out/target/b.png"), sharp[::-1])


def test_synthesis_tells_what_it_leaves_out_and_takes_names_that_are_not_utf8(
    tmp_path, sharp, capsys
):
    write_images(tmp_path / "sharp", sharp, (os.fsdecode(b"caf\xe9"),))
    (tmp_path / "sharp/b.psd").write_bytes(b"")
    synthesize_folder(tmp_path / "sharp", tmp_path / "out", SynthesisSettings(), 0)
    said = capsys.readouterr().err
    assert said == "left out: 1 file in unsupported formats (.psd)\n"
    assert os.listdir(bytes(tmp_path / "out/input")) == [b"caf\xe9.png"]


@pytest.mark.parametrize("trouble", ["broken", "twins", "empty", "no folder"])
def test_trouble_with_files_is_one_line(tmp_path, sharp, trouble):
    folder = tmp_path / "sharp"
    write_images(folder, sharp, () if trouble == "empty" else ("a",))
    out, named = tmp_path / "out", "sharp"
    if trouble == "broken":
        (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:900])
        named = "b.png"
    elif trouble == "twins":
        Image.fromarray(sharp).save(folder / "a.jpg")
    elif trouble == "no folder":
        out.write_text("a file")
        named = "out"
    with pytest.raises(UserError) as caught:
        synthesize_folder(folder, out, SynthesisSettings(), 0)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
