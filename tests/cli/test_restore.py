"""`vitdeblur restore`: the files it writes, strength, self-ensemble, maps, quality."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.cli.restored import PHOTO, STRIDE, names, pixels, refused
from vitdeblur_jax import (
    UserError,
    deblur,
    save_pretrained,
)
from vitdeblur_jax.cli.restore import DTYPES, PRECISIONS
from vitdeblur_jax.models.networks import NUMERICS_RULES

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKE = 274, 271


def test_dtype_is_that_of_the_computation(vitdeblur, photo, sharp):
    assert vitdeblur("photo.png", "-o", "half.png", "--dtype", "bfloat16")[0] == 0
    half = pixels("half.png").astype(int)
    assert 0 < np.abs(half - sharp).max() < 32
    assert "bfloat16" in refused(vitdeblur("photo.png", "--dtype", "float16"))


def test_the_choices_are_those_of_the_networks():
    assert NUMERICS_RULES["dtype"].choices == DTYPES
    assert NUMERICS_RULES["precision"].choices == PRECISIONS


# Output files


def test_the_result_is_written_beside_the_image(vitdeblur, photo, sharp):
    status, said = vitdeblur("photo.png")
    assert (status, said) == (0, "photo.png (1 of 1)\nwritten: photo_restored.png\n")
    np.testing.assert_array_equal(pixels("photo_restored.png"), sharp)
    assert names() == ["photo.png", "photo_restored.png"]


def test_output_file(vitdeblur, photo, sharp):
    Path("results").mkdir()
    assert vitdeblur("photo.png", "-o", "results/b.TIF")[0] == 0
    np.testing.assert_array_equal(pixels("results/b.TIF"), sharp)


@pytest.mark.parametrize(
    ("sources", "output"),
    [
        (["photo.png", "album/x.jpg"], "new/folder"),
        (["photo.png", "album"], "new"),
        (["album"], "new"),
        (["photo.png"], "new/"),
        (["photo.png"], "album"),
    ],
)
def test_output_folder(vitdeblur, photo, sources, output):
    Path("album").mkdir()
    Image.fromarray(PHOTO).save("album/x.jpg", quality=95)
    before = names("album")
    assert vitdeblur(*sources, "-o", output)[0] == 0
    wanted = ["photo.png"] * ("photo.png" in sources) + ["x.jpg"] * any(
        "album" in s for s in sources
    )
    assert names(output) == sorted(wanted + before * (output == "album"))


def test_several_images_without_output(vitdeblur, photo):
    Image.fromarray(PHOTO).save("b.ppm")
    status, said = vitdeblur("photo.png", "b.ppm")
    assert status == 0
    assert "b.ppm (2 of 2)\nwritten: b_restored.ppm.png" in said
    assert names() == ["b.ppm", "b_restored.ppm.png", "photo.png", "photo_restored.png"]


def test_standard_input_and_output(vitdeblur, photo, sharp, monkeypatch):
    streams = [SimpleNamespace(buffer=io.BytesIO(data)) for data in (photo.read_bytes(), b"")]
    monkeypatch.setattr(sys, "stdin", streams[0])
    monkeypatch.setattr(sys, "stdout", streams[1])
    assert vitdeblur("-") == (0, "standard input (1 of 1)\n")
    np.testing.assert_array_equal(pixels(streams[1].buffer), sharp)
    streams[0].buffer.seek(0)
    assert vitdeblur("-", "-o", "in a folder/")[0] == 0
    assert names("in a folder") == ["restored.png"]


def test_a_process_prints_nothing_else(photo, small, sharp, tmp_path):
    """JAX and Orbax add nothing to the output of the command."""
    save_pretrained(small, tmp_path / "checkpoint")
    command = [sys.executable, "-m", "vitdeblur_jax.cli.main", "-", "--checkpoint", "checkpoint"]
    done = subprocess.run(
        [*command, "--stride", str(STRIDE)],
        input=photo.read_bytes(),
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.stderr.decode() == "standard input (1 of 1)\n"
    assert done.returncode == 0
    result = pixels(io.BytesIO(done.stdout)).astype(int)
    assert np.abs(result - sharp).max() <= 1  # compiled anew: a float may fall on the other side


# Metadata


def test_gray_and_alpha_stay(vitdeblur, pretrained, sharp):
    alpha = PHOTO[..., 0]
    Image.fromarray(np.dstack((PHOTO, alpha))).save("alpha.png")
    Image.fromarray(alpha).save("gray.png")
    assert vitdeblur("alpha.png", "gray.png")[0] == 0
    np.testing.assert_array_equal(pixels("alpha_restored.png"), np.dstack((sharp, alpha)))
    restored = deblur(np.dstack([alpha] * 3), pretrained, stride=STRIDE)
    assert pixels("gray_restored.png").ndim == 2
    luminance = restored @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(pixels("gray_restored.png"), luminance, rtol=0, atol=0.51)


def test_what_a_format_cannot_hold_is_noted(vitdeblur, sharp):
    Image.fromarray(np.dstack((PHOTO, PHOTO[..., 0]))).save("alpha.png")
    status, said = vitdeblur("alpha.png", "-o", "opaque.jpg")
    assert status == 0
    assert "note: JPEG: transparency is left out\n" in said
    assert pixels("opaque.jpg").shape == sharp.shape


def test_16_bits_stay(vitdeblur, pretrained):
    deep = PHOTO.astype(np.uint16) * 257 + np.arange(3, dtype=np.uint16)
    Path("deep.png").write_bytes(imagecodecs.png_encode(deep))
    assert vitdeblur("deep.png")[0] == 0
    result = imagecodecs.png_decode(Path("deep_restored.png").read_bytes())
    np.testing.assert_array_equal(result, deblur(deep, pretrained, stride=STRIDE))
    assert result.dtype == np.uint16


def test_metadata_stays_and_orientation_is_applied(vitdeblur, sharp):
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "Camera maker"
    turned = Image.fromarray(np.rot90(PHOTO))  # 6: turn clockwise to see it upright
    turned.save("turned.png", exif=exif, icc_profile=SRGB)
    assert vitdeblur("turned.png")[0] == 0
    with Image.open("turned_restored.png") as result:
        np.testing.assert_array_equal(np.asarray(result), sharp)
        assert result.info["icc_profile"] == SRGB
        assert result.getexif().get(ORIENTATION, 1) == 1
        assert result.getexif()[MAKE] == "Camera maker"


# Strength, self-ensemble, maps


def test_strength_blends_with_the_image(vitdeblur, photo, sharp):
    assert vitdeblur("photo.png", "--strength", "0", "-o", "none.png")[0] == 0
    np.testing.assert_array_equal(pixels("none.png"), PHOTO)
    assert vitdeblur("photo.png", "--strength", "0.25", "-o", "some.png")[0] == 0
    mixture = 0.75 * PHOTO + 0.25 * sharp
    # The network's output was clipped and rounded in `sharp`, but not before it was blended.
    inside = (sharp > 0) & (sharp < 255)
    assert np.abs(pixels("some.png") - mixture)[inside].max() < 0.7


def test_map_of_the_change(vitdeblur, photo, sharp):
    assert vitdeblur("photo.png", "--change", "change.png")[0] == 0
    change = np.abs(sharp.astype(float) - PHOTO).mean(axis=-1)
    expected = np.clip(change / 32 * 255, 0, 255)
    assert np.abs(pixels("change.png")[..., 0] - expected).max() <= 0.51
    assert "change.png exists; --force" in refused(
        vitdeblur("photo.png", "-o", "b.png", "--change", "change.png")
    )


def test_self_ensemble_is_the_mean_over_flips_and_turns(vitdeblur, photo, pretrained):
    options = ["--self-ensemble", "--uncertainty", "map.png"]
    status, said = vitdeblur("photo.png", *options)
    assert status == 0
    assert said.splitlines()[-2:] == ["written: photo_restored.png", "written: map.png"]
    image = PHOTO.astype(np.float32) / 255
    each = []
    for turns in range(4):
        for mirrored in (image, image[:, ::-1]):
            turned = np.ascontiguousarray(np.rot90(mirrored, turns))
            restored = np.rot90(deblur(turned, pretrained, stride=STRIDE), -turns)
            each.append(restored if mirrored is image else restored[:, ::-1])
    mean = 255 * np.mean(each, axis=0).clip(0, 1)
    assert np.abs(pixels("photo_restored.png") - mean).max() < 0.51
    spread = np.sqrt(np.var(each, axis=0).mean(axis=-1)) / (8 / 255)
    assert np.abs(pixels("map.png")[..., 0] - 255 * spread.clip(0, 1)).max() < 0.6


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_deblur_takes_the_same_options(small, kind):
    image = PHOTO if kind is np.uint8 else PHOTO.astype(np.float32) / 255
    whole = deblur(image, small, stride=STRIDE, ensemble=True).astype(float)
    half = deblur(image, small, stride=STRIDE, ensemble=True, strength=0.5)
    assert half.dtype == kind
    free = np.ones(image.shape, bool) if kind is np.float32 else (whole > 0) & (whole < 255)
    bound = 1e-5 if kind is np.float32 else 0.8
    assert np.abs(half - (whole + image) / 2)[free].max() < bound
    with pytest.raises(UserError, match=r"strength is -1\.0; it must be between 0 and 1"):
        deblur(image, small, strength=-1.0)


# Damaged images, and quality


def test_a_damaged_image_is_restored_with_a_note(vitdeblur, photo):
    stream = io.BytesIO()
    Image.fromarray(PHOTO).save(stream, "JPEG", quality=98)
    data = stream.getvalue()
    for damaged, told in (
        (data[: len(data) // 2] + b"\xff\xd9", "note: the file is damaged"),
        (data[:-2], "the end marker is missing"),
    ):
        Path("torn.jpg").write_bytes(damaged)
        status, said = vitdeblur("torn.jpg", "--force", "--strength", "0")
        assert status == 0, said
        assert told in said
        assert pixels("torn_restored.jpg").shape == PHOTO.shape


def test_quality_of_the_result(vitdeblur, photo):
    Image.fromarray(PHOTO).save("a.jpg", quality=60, subsampling=2)
    for options, quality in ([], 60), (["--quality", "80"], 80):
        assert vitdeblur("a.jpg", "--force", *options)[0] == 0
        Image.fromarray(PHOTO).save("oracle.jpg", quality=quality, subsampling=2)
        with Image.open("a_restored.jpg") as result, Image.open("oracle.jpg") as oracle:
            assert result.quantization == oracle.quantization
            assert result.layer == oracle.layer
    status, said = vitdeblur("photo.png", "--quality", "80")
    assert status == 2
    assert "--quality is for JPEG, WebP, HEIC and AVIF; not for photo_restored.png" in said
    assert "from 1 to 100" in vitdeblur("a.jpg", "--force", "--quality", "0")[1]
