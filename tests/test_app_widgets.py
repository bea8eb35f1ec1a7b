"""What the page takes: typed, painted, drawn and uploaded values, and what it refuses. Needs ``pip
install 'fourm[app]'``.
"""

import base64
import io

import numpy as np
import PIL.Image
import pytest

gr = pytest.importorskip("gradio")

from fourm import AnyToAnyPipeline  # noqa: E402
from fourm.app.boxes import BoxesWidget  # noqa: E402
from fourm.app.pad import OPEN, drawn, painted  # noqa: E402
from fourm.app.panels import Panels, widgets_of  # noqa: E402
from fourm.app.pictures import LabelsWidget, PictureWidget  # noqa: E402
from fourm.app.typed import PlaceWidget, _direction, _place  # noqa: E402
from fourm.app.widget import uploaded, widget_of  # noqa: E402
from fourm.errors import UserError  # noqa: E402
from fourm.modalities import Modality, ModalitySet  # noqa: E402
from fourm.pipeline.given import Partial  # noqa: E402
from fourm.raw import Raw  # noqa: E402
from fourm.raw.audio import Audio  # noqa: E402
from fourm.raw.numbers import Numbers  # noqa: E402
from fourm.raw.palette import Palette  # noqa: E402
from fourm.raw.vectors import Vectors  # noqa: E402
from fourm.raw.words import Words  # noqa: E402
from fourm.resources import configs_folder, demo_model_folder  # noqa: E402


@pytest.fixture(scope="module")
def pipe():
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


def widget(raw: Raw, kind: str = "sequence"):
    m = Modality(name="thing", kind=kind, raw=raw, vocab_size=64, max_tokens=16, grid=None)  # type: ignore[arg-type]
    return widget_of(raw)(m)


def of(pipe: AnyToAnyPipeline, name: str):
    return next(w for w in widgets_of(pipe.modalities) if w.modality.name == name)


def as_painting(cells: np.ndarray) -> str:
    return base64.b64encode(cells.astype(np.uint8).tobytes()).decode()


# ---- widgets


@pytest.mark.parametrize("name", ["demo", "earth", "4m_7", "4m_21"])
def test_every_raw_form_of_every_set_has_one_widget_that_can_be_built(name):
    modalities = ModalitySet.load(configs_folder() / "modalities" / f"{name}.yaml")
    forms = {m.raw_name for m in modalities.inputs}
    with gr.Blocks():
        panels = Panels.build(modalities, [])
    assert {w.modality.raw_name for w in widgets_of(modalities)} == forms
    assert len(panels.panels) == len(forms) and all(p.components for p in panels.panels)


def test_text_is_given_as_it_is_typed_and_empty_text_is_not_given(pipe):
    assert of(pipe, "caption").value("a small [S_1] cube ") == "a small [S_1] cube"
    assert of(pipe, "caption").value("  ") is None and of(pipe, "caption").value(None) is None


@pytest.mark.parametrize(
    "raw, typed, value",
    [
        (Words(), "wood, [S_1], dark  metal", ["wood", "[S_1]", "dark  metal"]),
        (Numbers(range=(0, 9)), "3, 4.5  1e0", [3.0, 4.5, 1.0]),
        (Palette(), "#ff0000 #00a0Ff", [[255, 0, 0], [0, 160, 255]]),
    ],
)
def test_what_is_typed_becomes_a_value_and_a_value_what_is_typed(raw, typed, value):
    made = widget(raw)
    assert made.value(typed) == value
    if "[S_1]" not in typed:
        assert made.value(*made.shown(value)) == value


def test_vectors_are_lines_of_numbers():
    made = widget(Vectors(channels=2))
    assert np.array_equal(made.value("1 2\n3 4"), [[1, 2], [3, 4]])
    with pytest.raises(UserError, match="expected numbers"):
        made.value("1 2 3")


@pytest.mark.parametrize(
    "raw, typed, message",
    [
        (Numbers(), "1 two", "'two' in thing is no number"),
        (Palette(), "red", "'red' is no colour: write it like #cc3311"),
        (Words(), "x" * 5000, "5000 characters are more than the 4000"),
    ],
)
def test_a_slip_in_what_is_typed_is_named(raw, typed, message):
    with pytest.raises(UserError, match=message):
        widget(raw).value(typed)


def test_boxes_are_drawn_or_typed_a_line_each(pipe):
    made = of(pipe, "boxes")
    assert isinstance(made, BoxesWidget)
    box = {"box": [0.1, 0.2, 0.5, 0.6], "label": "red cube"}
    assert made.value("red cube 0.1 0.2 0.5 0.6\n[S_1]") == [box, "[S_1]"]
    assert made.value(*made.shown([box])) == [box]
    text = made._with_box("[S_1]", "[0.25, 0.25, 0.5, 0.75, 1]", "cone")
    assert text == "[S_1]\ncone 0.25 0.25 0.50 0.75"
    with pytest.raises(UserError, match="line 2 of boxes is no label with four numbers"):
        made.value("cone 0 0 1 1\ncone 0 0 1")
    with pytest.raises(UserError, match="second corner lies before the first"):
        made.value("cone 0.5 0 0.1 1")


def test_a_place_of_the_map_is_its_latitude_and_longitude_or_its_direction():
    assert isinstance(widget(Numbers(range=(-180, 180))), PlaceWidget)
    assert not isinstance(widget(Numbers(range=(0, 1))), PlaceWidget)
    assert _place("[0.75, 0.25, 1]") == "45.0 90.0"
    north = [float(number) for number in _direction("[0.3, 0, 1]").split()]
    assert np.allclose(north, [0, 0, 1], atol=1e-4)
    for wrong in ("[2, 0, 1]", "[1", None, "[NaN, 0]", '"ab"', "[" * 3000):
        with pytest.raises(UserError, match="draw again"):
            _place(wrong)


def test_what_is_painted_over_a_picture_is_left_open(pipe):
    made, picture = of(pipe, "rgb"), np.zeros((64, 64, 3), np.uint8)
    assert isinstance(made, PictureWidget)
    assert made.value(None, "", None) is None
    assert made.value(picture, "", None) is picture
    cells = np.full((64, 64), 255)
    cells[:8] = OPEN
    part = made.value(picture, as_painting(cells), None)
    assert isinstance(part, Partial) and np.array_equal(part.keep, cells != OPEN)
    assert made.value(picture, as_painting(np.full((64, 64), OPEN)), None) is None


def test_classes_are_painted_and_what_stays_bare_is_left_open(pipe):
    made, cells = of(pipe, "semseg"), np.full((64, 64), 255)
    assert isinstance(made, LabelsWidget)
    assert [ink.name for ink in made.inks][:3] == ["sky", "floor", "cube"]
    cells[32:] = 1
    part = made.value(None, as_painting(cells), None)
    assert np.array_equal(part.keep, cells == 1) and (part.raw[32:] == 1).all()
    whole = made.value(np.full((64, 64), 2, np.uint8), as_painting(cells), None)
    assert (whole[:32] == 2).all() and (whole[32:] == 1).all()
    cells[0, 0] = 77
    with pytest.raises(UserError, match="class ids"):
        made.value(None, as_painting(cells), None)


@pytest.mark.parametrize("wrong", ["x", "AAAA", 7, [1], "é", "A" * 10_000])
def test_a_painting_of_another_size_or_of_anything_else_is_refused(wrong):
    with pytest.raises(UserError, match="paint"):
        painted(wrong, 64)


def test_drawn_shares_are_numbers_within_the_picture():
    assert drawn("[0, 0.5, 1, 0.25, 9]", 4) == [0, 0.5, 1, 0.25]


# ---- files


def test_uploads_are_read_as_the_command_reads_files(pipe, tmp_path):
    steps = np.linspace(0, 65535, 100 * 80).reshape(80, 100).astype(np.uint16)
    path = tmp_path / "deep.png"
    PIL.Image.fromarray(steps).save(path)
    depth = pipe.modalities["depth"]
    read = uploaded(depth, str(path))
    assert read.shape == (64, 64) and np.array_equal(read, depth.raw.from_argument(str(path)))
    assert 3 <= read.min() < read.max() <= 12  # 16 bits are parts of the range
    clear = tmp_path / "clear.png"
    PIL.Image.new("RGBA", (30, 50), (255, 0, 0, 0)).save(clear)
    assert (uploaded(pipe.modalities["rgb"], str(clear)) == 255).all()  # transparency on white


def bomb() -> bytes:
    """A picture of 64 million pixels in some kilobytes."""
    buffer = io.BytesIO()
    PIL.Image.new("1", (8000, 8000)).save(buffer, "PNG")
    return buffer.getvalue()


def test_wrong_and_huge_files_are_refused_by_name_and_never_by_their_place(pipe, tmp_path):
    rgb = pipe.modalities["rgb"]
    for name, data, message in (
        ("a.png", b"no picture", "a.png: no readable picture"),
        ("b.exe", b"MZ", "b.exe is none of the kinds of file"),
        ("c.npy", b"\x93NUMPY junk", "c.npy"),
        ("d.png", bomb(), "8000 x 8000 pixels is too large"),
        ("e.png", b"0" * 20_000_001, "e.png is larger than 20 MB"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UserError, match=message) as refused:
            uploaded(rgb, str(path))
        assert str(tmp_path) not in str(refused.value)
    with pytest.raises(UserError, match="none of the kinds") as refused:
        uploaded(Modality(name="x", kind="set", raw=Audio(rate=8000), vocab_size=9, max_tokens=1),
                 "/etc/passwd")  # fmt: skip
    assert "/etc" not in str(refused.value)
