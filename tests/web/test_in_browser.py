"""The page in headless Chromium, served by the command, from the upload to the download."""

import io
import os
import re
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="the page needs the extra web: pip install '.[web]'")

from tests.cli.restored import PHOTO
from tests.forked import start_program
from tests.waiting import wait_until
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.web.app import EXAMPLES
from vitdeblur_jax.web.jobs import LIMITS

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}
# Takes the small model some seconds.
LARGE = np.tile(PHOTO, (20, 20, 1))


@pytest.fixture(scope="module")
def address(checkpoint, tmp_path_factory) -> Iterator[str]:
    """The address that `vitdeblur web` prints; nothing of it is left in the end."""
    folder = tmp_path_factory.mktemp("server")
    out, temporary = folder / "out", folder / "tmp"
    temporary.mkdir()
    arguments = ["-m", "vitdeblur_jax", "web", "--port", "0", "--checkpoint", checkpoint]
    server = start_program(arguments, folder, out, folder / "err", TMPDIR=str(temporary))
    try:
        wait_until(lambda: out.exists() and out.read_text().endswith("\n"), 60)
        yield re.search(r"http://127\.0\.0\.1:\d+/\S+/", out.read_text())[0]
        os.kill(server.pid, signal.SIGINT)
        server.join(30)
        assert server.exitcode == 130
        assert (folder / "err").read_text().splitlines()[-1] == "interrupted"
        assert list(temporary.iterdir()) == []
    finally:
        server.kill()
        server.join()


@pytest.fixture
def open_page(browser, address) -> Iterator:
    """Opens the page without images; nothing may be asked of others, or complained of."""
    contexts, asked, complaints = [], [], []

    def open_one(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.locator("#example-buttons button").first.wait_for()
        return page

    yield open_one
    page = open_one()
    remove_all(page)
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(address)] == []
    # An image may be removed while the page loads its previews.
    assert [line for line in complaints if "404 (Not Found)" not in line] == []


def remove_all(page) -> None:
    while (buttons := page.locator("#jobs .remove")).count():
        count = buttons.count()
        buttons.first.click()
        wait_until(lambda count=count: page.locator("#jobs .remove").count() < count)


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def drop(page, *files: tuple[str, bytes]) -> None:
    """Drops files on the page as a file manager does."""
    data = page.evaluate_handle(
        """files => {
            const data = new DataTransfer();
            const made = files.map(([name, bytes]) => new File([new Uint8Array(bytes)], name));
            made.forEach(file => data.items.add(file));
            return data;
        }""",
        [(name, list(content)) for name, content in files],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})


def wait_for_restored(page, count: int = 1) -> None:
    wait_until(lambda: page.locator("#jobs .done").count() == count, 60)
    wait_until(lambda: page.evaluate("document.querySelector('#after').naturalWidth") > 0)


def downloaded(page, selector: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.locator(selector).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def colour(pixels: np.ndarray, left: float, right: float) -> np.ndarray:
    """Mean color between two places of an image's width, above its middle."""
    height, width = pixels.shape[:2]
    return pixels[height // 10 : height // 3, int(left * width) : int(right * width)].mean((0, 1))


def stage(page) -> np.ndarray:
    with Image.open(io.BytesIO(page.locator("#stage").screenshot())) as shot:
        return np.asarray(shot.convert("RGB"), float)


def set_range(page, selector: str, key: str, times: int = 1) -> None:
    page.locator(selector).focus()
    for _ in range(times):
        page.keyboard.press(key)


def test_drop_wait_slide_download(open_page, checkpoint, tmp_path, monkeypatch):
    page = open_page()
    content = encoded(PHOTO, "tiff")
    drop(page, ("my photo.tif", content))
    wait_for_restored(page)
    set_range(page, "#strength", "Home")
    set_range(page, "#strength", "ArrowRight", 30)
    assert page.locator("#strength-value").inner_text() == "30 %"
    name, restored = downloaded(page, "#download")
    assert name == "my photo_restored.tif"
    (tmp_path / "my photo.tif").write_bytes(content)
    arguments = ["--checkpoint", checkpoint, "--strength", "0.3", "--change", "change.png"]
    monkeypatch.chdir(tmp_path)
    assert main([str(tmp_path / "my photo.tif"), *arguments]) == 0
    assert restored == (tmp_path / name).read_bytes()
    page.get_by_text("Change", exact=True).click()
    name, change = downloaded(page, "#download-change")
    assert name == "my photo_change.png"
    assert change == (tmp_path / "change.png").read_bytes()


def test_the_stage_shows_before_restored_and_strength(open_page):
    page = open_page()
    left, right = (0.1, 0.4), (0.6, 0.9)
    drop(page, ("flat.png", encoded(np.full((200, 300, 3), 128, np.uint8))))
    wait_for_restored(page)
    answer = page.request.get(page.url + page.locator("#after").get_attribute("src"))
    restored = colour(np.asarray(Image.open(io.BytesIO(answer.body())), float), *right)
    assert abs(restored - 128).max() > 5
    np.testing.assert_allclose(colour(stage(page), *left), 128, atol=1)
    np.testing.assert_allclose(colour(stage(page), *right), restored, atol=2)
    set_range(page, "#strength", "Home")
    set_range(page, "#strength", "ArrowRight", 40)
    half = 0.4 * restored + 0.6 * 128
    np.testing.assert_allclose(colour(stage(page), *right), half, atol=2)
    set_range(page, "#split", "End")
    np.testing.assert_allclose(colour(stage(page), *right), 128, atol=1)
    set_range(page, "#split", "Home")
    np.testing.assert_allclose(colour(stage(page), *right), half, atol=2)


def test_zoom_shows_pixels_as_they_are(open_page):
    page = open_page(viewport=PHONE)
    drop(page, ("photo.png", encoded(np.tile(PHOTO, (10, 12, 1)))))
    wait_for_restored(page)
    width = "document.querySelector('#before').getBoundingClientRect().width"
    assert page.evaluate(width) < PHONE["width"]
    page.get_by_role("button", name="100 %").click()
    assert page.evaluate(width) == 600
    scrolled = "document.querySelector('#scroller').scrollLeft"
    before = page.evaluate(scrolled)
    set_range(page, "#scroller", "ArrowRight", 3)
    wait_until(lambda: page.evaluate(scrolled) > before)


def test_an_example_a_queue_and_a_zip(open_page):
    page = open_page()
    name = next(iter(EXAMPLES))
    page.get_by_role("button", name=name.partition(".")[0]).click()
    others = [f"{number}.png" for number in range(LIMITS.waiting + 3)]
    drop(page, *((other, encoded(PHOTO)) for other in others))
    page.locator("#held").filter(has_text="more wait in this tab").wait_for()
    wait_for_restored(page, 1 + len(others))
    assert not page.locator("#held").is_visible()
    zip_name, content = downloaded(page, "#zip")
    assert zip_name == "restored.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.namelist()) == 1 + len(others)


def test_a_hostile_upload(open_page):
    page = open_page()
    name = "<img src=x onerror=alert(1)>.png"
    drop(page, (name, b"not an image"))
    page.locator("#jobs .failed").wait_for()
    assert page.locator("#failure").inner_text().startswith(f"{name}: not an image, or cut short")
    assert page.locator("#jobs .name").inner_text() == name
    assert page.locator("#viewer img[src=x]").count() == 0


def test_refusals_in_plain_text_are_shown(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    example = page.locator("#example-buttons button").first
    example.wait_for()
    page.route("**/jobs?*", lambda route: route.fulfill(status=503, body="Service Unavailable"))
    drop(page, ("a.png", encoded(PHOTO)))
    page.locator("#errors").get_by_text("a.png: Service Unavailable").wait_for()
    page.route("**/examples/*", lambda route: route.abort())
    example.click()
    page.locator("#errors").get_by_text("cannot be loaded; the server may have ended").wait_for()
    context.close()


def test_cancel(open_page):
    page = open_page()
    large = np.tile(LARGE, (2, 2, 1))
    drop(page, ("large.jpg", encoded(large, "jpeg")), ("next.png", encoded(PHOTO)))
    page.get_by_role("button", name="Cancel large.jpg").click()
    wait_for_restored(page)
    assert page.locator("#jobs .name").all_inner_texts() == ["next.png"]
    assert page.locator("#title").inner_text() == "next.png"


def test_two_tabs_show_the_same_images(open_page):
    first, second = open_page(), open_page()
    drop(first, ("a.png", encoded(PHOTO)))
    drop(second, ("b.png", encoded(PHOTO)))
    for page in (first, second):
        wait_for_restored(page, 2)
        assert sorted(page.locator("#jobs .name").all_inner_texts()) == ["a.png", "b.png"]
    remove_all(first)
    second.locator("body.empty").wait_for()


def test_closing_the_browser_loses_nothing(open_page):
    page = open_page()
    drop(page, ("large.jpg", encoded(LARGE, "jpeg")), ("next.png", encoded(PHOTO)))
    page.locator("#jobs .running").wait_for()
    wait_until(lambda: page.locator("#jobs li").count() == 2)
    page.context.close()
    time.sleep(0.5)
    wait_for_restored(open_page(), 2)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 900}])
def test_themes_and_widths(open_page, theme, viewport):
    page = open_page(color_scheme=theme, viewport=viewport)
    drop(page, ("a_name_without_a_space" * 6 + ".png", encoded(PHOTO)))
    wait_for_restored(page)
    paper, ink = page.evaluate("""() => {
        const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color].map(text => Number(text.match(/\\d+/)[0]));
    }""")
    assert (paper > 200 and ink < 60) if theme == "light" else (paper < 60 and ink > 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_everything_has_a_name_and_is_reached_by_the_tab_key(open_page):
    page = open_page()
    drop(page, ("a.png", encoded(PHOTO)), ("b.png", encoded(PHOTO)))
    wait_for_restored(page, 2)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    expected = {"model", "zoom", "scroller", "split", "strength", "download", "zip", "files"}
    assert expected <= reached
    assert {"open", "remove"} <= reached
    for role, name in (
        ("slider", "Divider between before, on the left, and restored"),
        ("slider", "Strength"),
        ("combobox", "Model"),
        ("radio", "Change"),
        ("button", "Remove a.png"),
        ("link", "Download all"),
        ("img", "a.png, restored"),
    ):
        assert page.get_by_role(role, name=name).count() == 1, name
