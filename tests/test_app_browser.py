"""The page driven in Chromium as a visitor does: upload, paint, draw, type, generate, download.

Needs ``pip install 'fourm[app]' playwright`` and the system's Chromium; nothing is downloaded.
"""

import re
import shutil
import urllib.error
import urllib.request
import zipfile
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from fourm import AnyToAnyPipeline  # noqa: E402
from fourm.app.limits import Limits  # noqa: E402
from fourm.app.serving import served  # noqa: E402
from fourm.modalities import ModalitySet  # noqa: E402
from fourm.resources import configs_folder, demo_model_folder  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
SOON = 60_000  # milliseconds; machines that run tests are busy


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address():
    limits = Limits(upload_bytes=300_000)
    with served(AnyToAnyPipeline.from_pretrained(demo_model_folder()), "127.0.0.1", None,
                limits=limits) as found:  # fmt: skip
        yield found


@pytest.fixture
def visit(browser):
    """Opens a page in a browser of its own; in the end nothing has failed and nothing was asked
    of other machines.
    """
    contexts, wrong = [], []

    def opened(where: str, **settings):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SOON)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: None if is_ours(r.url, where) else wrong.append(r.url))
        page.goto(where)
        page.wait_for_selector("#go")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def is_ours(url: str, where: str) -> bool:
    return url.startswith((where, "data:", "blob:"))


def tick(page, group: str, *names: str) -> None:
    """Exactly these are ticked."""
    boxes = page.locator(f"#{group} label")
    for i in range(boxes.count()):
        name = boxes.nth(i).inner_text().strip()
        boxes.nth(i).locator("input").set_checked(name in names)
    if group == "give":
        for name in names:
            page.wait_for_selector(f"#panel-{name}")


def generate(page, number: int = 1) -> str:
    """Press the button; gives what the newest result says when it is finished."""
    page.click("#go")
    finished(page, number)
    return page.inner_text("#now")


def finished(page, number: int = 1) -> None:
    """Wait until a result is there. Its tools may be seen before it: the browser fetches their
    code when they are first shown, and what comes with them waits for that.
    """
    page.wait_for_selector("#tools")
    page.wait_for_function(
        "n => { const e = document.querySelector('#now .made');"
        " return e && e.innerText.startsWith(`${n}.`) && !e.querySelector('.made-steps'); }",
        arg=number,
    )


def sentence(page) -> str:
    """What the page tells a visitor who made a mistake."""
    toast = page.locator(".toast-body").first
    toast.wait_for()
    return toast.inner_text()


def surface(page, name: str):
    found = page.locator(f"#pad-{name} .pad-surface")
    found.wait_for()
    found.scroll_into_view_if_needed()
    return found, found.bounding_box()


def drag(page, name: str, *points: tuple[float, float]) -> None:
    _, box = surface(page, name)
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def picture(path, size=(120, 90)):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def test_a_caption_becomes_pictures_step_by_step_and_a_zip(visit, address, tmp_path):
    page = visit(address)
    page.fill("#given-caption textarea", "a large red cube left of a small blue sphere")
    tick(page, "make", "depth", "rgb", "caption")
    tick(page, "make", "depth", "rgb")
    page.locator("#num input[type=number]").fill("2")
    page.locator("#num input[type=number]").press("Tab")
    page.click("#go")
    page.wait_for_selector("#now .made-steps")  # steps are watched
    finished(page)
    assert page.locator("#now .made-sample").count() == 2
    assert page.locator("#now figure").count() == 4  # no empty panels
    saved = page.locator("#now figure a").first.get_attribute("download")
    assert re.fullmatch(r"(depth|rgb)-seed0\.png", saved)
    page.locator("#doubt input").check()
    page.wait_for_selector("#now .made-doubt")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "fourm-results.zip"
    download.value.save_as(tmp_path / "all.zip")
    names = zipfile.ZipFile(tmp_path / "all.zip").namelist()
    assert "001/values/depth-seed1.npy" in names and "001/values/rgb-seed0.png" in names
    page.click("#forget")
    page.wait_for_selector("#now .welcome")
    assert not page.locator("#tools").is_visible()


def test_a_part_of_an_upload_is_painted_out_and_made_anew(visit, address, tmp_path):
    page = visit(address)
    tick(page, "give", "rgb")
    tick(page, "make", "rgb", "semseg")
    assert not page.locator("#pad-rgb").is_visible()  # nothing to paint on yet
    page.set_input_files("#upload-rgb input[type=file]", picture(tmp_path / "own.png"))
    page.wait_for_selector("#pad-rgb .pad-surface img[src^=data]")
    drag(page, "rgb", (0.2, 0.2), (0.8, 0.8))
    assert "part of rgb → rgb, semseg" in generate(page)
    assert page.locator("#now .legend").inner_text().startswith("semseg:")
    page.locator("#pad-rgb").get_by_role("button", name="clear").click()
    page.click("#go")
    assert "rgb is given whole and to be made" in sentence(page)


def test_boxes_are_drawn_over_the_picture_and_written_as_rows(visit, address, tmp_path):
    page = visit(address)
    tick(page, "give", "rgb", "boxes")
    page.set_input_files("#upload-rgb input[type=file]", picture(tmp_path / "own.png"))
    page.wait_for_selector("#pad-rgb .pad-surface img[src^=data]")
    page.fill("#label-boxes textarea, #label-boxes input", "red cube")
    before = page.locator("#pad-boxes img").get_attribute("src")
    drag(page, "boxes", (0.25, 0.25), (0.5, 0.75))
    rows = page.locator("#given-boxes textarea")
    playwright.expect(rows).to_have_value(re.compile(r"^red cube 0\.2\d 0\.2\d 0\.\d\d 0\.7\d$"))
    playwright.expect(page.locator("#pad-boxes img")).not_to_have_attribute("src", before)
    tick(page, "give", "boxes")
    assert "red cube" in generate(page)
    rows.fill("cone 0 0 1")
    page.click("#go")
    assert "line 1 of boxes is no label with four numbers" in sentence(page)


def test_class_maps_are_painted_with_a_palette_by_mouse_and_by_keyboard(visit, address):
    page = visit(address)
    tick(page, "give", "semseg")
    pad = page.locator("#pad-semseg")
    pad.get_by_role("button", name="floor").click()
    pad.get_by_role("button", name="fill what is bare").click()
    pad.get_by_role("button", name="cube").click()
    found, _ = surface(page, "semseg")
    found.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    count = "c => { const d = c.getContext('2d').getImageData(0, 0, 64, 64).data;"
    count += (
        " return new Set(Array.from({length: 4096}, (_, i) => d.slice(4*i, 4*i+3).join())).size; }"
    )
    assert page.locator("#pad-semseg canvas").evaluate(count) == 2
    assert "semseg → rgb" in generate(page)


def test_wrong_and_huge_files_are_told_in_a_sentence(visit, address, tmp_path):
    page = visit(address)
    tick(page, "give", "depth")
    (tmp_path / "no.png").write_text("this is no picture")
    page.set_input_files("#upload-depth input[type=file]", tmp_path / "no.png")
    told = sentence(page)
    assert "no.png: no readable picture" in told and "/" not in told
    page.locator(".toast-close").first.click()
    picture(tmp_path / "huge.png", (600, 600))
    page.locator("#upload-depth").get_by_label("Clear").or_(
        page.locator("#upload-depth button[aria-label]")
    ).first.click()
    page.set_input_files("#upload-depth input[type=file]", tmp_path / "huge.png")
    assert re.search("exceed|large|size", sentence(page), re.I)


def test_slips_in_settings_are_told_and_the_page_goes_on(visit, address):
    page = visit(address)
    tick(page, "give")
    page.click("#settings button")
    page.fill("#seed input, #seed textarea", "")
    page.click("#go")
    assert "the seed is a whole number" in sentence(page)
    page.fill("#seed input, #seed textarea", "5")
    assert page.input_value("#follow input, #follow textarea") == ""  # empty, not 0
    page.fill("#follow input, #follow textarea", "0")
    assert "follow 0, quality default, seed 5" in generate(page)
    page.fill("#unwanted textarea", "a small <b>blue</b> sphere")
    assert "not a small <b>blue</b> sphere, follow 0" in generate(page, 2)


def test_two_visitors_at_once_have_results_of_their_own(visit, address):
    pages = [visit(address), visit(address)]
    for page, color in zip(pages, ("red", "blue"), strict=True):
        page.fill("#given-caption textarea", f"a large {color} cube")
    for page in pages:
        page.click("#go")
    for page, color in zip(pages, ("red", "blue"), strict=True):
        page.wait_for_selector("#tools")
        assert f"a large {color} cube" in page.inner_text("#now")
        assert page.locator("#past .made").count() == 0
    assert "2." in generate(pages[0], 2) and pages[0].locator("#past .made").count() == 1


def test_an_example_is_filled_in_and_a_result_is_given_again(visit, address):
    page = visit(address)
    page.click("#example")
    playwright.expect(page.locator("#given-caption textarea")).not_to_have_value("")
    generate(page)
    page.click("#take")
    page.wait_for_selector("#pad-rgb .pad-surface img[src^=data]")
    tick(page, "give", "rgb")
    tick(page, "make", "caption")
    assert "rgb → caption" in generate(page, 2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(visit, address, scheme):
    page = visit(address, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True,
                 color_scheme=scheme)  # fmt: skip
    tick(page, "give", "caption", "rgb", "semseg", "boxes")
    tick(page, "give", "caption")
    page.fill("#given-caption textarea", "a small green cone")
    page.locator("#go").tap()
    page.wait_for_selector("#tools")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_generation_is_stopped(visit, address):
    page = visit(address)
    tick(page, "make", "rgb", "depth", "normal", "semseg", "caption", "boxes")
    tick(page, "give")
    page.locator("#num input[type=number]").fill("8")
    page.locator("#num input[type=number]").press("Tab")
    page.click("#settings button")
    page.locator("#quality label", has_text="thorough").click()  # long enough to be stopped
    page.click("#go")
    # at once: a click waits until the page stands still, and by then all may have been made
    page.locator("#stop").dispatch_event("click")
    playwright.expect(page.locator("#stop")).not_to_be_visible()
    playwright.expect(page.locator("#go")).to_be_enabled()
    assert not page.locator("#tools").is_visible()  # nothing was kept


def test_gaps_of_a_caption_are_filled(visit, address):
    page = visit(address)
    page.fill("#given-caption textarea", "a large [S_1] cube left of a small blue sphere")
    tick(page, "make", "caption")
    generate(page)
    filled = page.inner_text("#now .made-text")
    assert re.fullmatch(r"a large .+ cube left of a small blue sphere", filled)
    assert "[S_" not in filled


def test_keys_alone_generate(visit, address):
    page = visit(address)
    page.locator("#given-caption textarea").focus()
    page.keyboard.type("a large red cube")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector("#tools")
    assert "a large red cube" in page.inner_text("#now")


def test_a_place_of_the_map_is_clicked(visit):
    earth = ModalitySet.load(configs_folder() / "modalities" / "earth.yaml")
    with served(SimpleNamespace(modalities=earth, options={}), "127.0.0.1", None) as address:  # type: ignore[arg-type]
        page = visit(address)
        tick(page, "give", "coordinates", "direction")
        found, box = surface(page, "coordinates")
        found.click(position={"x": box["width"] / 2, "y": box["height"] / 4})
        typed = page.locator("#given-coordinates textarea, #given-coordinates input")
        playwright.expect(typed).to_have_value(re.compile(r"^4[45]\.\d -?0\.\d$"))
        found, _ = surface(page, "direction")
        found.focus()
        page.keyboard.press("Enter")  # the middle: longitude 0 on the equator
        typed = page.locator("#given-direction textarea, #given-direction input")
        playwright.expect(typed).to_have_value("1.0000 0.0000 0.0000")


def test_no_file_of_the_server_is_reached_and_other_hosts_are_refused(address):
    for path in ("gradio_api/file=/etc/passwd", "gradio_api/file=README.md", "monitoring",
                 "gradio_api/file=http://127.0.0.1/", "gradio_api/proxy=http://x/"):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address + path)
        assert refused.value.code in (403, 404)
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
