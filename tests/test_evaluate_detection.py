"""Boxes are judged as detections are: average precision is that of pycocotools, and what a box is
ranked by is the model's own probability of it.
"""

import numpy as np
import pytest
import torch

from fourm.demo.scenes_to_shards import VALIDATION_SEED, write_scene_shard
from fourm.evaluation.average_precision import OVERLAPS, average_precision
from fourm.evaluation.held_out import Shards, present, read_samples
from fourm.evaluation.matrix.cells import CellMaker
from fourm.evaluation.matrix.conditions import read_conditions
from fourm.evaluation.matrix.detections import scored_boxes
from fourm.evaluation.matrix.judges import judge_of
from fourm.evaluation.matrix.scores import score_tokens
from fourm.evaluation.metrics import box_f1
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.raw.boxes import Boxes
from fourm.resources import demo_model_folder

NUM = 4
LABELS = "abc"


@pytest.fixture(scope="module")
def pipe():
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def maker(pipe, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_scene_shard(root, "val", VALIDATION_SEED, 0, NUM, 64)
    return CellMaker(
        pipe, read_samples(present(Shards.find(root, "val"), pipe.modalities), NUM), 1, 0, False
    )


# ---- agreement with pycocotools ------------------------------------------------------------------


def made_up(rng, num, labels=LABELS):
    """Boxes of a picture."""
    low = rng.uniform(0, 0.5, (num, 2))
    return [
        {"box": [*map(float, at), *map(float, at + rng.uniform(0.2, 0.5, 2))], "label": labels[i]}
        for at, i in zip(low, rng.integers(0, len(labels), num), strict=True)
    ]


def said_of(rng, truth):
    """What a detector says of pictures: some boxes moved, some missed, some made up, with scores
    that tell little.
    """
    found = []
    for number, boxes in enumerate(truth):
        kept = boxes[number % 2 :]
        moved = [
            b | {"box": (np.array(b["box"]) + rng.normal(size=4) * 0.03).tolist()} for b in kept
        ]
        found.append(
            [b | {"score": float(rng.uniform())} for b in moved + made_up(rng, number % 3, "ab")]
        )
    return found


def coco_judged(said, true, overlaps):
    """pycocotools' evaluation of boxes, of all sizes."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def listed(of, scored):
        found = []
        for i, boxes in enumerate(of):
            for b in boxes:
                x0, y0, x1, y1 = (100 * c for c in b["box"])
                entry = {"image_id": i, "category_id": LABELS.index(b["label"]) + 1, "iscrowd": 0}
                entry |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
                score = {"score": b.get("score", 1.0)} if scored else {}
                found.append({**entry, "id": len(found) + 1, **score})
        return found

    held = coco.COCO()
    held.dataset = {
        "images": [{"id": i} for i in range(len(true))],
        "categories": [{"id": i + 1} for i in range(len(LABELS))],
        "annotations": listed(true, False),
        "info": {},
    }
    held.createIndex()
    judge = cocoeval.COCOeval(held, held.loadRes(listed(said, True)), "bbox")
    judge.params.iouThrs = np.array(overlaps)
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    return judge


@pytest.mark.parametrize("overlaps", [OVERLAPS, (0.5,)])
def test_average_precision_is_that_of_pycocotools(overlaps):
    rng = np.random.default_rng(4)
    for labels in ("ab", "abc"):  # of c nothing is true, or some are missed
        truth = [made_up(rng, num, labels) for num in rng.integers(0, 5, 20)]
        said = said_of(rng, truth)
        judge = coco_judged(said, truth, overlaps)
        judge.accumulate()
        precision = judge.eval["precision"][..., 0, -1]  # overlaps, recalls, labels
        expected = precision[precision > -1].mean()
        assert 0.2 < expected < 0.9
        assert average_precision(said, truth, overlaps) == pytest.approx(expected, abs=1e-9)


def test_f1_of_boxes_follows_from_the_recalls_of_pycocotools():
    """Recall one way is precision the other way."""
    rng = np.random.default_rng(2)
    truth = [made_up(rng, 3) for _ in range(12)]
    said = said_of(rng, truth)
    judge = coco_judged(said, truth, [0.5])
    matched = sum(int((e["dtMatches"] > 0).sum()) for e in judge.evalImgs if e is not None)
    assert 0 < matched < sum(map(len, truth))
    f1 = 2 * matched / (sum(map(len, said)) + sum(map(len, truth)))
    assert box_f1(said, truth) == pytest.approx(f1)


def test_the_surest_count_first_and_nothing_is_known_without_true_boxes():
    right = {"box": [0.0, 0.0, 0.5, 0.5], "label": "a"}
    wrong = {"box": [0.6, 0.6, 0.9, 0.9], "label": "a"}
    truth = [[right]]
    for sure, expected in ((0.9, 1.0), (0.1, 0.5)):
        said = [[wrong | {"score": 0.5}, right | {"score": sure}]]
        assert average_precision(said, truth) == pytest.approx(expected)
    assert average_precision([[]], truth) == 0.0
    assert np.isnan(average_precision([[right]], [[]]))
    figures = judge_of(Boxes()).figures(truth, truth)
    assert figures == {"f1_50": 1.0, "f1_75": 1.0, "ap": 1.0, "ap_50": 1.0}


# ---- how sure the model is -----------------------------------------------------------------------


@torch.inference_mode()
def test_a_box_is_ranked_by_the_models_probability_of_its_own_tokens(maker, pipe):
    target, given = pipe.modalities["boxes"], ("pixels",)
    truth = maker.samples.of("boxes")
    scored = scored_boxes(pipe, maker.tokens, given, target, truth)
    scores = score_tokens(pipe.model, maker.tokens, given, "boxes")
    codec = pipe.codecs["boxes"]
    assert max(map(len, truth)) > 1
    for number, boxes in enumerate(scored):
        assert [{k: b[k] for k in ("box", "label")} for b in boxes] == truth[number]
        sizes = [len(codec.encode([[box]])[0]) - 1 for box in truth[number]]
        own = scores.log_p[scores.sample == number]
        said = sum(size * np.log(box["score"]) for size, box in zip(sizes, boxes, strict=True))
        assert said == pytest.approx(own[: sum(sizes)].sum(), abs=1e-6)
    # what is not in the picture is not believed
    first = truth[0][0]
    lie = first | {"box": [0.0, 0.9, 0.1, 1.0]}
    (honest,), (lied,) = (
        scored_boxes(pipe, maker.tokens, given, target, [[box], *truth[1:]])[0]
        for box in (first, lie)
    )
    assert lied["score"] < 0.5 * honest["score"]


def test_boxes_beyond_what_the_model_takes_are_not_believed(maker, pipe):
    target = pipe.modalities["boxes"]
    many = maker.samples.of("boxes")[0] * 20
    (boxes, *_) = scored_boxes(
        pipe, maker.tokens, ("pixels",), target, [many, *maker.samples.of("boxes")[1:]]
    )
    assert len(boxes) == len(many) and boxes[0]["score"] > 0 == boxes[-1]["score"]


def test_a_cell_of_boxes_has_average_precision_between_its_bounds(maker, pipe):
    (pixels,) = read_conditions("pixels", pipe.modalities, [m.name for m in pipe.modalities])
    cell = maker.make(pixels, pipe.modalities["boxes"])
    for figures in (cell.figures, cell.answer):
        assert figures["ap_50"].value > 0.9 > 0.3 > max(figures["ap_50"].lower.values())
        assert figures["ap"].perfect == 1.0 >= figures["ap"].upper >= figures["ap_50"].value - 0.5
