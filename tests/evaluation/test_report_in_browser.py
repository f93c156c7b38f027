"""The report in headless Chromium, opened from disk as a reader would."""

import shutil
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.made_up_report import HOSTILE, made_up_scores, noise
from vitdeblur_jax.evaluation.report import add_image, write_report

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 96, 64
RED, BLUE = (220, 20, 20), (20, 20, 220)
IMAGES = [*HOSTILE, "plain"]
PHONE = {"width": 360, "height": 740}


def flat(colour: tuple[int, int, int], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Three methods: red, blue but without the last image, and a cropped one, all named ill."""
    folder = tmp_path_factory.mktemp("report #1 %41?")
    names = ("<b>red</b>", "blue & \"so' on", "constructor")
    figures = [dict.fromkeys(IMAGES, 20.0), dict.fromkeys(IMAGES[:-1], 30.0)]
    figures.append({image: None if i == 1 else 25.0 + i for i, image in enumerate(IMAGES)})
    scores = made_up_scores(IMAGES, dict(zip(names, figures, strict=True)))
    for image in range(len(IMAGES)):
        target = noise(image, HEIGHT, WIDTH)
        add_image(folder, image, 0, target, None)
        add_image(folder, image, 1, flat(RED), target)
        if image < len(IMAGES) - 1:
            add_image(folder, image, 2, flat(BLUE), target)
        add_image(folder, image, 3, noise(9, HEIGHT - 16, WIDTH - 24), target[:-16, :-24])
    scores["published"] = {names[0]: {"psnr": 19.5}, "<i>Unscored</i>": {"psnr": 40.0}}
    return write_report(folder, scores)


@pytest.fixture
def open_page(browser, report: Path) -> Iterator:
    """Opens the report; in the end, nothing may have been asked of a network or complained of."""
    contexts, asked, complaints = [], [], []

    def open_one(path: Path = report, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []


def seen_parts(page) -> list[tuple[float, ...]]:
    """Where each pane's frame begins, and how large it is, in widths and heights of the pane."""
    return page.locator(".layer").evaluate_all("""layers => layers.map(layer => {
        const [inner, outer] = [layer, layer.closest(".pane")].map(e => e.getBoundingClientRect());
        return [(inner.left - outer.left) / outer.width, (inner.top - outer.top) / outer.height,
                inner.width / outer.width, inner.height / outer.height];
    })""")


def assert_in_step(page) -> np.ndarray:
    parts = np.array(seen_parts(page))
    assert len(parts) == 6  # left, right and a tile for each of four
    np.testing.assert_allclose(parts, parts[:1].repeat(6, 0), atol=2e-3)
    return parts[0]


def colours_along(page, *places: float) -> list[tuple[int, ...]]:
    """Colours on a line across the stage, a quarter from its top."""
    with Image.open(BytesIO(page.locator("#stage").screenshot())) as shot:
        return [
            shot.convert("RGB").getpixel((int(place * shot.width), shot.height // 4))
            for place in places
        ]


def compare_red_and_blue(page) -> None:
    page.select_option("#left", "1")
    page.select_option("#right", "2")
    page.wait_for_function("[...document.images].every(image => image.complete)")


def test_slider_by_mouse(open_page):
    page = open_page()
    compare_red_and_blue(page)
    assert colours_along(page, 0.1, 0.45, 0.55, 0.9) == [RED, RED, BLUE, BLUE]
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, middle, steps=4)
    page.mouse.up()
    assert colours_along(page, 0.1, 0.3, 0.9) == [RED, BLUE, BLUE]
    page.mouse.click(box["x"] + box["width"] * 0.7, middle)
    assert colours_along(page, 0.1, 0.65, 0.75) == [RED, RED, BLUE]


def test_slider_by_keyboard(open_page):
    page = open_page()
    compare_red_and_blue(page)
    page.locator("#split").focus()
    page.keyboard.press("Home")
    assert colours_along(page, 0.1, 0.9) == [BLUE, BLUE]
    page.keyboard.press("End")
    assert colours_along(page, 0.1, 0.9) == [RED, RED]
    page.keyboard.press("ArrowLeft")
    assert page.locator("#split").input_value() == "99.5"


def test_slider_by_touch(open_page):
    page = open_page(has_touch=True, viewport=PHONE)
    compare_red_and_blue(page)
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert colours_along(page, 0.1, 0.35, 0.9) == [RED, BLUE, BLUE]


def test_zoom_and_pan_stay_in_step(open_page):
    page = open_page()
    assert assert_in_step(page).tolist() == [0, 0, 1, 1]
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelector('#viewer').matches('.zoomed')")
    left, top, width, height = assert_in_step(page)
    assert width == pytest.approx(np.e, rel=1e-3)
    assert height == pytest.approx(np.e, rel=1e-3)
    assert left + 0.75 * width == pytest.approx(0.75, abs=5e-3)  # stays under the mouse
    assert top + 0.5 * height == pytest.approx(0.5, abs=5e-3)
    tile = page.locator("#tiles .pane").nth(2)
    tile.scroll_into_view_if_needed()
    place = tile.bounding_box()
    page.mouse.move(place["x"] + 60, place["y"] + 40)
    page.mouse.down()
    page.mouse.move(place["x"] + 80, place["y"] + 50, steps=3)
    page.mouse.up()
    moved = assert_in_step(page)
    assert moved[0] - left == pytest.approx(20 / place["width"], abs=5e-3)
    assert moved[1] - top == pytest.approx(10 / place["height"], abs=5e-3)
    sources = page.locator("#tiles img").evaluate_all("all => all.map(one => one.src)")
    assert all(source.endswith(".png") for source in sources)


def test_zoom_and_pan_by_keyboard(open_page):
    page = open_page()
    page.locator("#stage").focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    left, _, width, _ = assert_in_step(page)
    assert width == pytest.approx(2.25)
    page.keyboard.press("ArrowRight")
    assert assert_in_step(page)[0] == pytest.approx(left - 0.1, abs=2e-3)
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert assert_in_step(page)[0] == pytest.approx(1 - 2.25, abs=2e-3)  # the edge
    page.keyboard.press("-")
    assert assert_in_step(page)[2] == pytest.approx(1.5)
    page.keyboard.press("0")
    assert assert_in_step(page).tolist() == [0, 0, 1, 1]


def test_zoom_by_pinching(open_page):
    page = open_page(has_touch=True, viewport=PHONE)
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 4
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *places: float) -> None:
        points = [
            {"x": box["x"] + place * box["width"], "y": middle, "id": i}
            for i, place in enumerate(places)
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.4, 0.6)
    for spread in (0.12, 0.15, 0.2):
        touch("touchMove", 0.5 - spread, 0.5 + spread)
    touch("touchEnd")
    left, _, width, _ = assert_in_step(page)
    assert width == pytest.approx(2, rel=0.02)
    assert left == pytest.approx(-0.5, abs=0.02)


def names_in(page, table: str) -> list[str]:
    return page.locator(f"{table} tbody th").all_text_contents()


def test_sorting(open_page):
    page = open_page()
    red, blue, third, unscored = names_in(page, "#results")
    heads = page.locator("#results thead th")
    assert heads.evaluate_all("all => all.map(one => one.ariaSort)") == [None] * 3
    heads.nth(1).locator("button").click()
    # The infinite mean is the best PSNR; what was not scored comes last.
    assert names_in(page, "#results") == [third, blue, red, unscored]
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    heads.nth(1).locator("button").focus()
    page.keyboard.press("Enter")
    assert names_in(page, "#results") == [red, blue, third, unscored]
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    heads.nth(2).locator("button").click()
    assert heads.nth(1).get_attribute("aria-sort") is None
    assert names_in(page, "#results") == [third, blue, red, unscored]  # lower is better
    heads.nth(0).locator("button").click()
    assert names_in(page, "#results") == [red, unscored, blue, third]  # signs before letters
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"


def test_best_second_partial_and_published(open_page):
    page = open_page()
    cells = page.locator("#results tbody tr").evaluate_all(
        "rows => rows.map(row => row.cells[1].innerHTML)"
    )
    interval = "<small>19.00 to 21.00</small>"
    assert cells[0] == f"<em>20.00</em>{interval}<small>published 19.500 (+0.500)</small>"
    assert cells[1] == "30.00*<small>29.00 to 31.00</small>"  # partial: it does not compete
    assert cells[2] == "<strong>∞</strong>"
    assert cells[3] == "–<small>published 40.000</small>"


def test_hostile_names_are_shown_as_they_are(open_page):
    page = open_page()
    assert names_in(page, "#results") == [
        *("<b>red</b>", "blue & \"so' on", "constructor", "<i>Unscored</i>")
    ]
    shown = page.locator("#image option").all_text_contents()
    assert shown == [f"{i}: {name}" for i, name in enumerate(IMAGES, 1)]
    assert page.evaluate("typeof stolen") == "undefined"
    assert page.locator("#strip button").evaluate_all("all => all.map(one => one.title)") == IMAGES
    assert page.locator("script").count() == 2


def test_the_policy_stops_requests_and_foreign_scripts(browser, report: Path):
    page = browser.new_page()
    page.goto(report.as_uri())
    stopped = page.evaluate("""async () => {
        const stopped = [];
        document.addEventListener("securitypolicyviolation",
            event => stopped.push(event.effectiveDirective));
        fetch("https://example.org/").catch(() => {});
        document.body.append(Object.assign(new Image(), {src: "https://example.org/a.png"}));
        const script = document.createElement("script");
        script.textContent = "stolen = 1";
        document.body.append(script);
        await new Promise(resolve => setTimeout(resolve, 200));
        return [...stopped.sort(), typeof stolen];
    }""")
    assert stopped == ["connect-src", "img-src", "script-src-elem", "undefined"]
    page.close()


def test_figures_and_images_follow_the_image(open_page):
    page = open_page()
    page.locator("#next").click()
    assert page.locator("#image").input_value() == "1"
    figures = page.locator("#figures tbody td:nth-child(2)").all_text_contents()
    assert figures == ["20.00", "30.00", "∞"]
    assert page.locator("#stage .left img").get_attribute("src") == "images/1-1.png"
    page.select_option("#image", str(len(IMAGES) - 1))
    assert page.locator("#figures tbody td:nth-child(2)").all_text_contents()[1] == "–"
    assert page.locator("#tiles figure").nth(2).locator("img").count() == 0
    assert "no image" in page.locator("#tiles figure").nth(2).inner_text()


def test_the_plot_leads_to_an_image(open_page):
    page = open_page()
    columns = page.locator("#plot .column")
    assert columns.count() == len(IMAGES)
    columns.nth(3).hover()
    assert page.locator("#legend output").all_text_contents() == ["20.00", "30.00", "28.00"]
    columns.nth(3).click()
    assert page.locator("#image").input_value() == "3"
    columns.nth(3).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#image").input_value() == "4"
    assert page.locator("#plot [tabindex='0']").count() == 1
    markers = "document.querySelectorAll('#plot path').length"
    assert page.evaluate(markers) == 6
    page.locator("#legend input").first.uncheck()
    assert page.evaluate(markers) == 4
    page.select_option("#metric", "mae")
    assert page.locator("#plot svg").get_attribute("aria-label") == "MAE over images"


def test_error_maps(open_page):
    page = open_page()
    page.locator("#errors").check()
    sources = page.locator("#viewer .pane img").evaluate_all("all => all.map(one => one.src)")
    assert len(sources) == 5  # of the sharp one there is none
    assert all(source.endswith("-error.jpg") for source in sources)


def test_cropped_images_stay_in_place(open_page):
    page = open_page()
    tile = page.locator("#tiles .pane").nth(3)
    frame, shown = tile.bounding_box(), tile.locator("img").bounding_box()
    assert (shown["x"], shown["y"]) == (frame["x"], frame["y"])
    assert shown["width"] / frame["width"] == pytest.approx((WIDTH - 24) / WIDTH, abs=0.01)
    assert shown["height"] / frame["height"] == pytest.approx((HEIGHT - 16) / HEIGHT, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_in_both_themes(open_page, theme: str):
    page = open_page(viewport=PHONE, color_scheme=theme, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    paper, ink = page.evaluate("""() => {
        const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color].map(text => Number(text.match(/\\d+/)[0]));
    }""")
    assert (paper > 200 and ink < 60) if theme == "light" else (paper < 60 and ink > 200)


def test_everything_is_reached_by_the_tab_key_and_seen(open_page):
    page = open_page()
    reached = []
    while True:
        page.keyboard.press("Tab")
        focused = page.evaluate("""() => {
            const [one, style] = [document.activeElement, getComputedStyle(document.activeElement)];
            const sign = one.id === "split"
                ? getComputedStyle(document.querySelector("#divider"), "::after") : style;
            return one === document.body ? null : [one.closest("[id]")?.id, sign.outlineStyle];
        }""")
        if focused is None:
            break
        reached.append(focused)
    missing = {"results", "metric", "plot", "legend", "strip", "image", "left", "right", "errors"}
    missing |= {"zoom-in", "fit", "stage", "split", "tiles", "figures"}
    assert missing - {name for name, _ in reached} == set()
    assert {outline for _, outline in reached} <= {"solid", "auto"}


def test_76_images_by_11_methods(open_page, tmp_path: Path, capsys):
    images = [f"1P0A{number}" for number in range(76)]
    methods = {f"method {number}": dict.fromkeys(images, 20.0 + number) for number in range(11)}
    pixels = noise(0, HEIGHT, WIDTH)
    add_image(tmp_path, 0, 0, pixels, pixels)
    for written in list((tmp_path / "images").iterdir()):
        for image in range(76):
            for method in range(12):
                name = written.name.replace("0-0", f"{image}-{method}")
                if name != written.name:
                    shutil.copy(written, written.with_name(name))
    path = write_report(tmp_path, made_up_scores(images, methods))
    page = open_page()  # the browser's own start is not counted
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    start = time.perf_counter()
    page.goto(path.as_uri())
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\n76 x 11: loaded in {seconds:.2f} s with {len(asked)} requests")
    assert len(asked) < 76 + 2 * 12
