"""The any-to-any matrix: figures that kept libraries agree with, bounds that are what they say, and
cells that neither kills nor ranks change. The model is the demo's own.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_model
from source import ROOT
from worlds import MODALITIES, write_project

from fourm.cli import main
from fourm.config import to_mapping
from fourm.demo.scenes_to_shards import VALIDATION_SEED, write_scene_shard
from fourm.errors import UserError
from fourm.evaluation.held_out import Shards, present, read_samples
from fourm.evaluation.matrix import run
from fourm.evaluation.matrix.cells import CellMaker
from fourm.evaluation.matrix.conditions import read_conditions
from fourm.evaluation.matrix.distances import frechet_distance, kernel_distance
from fourm.evaluation.matrix.figures import Calibration, Figure, Matrix
from fourm.evaluation.matrix.judges import BagJudge, bag_f1, judge_of
from fourm.evaluation.matrix.run import MatrixSettings, evaluate_matrix
from fourm.evaluation.matrix.scores import TokenScores, counted_cross_entropy, score_tokens
from fourm.evaluation.matrix.truth import Truth
from fourm.evaluation.metrics import spatial_deviation
from fourm.given import Tokens
from fourm.masking import Masker, MaskingComponent, MaskingConfig
from fourm.modalities import ModalitySet
from fourm.pipeline import AnyToAnyPipeline
from fourm.raw import Raw
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.raw.numbers import Numbers
from fourm.raw.text import Text
from fourm.raw.words import Words
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions
from fourm.sampling.schemes import ROAR

NUM = 6
CHOSEN = {"conditions": "nothing;rgb;pixels+boxes;all", "targets": "semseg;caption"}
SETTINGS = MatrixSettings(samples=NUM, num_generations=3, **CHOSEN)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_scene_shard(root, "val", VALIDATION_SEED, 0, 10, 64)
    return root


@pytest.fixture(scope="module")
def pipe():
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def maker(pipe, data):
    columns = present(Shards.find(data, "val"), pipe.modalities)
    return CellMaker(pipe, read_samples(columns, NUM), 3, 0, with_pictures=False)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A matrix made in one go, and its folder."""
    out = tmp_path_factory.mktemp("out")
    return evaluate_matrix(demo_model_folder(), data, out, SETTINGS), out


class Chord(Raw):
    """A raw type of somebody's own, with a judge."""


class Melody(Raw):
    """And one without."""


def figures_of(matrix: Matrix):
    """All that a matrix says but how long it took."""
    return [{**to_mapping(cell), "seconds": 0} for cell in matrix.cells]


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


# ---- the matrix ----------------------------------------------------------------------------------


def test_scores_are_the_model_s_own_losses_and_hold_every_token(maker, pipe):
    for given, wanted in ((("rgb",), "semseg"), (("pixels", "caption"), "boxes"), ((), "caption")):
        scores = score_tokens(pipe.model, maker.tokens, given, wanted)
        component = MaskingComponent(
            input=dict.fromkeys(given, 1000.0), target={wanted: 1000.0}, keep={"caption": "all"}
        )
        budget = {"num_inputs": (500, 500) if given else (0, 0), "num_targets": (500, 500)}
        masking = MaskingConfig(components=(component,), **budget)
        batch = Masker(pipe.modalities, masking, seed=1)(maker.tokens, maker.tokens.samples)
        with torch.inference_mode():
            losses = pipe.model(batch)
        i = pipe.modalities.index(wanted)
        assert len(scores.ids) == losses.counts[i]
        expected = float(losses.sums[i] / losses.counts[i])
        assert scores.cross_entropy == pytest.approx(expected, rel=1e-4)
        ids = [scores.ids[scores.sample == s] for s in range(NUM)]
        for said, true in zip(ids, maker.ids[wanted], strict=True):
            assert set(true) <= set(said) and len(said) >= len(true)


def test_all_others_never_hold_the_target_s_raw_form(pipe):
    names = [m.name for m in pipe.modalities]
    rows = {c.name: c for c in read_conditions("", pipe.modalities, names)}
    assert list(rows) == ["nothing", *names, "all"]
    assert rows["all"].given(pipe.modalities["rgb"]) == (
        "depth",
        "normal",
        "semseg",
        "caption",
        "boxes",
    )
    depth = pipe.modalities["depth"]
    assert rows["all"].given(depth) == ("pixels", "normal", "semseg", "caption", "boxes")
    assert (
        rows["pixels"].given(pipe.modalities["rgb"]) is None and rows["nothing"].given(depth) == ()
    )


def test_each_cell_has_figures_between_bounds(whole):
    matrix, out = whole
    cells = {(cell.condition, cell.target): cell for cell in matrix.cells}
    assert len(cells) == 8
    sure, blind = cells["rgb", "semseg"], cells["nothing", "semseg"]
    assert blind.better is None and "shuffled" not in blind.cross_entropy.lower
    assert sure.better and sure.figures["miou"].position > 0.5
    assert sure.cross_entropy.value < 0.5 * blind.cross_entropy.value
    assert sure.cross_entropy.value < min(sure.cross_entropy.lower.values())
    assert sure.figures["miou"].best >= sure.figures["miou"].value
    assert 0 < sure.coverage.nominal <= 1 and sure.spread < blind.spread
    read = Matrix.read(out / "matrix.json")
    assert figures_of(read) == figures_of(matrix)
    told = json.loads((out / "matrix.json").read_text())
    assert [e["condition"] for e in told["not_better"]] == [
        c.condition for c in matrix.cells if c.better is False or c.better_answer is False
    ]
    page = (out / "matrix.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert f"{sure.figures['accuracy'].value:.3f}" in page and page.count("<polyline") == 8


class Oracle:
    """A rival that knows the truth."""

    name = "oracle"

    def __init__(self, samples):
        self.samples = samples

    def answers(self, keys, given, target):
        assert list(keys) == self.samples.keys and given
        return {"oracle": self.samples.raw(target.name)}


def test_the_one_answer_is_held_against_rivals_and_generations_may_be_left_out(
    maker, pipe, data, tmp_path
):
    samples = maker.samples
    settings = MatrixSettings(
        samples=NUM, num_generations=0, conditions="rgb", targets="semseg;caption"
    )
    alone = evaluate_matrix(demo_model_folder(), data, tmp_path / "alone", settings)
    rivals = Oracle(samples)
    judged = evaluate_matrix(demo_model_folder(), data, tmp_path / "judged", settings, rivals)
    for cell, other in zip(alone.cells, judged.cells, strict=True):
        assert not cell.figures and cell.coverage is None
        assert other.answer.keys() == cell.answer.keys()
        for name, figure in other.answer.items():
            assert figure.value == cell.answer[name].value and figure.better is False
            assert figure.lower["oracle"] == figure.perfect
        assert other.better_answer is False and set(other.worse_answers) == set(other.answer)
    semseg = alone.cells[0]
    assert semseg.better_answer and semseg.answer["miou"].position > 0.5
    once = SamplingOptions(scheme=ROAR(), steps=1, temperature=0.0, decode="mean")
    given = {"rgb": [Tokens(ids) for ids in maker.ids["rgb"]]}
    said = pipe(given, "semseg", options={"semseg": once})
    right = np.stack(said["semseg"].values) == np.stack(samples.raw("semseg"))
    assert semseg.answer["accuracy"].value == pytest.approx(float(right.mean()))
    page = (tmp_path / "judged" / "matrix.html").read_text()
    assert "One answer for each sample" in page and "oracle 1.000" in page
    with pytest.raises(UserError, match=r"other settings \(rivals\)"):
        evaluate_matrix(demo_model_folder(), data, tmp_path / "alone", settings, rivals)


def test_spatial_deviation_is_that_of_each_channel_of_each_picture_over_its_places():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)
    each = [np.std(pictures[b, :, :, c].ravel()) for b in range(3) for c in range(2)]
    assert spatial_deviation(pictures) == pytest.approx(np.mean(each))
    flat = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert spatial_deviation(flat) == 0.0


def test_a_matrix_that_was_killed_goes_on_where_it_was(whole, data, tmp_path, monkeypatch):
    make, made = CellMaker.make, []

    def until_killed(self, condition, target):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append((condition.name, target.name))
        return make(self, condition, target)

    monkeypatch.setattr(CellMaker, "make", until_killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_matrix(demo_model_folder(), data, tmp_path, SETTINGS)
    assert not (tmp_path / "matrix.json").exists()
    monkeypatch.setattr(
        CellMaker, "make", lambda self, c, t: (made.append((c.name, t.name)), make(self, c, t))[1]
    )
    matrix = evaluate_matrix(demo_model_folder(), data, tmp_path, SETTINGS)
    assert len(made) == len(set(made)) == 8
    assert figures_of(matrix) == figures_of(whole[0])


def test_two_ranks_share_the_cells_and_find_the_same(whole, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert evaluate_matrix(demo_model_folder(), data, tmp_path, SETTINGS) is None
    assert len(list(tmp_path.rglob("cells/*/*.json"))) == 4
    monkeypatch.setenv("RANK", "0")
    matrix = evaluate_matrix(demo_model_folder(), data, tmp_path, SETTINGS)
    assert figures_of(matrix) == figures_of(whole[0])


@pytest.mark.slow
def test_torchrun_starts_ranks_that_find_what_one_does(whole, data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "fourm", "evaluate", str(demo_model_folder()), str(data)]
    command += ["--samples", str(NUM), "--num-generations", "3", "--out", str(tmp_path)]
    command += [word for name, value in CHOSEN.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    assert figures_of(Matrix.read(tmp_path / "matrix.json")) == figures_of(whole[0])


def test_ids_without_a_tokenizer_are_judged_as_tokens_and_a_project_is_model_and_data(tmp_path):
    write_project(tmp_path, num=2)
    make_model(ModalitySet.from_mapping(MODALITIES)).save_pretrained(tmp_path / "model")
    settings = MatrixSettings(samples=5, conditions="nothing;pixels", targets="rgb;depth")
    matrix = evaluate_matrix(tmp_path, tmp_path, tmp_path / "matrix", settings)
    assert [(c.condition, c.target) for c in matrix.cells] == [
        ("nothing", "rgb"),
        ("nothing", "depth"),
        ("pixels", "depth"),
    ]
    assert matrix.num_samples == 5 and not any(cell.figures for cell in matrix.cells)
    counted = matrix.cells[2].cross_entropy.lower["constant"]
    assert counted > 0 and matrix.cells[1].cross_entropy.lower == {"constant": counted}
    assert matrix.cells[2].calibration.error is not None


def test_pictures_have_distances_of_their_distributions(pipe, data, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    settings = MatrixSettings(samples=4, conditions="depth", targets="rgb")
    matrix = evaluate_matrix(demo_model_folder(), data, tmp_path, settings)
    found = matrix.cells[0].pictures
    assert found.frechet > found.frechet_reconstructed > 0 and found.kernel_error > 0
    assert found.frechet_deviation is None
    varied = matrix.cells[0].deviation
    assert 0 < varied.generated != varied.true != varied.reconstructed > 0
    assert "Fréchet" in (tmp_path / "matrix.html").read_text()


def test_without_their_network_pictures_are_judged_by_the_rest(data, tmp_path, monkeypatch, capsys):
    def missing():
        raise UserError("needs a package")

    monkeypatch.setattr(run, "efficientnet_network", missing)
    settings = MatrixSettings(samples=4, conditions="depth", targets="rgb")
    matrix = evaluate_matrix(demo_model_folder(), data, tmp_path, settings)
    assert "needs a package" in capsys.readouterr().out
    assert matrix.cells[0].pictures is None and matrix.cells[0].figures
    assert matrix.cells[0].deviation.true > 0


@pytest.mark.parametrize(
    "options, message",
    [
        (["--conditions", "rgb;captoin"], "'captoin' is no input.*did you mean 'caption'"),
        (["--targets", "pixels"], "target 'pixels' is no output"),
        (["--split", "test"], "no split 'test'.*val"),
        (["--samples", "1"], "1 is not in the range"),
    ],
)
def test_a_mistake_is_one_line(options, message, data, tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "evaluate",
                str(demo_model_folder()),
                str(data),
                *options,
                "--out",
                str(tmp_path / "x"),
            ]
        )
    assert ended.value.code == 2
    assert re.search(message, capfd.readouterr().err)


def test_data_that_the_model_cannot_be_judged_on_is_named(data, tmp_path):
    def refused(place, message, **settings):
        with pytest.raises(ValueError, match=message):
            chosen = MatrixSettings(**{"samples": NUM, **settings})
            evaluate_matrix(demo_model_folder(), place, tmp_path / "out", chosen)

    (tmp_path / "empty" / "val").mkdir(parents=True)
    refused(tmp_path / "empty", "has none of the model's modalities")
    (tmp_path / "other" / "val" / "sound").mkdir(parents=True)
    refused(tmp_path / "other", "has none of the model's modalities")
    refused(tmp_path / "missing", "no folder")
    write_scene_shard(tmp_path / "one", "val", 0, 0, 1, 64)
    refused(tmp_path / "one", "a single held-out sample", conditions="rgb")
    apart = tmp_path / "apart"
    for name in ("rgb", "semseg"):
        (apart / "val" / name).mkdir(parents=True)
    shutil.copy(data / "val/rgb/00000.tar", apart / "val/rgb/00000.tar")
    shutil.copy(data / "val/semseg/00000.tar", apart / "val/semseg/00001.tar")
    refused(apart, r"no sample has all .*rgb 10.*semseg 10", conditions="rgb")


def test_cells_of_other_settings_are_not_mixed_up(whole, data, tmp_path):
    _, out = whole
    settings = MatrixSettings(samples=2, conditions="rgb", targets="caption")
    model = tmp_path / "model"
    shutil.copytree(demo_model_folder(), model)
    for _ in range(2):  # its own files in the model's folder make it no other model
        assert evaluate_matrix(model, data, model / "matrix", settings) is not None
    with (model / "generation.yaml").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"cells of other settings \(model\)"):
        evaluate_matrix(model, data, model / "matrix", settings)
    other = MatrixSettings(samples=NUM, num_generations=3, seed=9, **CHOSEN)
    with pytest.raises(ValueError, match=r"cells of other settings \(seed\)"):
        evaluate_matrix(demo_model_folder(), data, out, other)
