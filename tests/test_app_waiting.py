"""Nobody waits in vain for the page, and it keeps nothing of those who have left: in Chromium, with
a model that answers at once.

Needs ``pip install 'fourm[app]' playwright`` and the system's Chromium; nothing is downloaded.
"""

import shutil
import time
from dataclasses import replace
from functools import wraps

import pytest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from fourm import AnyToAnyPipeline  # noqa: E402
from fourm.app import serving  # noqa: E402
from fourm.app.asked import watched  # noqa: E402
from fourm.app.desk import Desk  # noqa: E402
from fourm.resources import demo_model_folder  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
SOON = 60_000  # milliseconds; machines that run tests are busy
LINGERS = 3.0  # seconds between the last thing that is shown and the end of a generation


@pytest.fixture(scope="module")
def desks():
    return []


@pytest.fixture(scope="module")
def address(desks):
    """A page whose generations show all they have long before they end."""
    generate, init = Desk.generate, Desk.__post_init__

    @wraps(generate)
    def lingering(*asked):
        yield from generate(*asked)
        time.sleep(LINGERS)

    def listed(desk):
        init(desk)
        desks.append(desk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Desk, "generate", lingering)
        patch.setattr(Desk, "__post_init__", listed)
        pipe = AnyToAnyPipeline.from_pretrained(demo_model_folder())
        with serving.served(pipe, "127.0.0.1", None) as found:
            yield found


@pytest.fixture
def page(address, monkeypatch):
    steps = []

    def at_once(pipe, asked, number):
        if not steps:
            steps.extend(watched(pipe, asked, number))
        for made in (steps[0], steps[-1]):
            yield replace(made, number=number)

    monkeypatch.setattr("fourm.app.desk.watched", at_once)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = browser.new_page()
        found.set_default_timeout(SOON)
        found.goto(address)
        yield found
        browser.close()


def seen(page, number: int) -> None:
    """Wait until a finished result is shown."""
    page.wait_for_function(
        "n => { const e = document.querySelector('#now .made');"
        " return e && e.innerText.startsWith(`${n}.`) && !e.querySelector('.made-steps'); }",
        arg=number,
    )


def test_who_asks_again_as_soon_as_a_result_is_seen_is_answered_and_leaves_nothing(page, desks):
    """A click was lost where a generation had shown all it had and had not ended."""
    for number in (1, 2, 3):
        page.click("#go")
        seen(page, number)
    (desk,) = desks
    holder = desk.sessions.blocks.state_holder
    assert desk.shelf.num_bytes and holder.session_data
    page.goto("about:blank")
    deadline = time.monotonic() + 60
    while holder.session_data and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not holder.session_data and not desk.shelf.num_bytes
    assert not list(desk.shelf.root.rglob("*.zip"))


def test_after_a_failure_in_the_middle_of_a_generation_the_next_one_begins(page, monkeypatch):
    def broken(pipe, asked, number):
        yield next(watched(pipe, asked, number))
        raise OSError("/secret/place")

    with monkeypatch.context() as patch:
        patch.setattr("fourm.app.desk.watched", broken)
        page.click("#go")
        page.get_by_text("That went wrong here").wait_for()
    page.click("#go")
    seen(page, 1)


def test_a_download_that_is_gone_is_told(page, desks):
    page.click("#go")
    seen(page, 1)
    page.wait_for_selector("#download")
    with page.expect_download():
        page.click("#download")
    for session in list(desks[0].shelf._visits):
        desks[0].shelf.drop(session)
    page.click("#download")
    page.get_by_text("not kept any more").wait_for()
