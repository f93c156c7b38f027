"""What the page offers for download is what `vitdeblur restore` writes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.restored import PHOTO
from tests.waiting import wait_until
from tests.web.served import served
from vitdeblur_jax import UserError
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.data.image_io import DecodedImage, read_image, write_image
from vitdeblur_jax.web.images import Models, restore_job


@pytest.fixture(scope="module")
def models(checkpoint) -> Models:
    return Models([checkpoint], None)


@pytest.fixture
def page(models, tmp_path):
    def restore(job, check_room):
        restore_job(job, check_room, models.get)

    folder = tmp_path / "session"
    folder.mkdir()
    with served(folder, restore) as page:
        yield page


def gray_photo_of_a_camera(path: Path) -> None:
    exif = Image.Exif()
    exif[274], exif[272] = 6, "a camera"  # lies on its side
    gray = Image.fromarray(PHOTO[..., 0])
    gray.save(path, exif=exif, quality=80, icc_profile=None, comment=b"a comment")


def deep_photo_with_alpha(path: Path) -> None:
    alpha = np.linspace(0, 65535, PHOTO[..., 0].size).reshape(PHOTO.shape[:2]).astype(np.uint16)
    write_image(DecodedImage(PHOTO.astype(np.uint16) * 257 + 3, alpha), path)


def written_by_the_command(file: Path, checkpoint: str, *options: str) -> bytes:
    written = file.with_name(f"written{file.suffix}")
    arguments = [str(file), "-o", str(written), "--checkpoint", checkpoint, "--force", *options]
    assert main(arguments) == 0
    return written.read_bytes()


@pytest.mark.parametrize(
    ("name", "make"), [("a.jpg", gray_photo_of_a_camera), ("b.png", deep_photo_with_alpha)]
)
def test_downloads_are_the_files_of_the_command_line(page, checkpoint, tmp_path, name, make):
    make(tmp_path / name)
    job = page.add(name, (tmp_path / name).read_bytes())
    (said,) = page.finish()
    assert (said["state"], said["error"], said["progress"]) == ("done", None, 1)
    for strength in ("1", "0.35", "0"):
        answer = page.ask("GET", f"jobs/{job}/result?strength={strength}")
        options = ("--strength", strength, "--change", str(tmp_path / "change.png"))
        assert answer.body == written_by_the_command(tmp_path / name, checkpoint, *options)
        change = page.ask("GET", f"jobs/{job}/change?strength={strength}")
        assert change.body == (tmp_path / "change.png").read_bytes()
        (tmp_path / "change.png").unlink()


PREVIEWS = ("before", "after", "thumbnail")


def preview(page, job: str, name: str) -> np.ndarray:
    body = page.ask("GET", f"jobs/{job}/{name}.png").body
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))


def test_previews_are_upright_and_on_white(page, tmp_path):
    gray_photo_of_a_camera(tmp_path / "a.jpg")
    deep_photo_with_alpha(tmp_path / "b.png")
    jobs = [page.add(name, (tmp_path / name).read_bytes()) for name in ("a.jpg", "b.png")]
    page.finish()
    height, width = PHOTO.shape[:2]
    assert [job["size"] for job in page.listed()] == [[height, width], [width, height]]
    shown = [{name: preview(page, job, name) for name in PREVIEWS} for job in jobs]
    np.testing.assert_array_equal(shown[0]["before"], read_image(tmp_path / "a.jpg").pixels)
    assert (shown[1]["before"][0, 0] == 255).all()  # transparent there
    assert (shown[1]["before"][-1, -1] == PHOTO[-1, -1]).all()
    for images in shown:
        assert images["after"].shape == images["before"].shape == images["thumbnail"].shape
        assert (images["after"] != images["before"]).any()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b""),
        ("a.png", b"not an image"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("<img src=x onerror=alert(1)>.jpg", b"\xff\xd8\xff\xe0"),
    ],
)
def test_a_hostile_upload_gets_the_line_of_the_command(
    page, checkpoint, tmp_path, capsys, name, content
):
    page.add(name, content)
    (said,) = page.finish()
    (tmp_path / name).write_bytes(content)
    main([str(tmp_path / name), "--checkpoint", checkpoint])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {tmp_path}/{said['error']}"
    assert said["error"].startswith(f"{name}: ")


def test_a_decompression_bomb_is_refused(page):
    ihdr = b"\x00\x00\x00\rIHDR" + (60_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0" + bytes(4)
    page.add("bomb.png", b"\x89PNG\r\n\x1a\n" + ihdr + bytes(50))
    (said,) = page.finish()
    assert "the limit against decompression bombs is 2 GiB" in said["error"]


def test_notes_are_those_of_the_command(page, tmp_path):
    gray_photo_of_a_camera(tmp_path / "a.jpg")
    page.add("a.webp", (tmp_path / "a.jpg").read_bytes())
    (said,) = page.finish()
    assert said["notes"] == ["WEBP: left out: the comment"]


def test_removing_a_restored_image_deletes_its_files(page, tmp_path):
    gray_photo_of_a_camera(tmp_path / "a.jpg")
    job = page.add("a.jpg", (tmp_path / "a.jpg").read_bytes())
    page.finish()
    names = {path.name for path in (tmp_path / "session" / job).iterdir()}
    assert names == {"upload", "restored", "before.png", "after.png", "thumbnail.png"}
    assert page.ask("DELETE", f"jobs/{job}").status == 204
    wait_until(lambda: not list((tmp_path / "session").iterdir()))


def test_models(models, checkpoint, tmp_path):
    assert models.names == ["small.safetensors", "bundled model"]
    assert models.get(1).source != models.get(0).source == checkpoint
    with pytest.raises(UserError, match="missing"):
        Models([str(tmp_path / "missing")], None)


def test_names_of_models_hold_no_folders_and_no_secrets(checkpoint):
    address = f"https://models.example/a/best.safetensors?token=secret#sha256={'0' * 64}"
    hub = "hf://owner/name@main/a.safetensors"
    models = Models([checkpoint, "/private/1/best/", "s3://bucket/2/best", address, hub], None)
    assert models.names == [
        "small.safetensors",
        "best",
        "best (2)",
        "https://models.example/a/best.safetensors",
        hub,
        "bundled model",
    ]
