"""Figures of the any-to-any matrix: those of kept libraries on the same predictions, between
bounds that are what they say.
"""

import math

import numpy as np
import pytest
import torch

from fourm.evaluation.matrix.distances import frechet_distance, kernel_distance
from fourm.evaluation.matrix.figures import Calibration, Figure
from fourm.evaluation.matrix.judges import BagJudge, bag_f1, judge_of
from fourm.evaluation.matrix.scores import TokenScores, counted_cross_entropy
from fourm.evaluation.matrix.truth import Truth
from fourm.evaluation.metrics import spatial_deviation
from fourm.raw import Raw
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.raw.numbers import Numbers
from fourm.raw.text import Text
from fourm.raw.words import Words


class Chord(Raw):
    """A raw type of somebody's own, with a judge."""


class Melody(Raw):
    """And one without."""


# ---- agreement with libraries --------------------------------------------------------------------


def made_up_scores(num=500, vocab=12):
    rng = np.random.default_rng(0)
    p = torch.from_numpy(rng.normal(size=(num, vocab)) * 2).softmax(-1)
    ids = torch.from_numpy(rng.integers(0, vocab, num))
    ids[::2] = p.argmax(-1)[::2]
    best, at = p.max(-1)
    log_p = p.gather(1, ids[:, None])[:, 0].log()
    arrays = (t.numpy() for t in (torch.arange(num) % 7, ids, log_p, best, at == ids))
    return p, ids, TokenScores(*arrays)


def test_calibration_is_that_of_torchmetrics_and_its_curve_holds_every_token():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    p, ids, scores = made_up_scores()
    theirs = classification.multiclass_calibration_error(p.float(), ids, 12, n_bins=15, norm="l1")
    ours = Calibration.of(scores)
    assert ours.error == pytest.approx(float(theirs), abs=1e-6)
    assert sum(b.tokens for b in ours.bins) == len(ids)
    assert Calibration.of(TokenScores(*[np.zeros(0)] * 5)).error is None


def test_figures_of_dense_types_are_those_of_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    image = pytest.importorskip("torchmetrics.functional.image")
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, (5, 8, 8)).astype(np.uint8)
    got = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 4, truth.shape))
    found = judge_of(Labels(size=8, classes=tuple("abcd"))).figures(list(got), list(truth))
    a, b = torch.from_numpy(got).long(), torch.from_numpy(truth).long()
    accuracy = classification.multiclass_accuracy(a, b, 4, average="micro")
    assert found["accuracy"] == pytest.approx(float(accuracy))
    jaccard = classification.multiclass_jaccard_index(a, b, 4, average="macro")
    assert found["miou"] == pytest.approx(float(jaccard))
    truth = rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    got = (truth + rng.normal(size=truth.shape) * 20).clip(0, 255).astype(np.uint8)
    psnr = image.peak_signal_noise_ratio(
        *(torch.from_numpy(x).float() for x in (got, truth)), data_range=255.0, dim=(1, 2, 3)
    )
    ours = next(iter(judge_of(Image(size=8)).figures(list(got), list(truth)).values()))
    assert ours == pytest.approx(float(psnr), rel=1e-5)


def test_f1_of_words_is_that_of_torchmetrics():
    text = pytest.importorskip("torchmetrics.functional.text")
    pairs = [("red cube left", "red cube right red"), ("x", "y"), ("one two", "two one")]
    for said, true in pairs:
        answers = {"answers": {"answer_start": [0], "text": [true]}, "id": "0"}
        theirs = text.squad([{"prediction_text": said, "id": "0"}], [answers])
        assert 100 * bag_f1(said.split(), true.split()) == pytest.approx(float(theirs["f1"]))


def test_texts_are_judged_case_aside():
    judge = judge_of(Text())
    assert judge.figures(["a red Cube"], ["A red cube"]) == {"word_f1": 1.0, "exact": 1.0}
    assert judge.covered("Peru", ["peru", "chile"]) == 1.0


def test_distances_are_those_of_torchmetrics_and_the_error_is_the_jackknife():
    pytest.importorskip("torchmetrics")
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(30, 8)), rng.normal(size=(25, 8)) + 0.3
    moments = [torch.from_numpy(m) for x in (a, b) for m in (x.mean(0), np.cov(x.T))]
    assert frechet_distance(a, b) == pytest.approx(float(_compute_fid(*moments)), rel=1e-6)
    few = frechet_distance(a[:5], a[:5])  # fewer samples than dimensions
    assert few == pytest.approx(0, abs=1e-9)
    error = kernel_distance(a, b)[1]
    theirs = poly_mmd(torch.from_numpy(a[:25]), torch.from_numpy(b))
    assert kernel_distance(a[:25], b)[0] == pytest.approx(float(theirs))
    without = [
        [kernel_distance(np.delete(a, i, 0), b)[0] for i in range(len(a))],
        [kernel_distance(a, np.delete(b, i, 0))[0] for i in range(len(b))],
    ]
    variance = sum((len(w) - 1) * np.var(w) for w in without)
    assert error == pytest.approx(math.sqrt(variance))
    draws = rng.normal(size=(200, 2, 20, 4))
    means, errors = zip(*(kernel_distance(x, y) for x, y in draws), strict=True)
    assert abs(np.mean(means)) < 4 * np.std(means) / math.sqrt(200)  # unbiased
    assert 0.7 < np.mean(errors) / np.std(means) < 1.6


# ---- figures and their bounds --------------------------------------------------------------------


def test_a_figure_s_direction_is_that_to_a_perfect_answer():
    low = Figure.between(0.05, {"constant": 0.2, "shuffled": 0.3}, upper=0.01, perfect=0.0)
    high = Figure.between(0.8, {"constant": 0.2, "shuffled": 0.1}, upper=0.9, perfect=1.0)
    assert low.better and low.position == pytest.approx(0.15 / 0.19)
    assert high.better and high.position == pytest.approx(0.6 / 0.7)
    worse = Figure.between(0.25, {"constant": 0.2, "shuffled": 0.3}, upper=0.01, perfect=0.0)
    assert worse.better is False and worse.position is not None and worse.position < 0
    bad_tokenizer = Figure.between(0.05, {"constant": 0.2}, upper=0.4, perfect=0.0)
    assert bad_tokenizer.better and bad_tokenizer.position is None
    endless = Figure.between(20.0, {"constant": 15.0}, upper=30.0, perfect=math.inf)
    assert endless.better and endless.position == pytest.approx(1 / 3) and endless.perfect is None
    assert Figure.between(math.nan, {"constant": 0.2}, 0.4, 0.0).value is None


def test_the_constant_answer_knows_the_other_samples_alone():
    rng = np.random.default_rng(4)
    depth = list(rng.uniform(size=(5, 4, 4)).astype(np.float32))
    labels = list(rng.integers(0, 3, (6, 4, 4)).astype(np.uint8))
    means = judge_of(Depth(size=4)).constants(depth)
    modes = judge_of(Labels(size=4, classes=tuple("abc"))).constants(labels)
    for i in range(5):
        others = np.stack(depth[:i] + depth[i + 1 :])
        np.testing.assert_allclose(means[i], others.mean(0), rtol=1e-5)
    for i in range(6):
        others = np.stack(labels[:i] + labels[i + 1 :]).reshape(5, -1)
        wanted = [np.bincount(column).argmax() for column in others.T]
        assert modes[i].reshape(-1).tolist() == wanted
    assert judge_of(Text()).constants(["a", "b", "a", "b", "b"]) == ["b", "a", "b", "a", "a"]
    assert judge_of(Numbers()).constants([[0.0, 1.0], [0.5], [1.0]]) == [
        [0.75, 0.5],
        [0.5, 1.0],
        [0.25, 1.0],
    ]


def test_ids_counted_in_other_samples_predict_by_their_frequency():
    scores = TokenScores(
        np.array([0, 0, 1]), np.array([0, 1, 1]), np.zeros(3), np.zeros(3), np.zeros(3, bool)
    )
    p = [0.5 / 2, 1.5 / 2, 1.5 / 3]  # of {1: 1} and of {0: 1, 1: 1}, each id half a count more
    assert counted_cross_entropy(scores, 2) == pytest.approx(-np.log(p).mean())


@pytest.mark.parametrize("raw", [Depth(size=6), Labels(size=6, classes=tuple("abcde"))])
def test_a_truth_that_is_one_more_draw_is_covered_as_often_as_is_nominal(raw):
    rng = np.random.default_rng(5)

    def draw():
        if isinstance(raw, Labels):
            return list(rng.choice(5, (40, 6, 6), p=[0.5, 0.3, 0.1, 0.07, 0.03]).astype(np.uint8))
        return list(rng.normal(size=(40, 6, 6)).astype(np.float32))

    draws = [draw() for _ in range(8)]
    values = draw()
    fair = Truth(judge_of(raw), values, values, False).coverage(draws)
    assert fair.truth == pytest.approx(fair.nominal, abs=0.03) and fair.truth == fair.tokenized
    if isinstance(raw, Depth):
        assert fair.nominal == pytest.approx(6 / 8)
        narrow = [[value * 0.1 for value in values] for values in draws]
        sure = Truth(judge_of(raw), values, values, False).coverage(narrow)
        assert sure.truth < 0.3 and sure.nominal == pytest.approx(6 / 8)


def test_values_without_a_judge_of_their_own_are_right_or_wrong():
    judge = judge_of(Boxes())
    one, two = [{"box": [0, 0, 1, 1], "label": "x"}], [{"box": [0, 0, 1, 1], "label": "y"}]
    assert judge.covered(one, [two, one]) == 1 and judge.covered(one, [two, two]) == 0
    tags = judge_of(Words()).figures([["wood", "red"]], [["wood"]])
    assert tags == {"word_f1": pytest.approx(2 / 3), "exact": 0.0}
    judge_of.register(Chord, lambda raw: BagJudge("note_f1", list))
    assert judge_of(Chord()).figures([[60, 64]], [[60, 67]])["note_f1"] == 0.5
    plain = judge_of(Melody())
    assert plain.figures([{"a": 1}, [1, 2]], [{"a": 1}, [1, 3]]) == {"exact": 0.5}
    assert plain.spread(["a", "a", "b"]) == pytest.approx(2 / 3)


def test_the_best_of_several_is_chosen_sample_by_sample():
    truth = [np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)]
    held = Truth(judge_of(Labels(size=4, classes=("a", "b"))), truth, truth, False)
    wrong = [1 - value for value in truth]
    found = held.figures([[truth[0], wrong[1]], [wrong[0], truth[1]]], shuffled=True, rivals={})[
        "accuracy"
    ]
    assert found.value == 0.5 and found.best == 1.0 and found.deviation == 0.0
    assert found.lower["shuffled"] == 0.5 and found.upper == found.perfect == 1.0


def test_spatial_deviation_is_that_of_each_channel_of_each_picture_over_its_places():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)
    each = [np.std(pictures[b, :, :, c].ravel()) for b in range(3) for c in range(2)]
    assert spatial_deviation(pictures) == pytest.approx(np.mean(each))
    flat = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert spatial_deviation(flat) == 0.0
