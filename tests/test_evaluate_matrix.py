"""The any-to-any matrix: cells that neither kills nor ranks change, and mistakes that are one
line. The model is the demo's own.
"""

import json
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

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.cli import main
from fourm.config import to_mapping
from fourm.demo.scenes_to_shards import VALIDATION_SEED, write_scene_shard
from fourm.errors import UserError
from fourm.evaluation.held_out import Shards, present, read_samples
from fourm.evaluation.matrix import run
from fourm.evaluation.matrix.cells import CellMaker
from fourm.evaluation.matrix.conditions import read_conditions
from fourm.evaluation.matrix.figures import Matrix
from fourm.evaluation.matrix.run import MatrixSettings, evaluate_matrix
from fourm.evaluation.matrix.scores import score_tokens
from fourm.modalities import ModalitySet
from fourm.pipeline.given import Tokens
from fourm.pipeline.pipeline import AnyToAnyPipeline
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


def figures_of(matrix: Matrix):
    """All that a matrix says but how long it took."""
    return [{**to_mapping(cell), "seconds": 0} for cell in matrix.cells]


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
