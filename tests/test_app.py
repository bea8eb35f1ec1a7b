"""What visitors of the page are given, and what stands before it: without a browser (in one:
``test_app_browser.py``). Needs ``pip install 'fourm[app]'``.
"""

import asyncio
import io
import json
import zipfile

import numpy as np
import PIL.Image
import pytest

gr = pytest.importorskip("gradio")

from fourm import AnyToAnyPipeline  # noqa: E402
from fourm.app.asked import Request, watched  # noqa: E402
from fourm.app.guard import Guard, Rate  # noqa: E402
from fourm.app.limits import Limits  # noqa: E402
from fourm.app.results import Made, write_zip  # noqa: E402
from fourm.app.serving import check_address  # noqa: E402
from fourm.app.sessions import Sessions  # noqa: E402
from fourm.app.shelf import Shelf  # noqa: E402
from fourm.app.telling import told  # noqa: E402
from fourm.app.wishes import OWN, Wishes, options_of, seed_of  # noqa: E402
from fourm.errors import UserError  # noqa: E402
from fourm.pipeline.generated import Generated  # noqa: E402
from fourm.resources import demo_model_folder  # noqa: E402


@pytest.fixture(scope="module")
def pipe():
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


# ---- settings


def test_an_empty_box_is_the_models_own_and_zero_is_zero(pipe):
    assert options_of(pipe, ["caption"], ["rgb"], Wishes.of("", OWN, "default")) == {}
    assert options_of(pipe, ["caption"], ["rgb"], Wishes.of(None, OWN, "default")) == {}
    none = options_of(pipe, ["caption"], ["rgb"], Wishes.of("0", OWN, "default"))
    assert none["rgb"].guidance_scale == 0.0 and none["rgb"].steps == pipe.options["rgb"].steps
    assert (
        options_of(pipe, [], ["rgb"], Wishes.of("2,5", OWN, "default"))["rgb"].guidance_scale == 2.5
    )


def test_quality_changes_steps_but_not_of_what_is_determined(pipe):
    own = pipe.options["rgb"]
    more = options_of(pipe, ["caption"], ["rgb", "depth"], Wishes.of("", OWN, "thorough"))
    assert more["rgb"].steps == 2 * own.steps and more["rgb"].sweeps == own.sweeps + 1
    assert "depth" not in more  # given rgb: one pass
    fast = options_of(pipe, ["caption"], ["rgb", "caption"], Wishes.of("", OWN, "fast"))
    assert fast["rgb"].steps == own.steps // 2 and "caption" not in fast


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Wishes.of("much", OWN, "default"), "number from -20 to 20"),
        (lambda: Wishes.of("nan", OWN, "default"), "number from -20 to 20"),
        (lambda: Wishes.of("1e9", OWN, "default"), "number from -20 to 20"),
        (lambda: Wishes.of("", "wild", "default"), "variety is one of"),
        (lambda: Wishes.of("", OWN, "perfect"), "quality is one of"),
        (lambda: seed_of(""), "the seed is a whole number"),
        (lambda: seed_of("1.5"), "the seed is a whole number"),
        (lambda: seed_of("9" * 30), "the seed is a whole number"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


# ---- generations


def asked(given=None, targets=("rgb",), num=1) -> Request:
    return Request(given or {}, targets, num, 3, Wishes())


def test_each_step_is_shown_and_the_last_is_what_the_pipeline_makes(pipe):
    caption = {"caption": "a large red cube"}
    steps = list(watched(pipe, asked(caption), 1))
    assert len(steps) > 4 and steps[-1].step is None
    assert "step 1 of" in steps[0].html(pipe.modalities, True, False)
    wanted = pipe(caption, ["rgb"], seed=3)["rgb"].values[0]
    assert np.array_equal(steps[-1].results["rgb"].values[0], wanted)


@pytest.mark.parametrize(
    "request_, message",
    [
        (asked(num=10**9), "from 1 to 8, not 1000000000"),
        (asked(num=0), "from 1 to 8"),
        (asked(num=2.5), "whole number"),
        (asked(targets=()), "choose at least one under Make"),
        (asked(targets=["rgb"] * 10**6), "more is to be made"),
        (asked({"rgb": np.zeros((64, 64, 3), np.uint8)}), "rgb is given whole and to be made"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_model_is_asked(pipe, request_, message):
    with pytest.raises(UserError, match=message):
        request_.check(pipe)


def test_what_is_not_wanted_is_what_the_pipeline_is_told(pipe):
    caption, unwanted = {"caption": "a large cube"}, {"caption": "a red cube"}
    request = Request(caption, ["rgb"], 2, 3, Wishes(follow=3.0), unwanted)
    request.check(pipe)
    made = list(watched(pipe, request, 1))[-1]
    settings = {"guidance_scale": 3.0, "negative": unwanted}
    wanted = pipe(caption, ["rgb"], seed=3, num_samples=2, **settings)
    assert all(map(np.array_equal, made.results["rgb"].values, wanted["rgb"].values))
    plain = list(watched(pipe, Request(caption, ["rgb"], 2, 3, Wishes(follow=3.0)), 1))[-1]
    assert not np.array_equal(made.results["rgb"].values, plain.results["rgb"].values)
    assert "not a red cube, follow 3" in made.html(pipe.modalities, True, False)
    with pytest.raises(UserError, match="said by caption, which is to be made"):
        Request({}, ["caption"], 1, 3, Wishes(), unwanted).check(pipe)


def test_too_many_tokens_are_refused_and_cost_nothing(pipe):
    many = " ".join(["cube"] * 700)
    with pytest.raises(UserError, match="longer than the .* tokens"):
        list(watched(pipe, asked({"caption": many}), 1))


def test_gaps_that_are_not_to_be_filled_are_remarked(pipe):
    assert "choose it under Make" in next(asked({"caption": "a [S_1] cube"}).remarks())
    assert not list(asked({"caption": "a [S_1] cube"}, ("caption",)).remarks())


def test_results_are_downloaded_as_values_that_can_be_given_again(pipe, tmp_path):
    *_, made = watched(pipe, asked(targets=("semseg", "depth", "boxes"), num=2), 7)
    with zipfile.ZipFile(write_zip([made], tmp_path / "all.zip")) as archive:
        names = set(archive.namelist())
        for name, extension in (("semseg", "png"), ("depth", "npy"), ("boxes", "json")):
            raw = pipe.modalities[name].raw
            for i, seed in enumerate((3, 4)):
                data = archive.read(f"007/values/{name}-seed{seed}.{extension}")
                again, value = raw.read(data, extension), made.results[name].values[i]
                near = 0.01 if name == "depth" else 0  # files hold half precision
                assert again == value if name == "boxes" else np.abs(again - value).max() <= near
        picture = PIL.Image.open(io.BytesIO(archive.read("007/pictures/semseg-seed3.png")))
        assert picture.size == (64, 64)  # as it is, not enlarged
        assert "007/values/semseg-seed3.npy" in names and "007/doubt/depth-seed4.npy" in names
        assert json.loads(archive.read("007/made.json"))["seeds"] == [3, 4]


def test_what_is_shown_is_escaped_and_has_no_empty_panels(pipe):
    *_, made = watched(pipe, asked({"caption": "<img src=x onerror=alert(1)>"}), 1)
    page = made.html(pipe.modalities, True, with_doubt=True)
    assert "<img src=x" not in page and "&lt;img" in page
    assert page.count("<figure>") == 1 and "doubt" in page


# ---- what is kept


def made_of(pipe, number: int, num: int = 1) -> Made:
    """A result of black pictures."""
    values = [np.zeros((64, 64, 3), np.uint8) for _ in range(num)]
    found = Generated(pipe.modalities["rgb"], values, [], [])
    return Made(number, {}, {"rgb": found}, 3, "", ("rgb",))


def test_a_visitor_keeps_the_newest_results_and_can_give_them_again(pipe, tmp_path):
    shelf = Shelf(tmp_path, Limits(results=2))
    visit = [shelf.add("a", made_of(pipe, number)) for number in (1, 2, 3)][-1]
    assert [made.number for made in visit.made] == [2, 3] and visit.count == 3
    assert visit.choices(lambda m: True)[0] == ("3. rgb, seed 3", "3/rgb/0")
    m, value = visit.result("2/rgb/0")
    assert m.name == "rgb" and value.nbytes == 64 * 64 * 3
    for gone in ("1/rgb/0", "2/rgb/9", None, "../../etc"):
        with pytest.raises(UserError, match="choose another"):
            visit.result(gone)
    assert visit.file.is_relative_to(tmp_path) and visit.file.name == "fourm-results.zip"
    assert len(list(tmp_path.rglob("*.zip"))) == 1  # not those of the first two
    shelf.drop("a")
    assert not visit.has_file and not shelf["a"].made and not list(tmp_path.rglob("*.zip"))


def test_of_all_visitors_together_no_more_bytes_are_kept_than_there_is_room_for(pipe, tmp_path):
    one = made_of(pipe, 1).num_bytes
    assert 64 * 64 * 3 <= one < 64 * 64 * 3 + 500
    shelf = Shelf(tmp_path, Limits(results_bytes=4 * one + 20))
    for session, number in (("a", 1), ("b", 1), ("a", 2), ("c", 1)):
        shelf.add(session, made_of(pipe, number))
    assert shelf.num_bytes == 4 * one
    shelf.add("c", made_of(pipe, 2))  # b was away for longest
    assert not shelf["b"].made and len(shelf["a"].made) == 2
    shelf.add("c", made_of(pipe, 3))  # then a, whose file has both of its results in it
    assert [made.number for made in shelf["a"].made] == [2] and not shelf["a"].has_file
    big = shelf.add("a", made_of(pipe, 3, num=8))  # what is new always stays
    assert [made.number for made in big.made] == [3] and big.has_file and not shelf["c"].made
    assert len(list(tmp_path.rglob("*.zip"))) == 1


def test_results_are_forgotten_an_hour_after_the_last_was_made(pipe, tmp_path):
    now = [0.0]
    shelf = Shelf(tmp_path, clock=lambda: now[0])
    shelf.add("a", made_of(pipe, 1))
    now[0] = 3000.0
    shelf.add("b", made_of(pipe, 1))
    now[0] = 3601.0
    assert not shelf["a"].made and shelf["b"].has_file
    assert len(list(tmp_path.rglob("*.zip"))) == 1


def test_gradio_keeps_nothing_of_a_visitor_who_has_left_and_nothing_that_was_shown():
    with gr.Blocks() as blocks:
        shown = gr.HTML()
    gr.routes.App.create_app(blocks)
    sessions, queue = Sessions(blocks), blocks._queue
    blocks.state_holder["a"]._update_value_in_config(shown._id, "x" * 1000)
    kept = blocks.state_holder["a"].config_values
    assert kept[shown._id]["props"]["value"] == "x" * 1000
    sessions.lighten("a")
    sessions.lighten("nobody")
    assert not kept
    blocks.state_holder["a"]._update_value_in_config(shown._id, "again")  # as if it were new
    queue.pending_messages_per_session["a"] = asyncio.Queue()
    queue.pending_event_ids_session["a"] = set()
    sessions.end("a")
    assert not blocks.state_holder.session_data and not blocks.state_holder.time_last_used
    assert not queue.pending_messages_per_session and not queue.pending_event_ids_session


# ---- what stands before it


def test_endings_of_handlers_are_sentences_without_paths():
    def mistake():
        raise UserError("say it otherwise")

    def steps():
        yield 1
        raise OSError("/secret/place")

    with pytest.raises(gr.Error, match="say it otherwise"):
        told(mistake)()
    with pytest.raises(gr.Error) as refused:
        list(told(steps)())
    assert "secret" not in str(refused.value.message) and "went wrong" in refused.value.message


def test_a_rate_counts_a_minute_of_each_visitor():
    now = [0.0]
    rate = Rate(2, lambda: now[0])
    assert [rate.admits("a") for _ in range(3)] == [True, True, False] and rate.admits("b")
    now[0] = 60.0
    assert rate.admits("a")


def answer(guard: Guard, path: str, method: str = "GET", body: int = 0, **headers: str) -> int:
    """Status of a request; 200 where the guard lets it through."""
    sent: list[dict] = []
    told_headers = {"host": "127.0.0.1:7860", "content-length": str(body), **headers}
    scope = {
        "type": "http", "method": method, "path": path, "client": ("127.0.0.1", 1),
        "headers": [(k.encode(), v.encode()) for k, v in told_headers.items()],
    }  # fmt: skip

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"]


def test_only_the_pages_own_files_are_served_and_nothing_is_relayed(tmp_path):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    own, other = tmp_path / "own", tmp_path / "own-other"
    for folder in (own, other):
        folder.mkdir()
    (own / "link").symlink_to(other)
    guard = Guard(app, own, Limits(posts_a_minute=4), ("127.0.0.1", "[::1]"))
    (own / "a.png").touch()
    assert answer(guard, f"/gradio_api/file={own}/a.png") == 200
    assert answer(guard, f"/gradio_api/file={own}/b.png") == 410  # was there once
    for place in ("/etc/passwd", f"{own}/../own-other/x", f"{other}/x", f"{own}/link/x",
                  "http://169.254.169.254/", "README.md", "%2fetc%2fpasswd", "a\0b"):  # fmt: skip
        assert answer(guard, f"/gradio_api/file={place}") == 403, place
    assert answer(guard, "/gradio_api/proxy=http://localhost/") == 404
    assert answer(guard, "/", host="evil.example:7860") == 403
    assert answer(guard, "/", host="[::1]:7860") == 200
    assert answer(guard, "/gradio_api/queue/join", "POST", origin="http://evil.example") == 403
    assert answer(guard, "/gradio_api/queue/join", "POST", 3_000_000) == 413
    assert answer(guard, "/gradio_api/upload", "POST", 3_000_000) == 200
    assert answer(guard, "/gradio_api/upload", "POST", 30_000_000) == 413
    assert answer(guard, "/gradio_api/queue/join", "POST") == 200
    assert answer(guard, "/gradio_api/queue/join", "POST") == 429  # four were counted


def test_other_machines_are_let_in_only_where_that_is_said():
    with pytest.raises(UserError, match="lets other machines in.* add --public"):
        check_address("0.0.0.0", 0)
    check_address("0.0.0.0", 0, public=True)
    check_address("127.0.0.1", 0)
    with pytest.raises(UserError, match="is no address of this machine"):
        check_address("nowhere.invalid", 0)
