"""Every example of docs/examples.md runs, as a script or a notebook, and writes what it says."""

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import jupytext
import notebooks
import numpy as np
import pytest
from PIL import Image
from source import ROOT

from fourm.demo.held_out import held_out_scenes
from fourm.model.model import FourM
from fourm.training.checkpoints import newest_checkpoint

EXAMPLES = {path.stem: path for path in notebooks.examples()}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in this process; gives the folder that it wrote and what it said."""

    def run_one(name: str, *more: str) -> tuple[Path, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out"), "--small", *more])
        runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
        return tmp_path / "out", capsys.readouterr().out

    return run_one


def size_of(path: Path) -> tuple[int, int]:
    """Of a picture that shows more than one colour."""
    with Image.open(path) as picture:
        assert np.asarray(picture).std() > 1
        return picture.size


def test_examples_are_short_and_the_page_has_them_all_with_their_commands():
    assert len(EXAMPLES) == 8
    for path in EXAMPLES.values():
        assert len(path.read_text().splitlines()) <= 80, path
    page = (ROOT / "docs" / "examples.md").read_text()
    assert len(page.splitlines()) <= 40
    named = re.findall(r"`python examples/(\w+)\.py (\S+)`", page)
    assert sorted(named) == [(name, f"runs/examples/{name}") for name in sorted(EXAMPLES)]


def test_in_painting_keeps_what_was_given(run):
    out, said = run("inpaint")
    assert "pixels that were given stay: True" in said
    assert size_of(out / "inpaint.png") == (2 * 2 * 64, 2 * 5 * 64)
    first = np.asarray(Image.open(out / "inpaint.png"))[:128:2, :128:2]
    assert (first == held_out_scenes(3, 1, 64).raw["rgb"][0]).all()


def test_features_are_vectors_maps_and_a_matrix_on_disk(run):
    out, said = run("extract_features")
    assert "(6, 128)" in said and "(6, 256)" in said
    assert np.load(out / "features" / "vectors.npy", mmap_mode="r").shape == (12, 128)
    assert size_of(out / "features.png") == (6 * 128, 2 * 128)


def test_retrieval_tells_recall_and_shows_a_page(run):
    out, said = run("retrieve")
    found = json.loads((out / "index" / "recall.json").read_text())
    assert [one["query"] for one in found] == ["caption -> rgb", "depth -> rgb"]
    assert "a large red cube" in (out / "index" / "results.html").read_text()
    assert said.count("by caption [") == 4
    assert size_of(out / "retrieve.png") == (7 * 64, 4 * 64)


def test_a_server_answers_with_a_picture_and_says_what_it_does_not_know(run):
    out, said = run("serve")
    assert size_of(out / "served.png") == (64, 64)
    assert "400: unknown modality 'captoin'" in said and "did you mean 'caption'?" in said
    assert re.search(r"the page has \d+,\d+ letters", said)


def test_a_tokenizer_is_trained_and_used(run):
    out, said = run("train_tokenizer")
    assert "4096 numbers as 64 tokens" in said
    assert (out / "tokenizers" / "depth" / "model.safetensors").is_file()
    assert size_of(out / "depth.png") == (6 * 64, 2 * 64)


def test_own_pictures_with_a_table_become_a_model_that_answers(run):
    out, said = run("finetune_own")
    with open(out / "labels.csv", newline="") as file:
        shapes = {row["shape"] for row in csv.DictReader(file)}
    answers = re.findall(r"^said (\w+), is", said, re.M)
    assert len(answers) == 6 and set(answers) <= shapes
    figures = json.loads((out / "run" / "done.json").read_text())
    assert figures["num_train"] + figures["num_held_out"] == 64


@pytest.mark.slow
def test_a_modality_joins_those_that_the_model_has(run):
    out, said = run("add_modality")
    trained = FourM.from_pretrained(newest_checkpoint(out / "run" / "checkpoints"))
    assert {"palette", "rgb", "boxes"} <= {m.name for m in trained.modalities}
    assert "said: " in said and size_of(out / "palettes.png") == (6 * 96, 3 * 96)


@pytest.mark.slow
def test_a_released_model_learns_own_words(run):
    out, said = run("continue_released")
    described = json.loads((out / "released" / "config.json").read_text())
    assert described["domains_out"] == ["tok_depth@224"]
    trained = FourM.from_pretrained(newest_checkpoint(out / "run" / "checkpoints"))
    assert [m.name for m in trained.modalities] == ["rgb@224", "words"]
    assert "said: [" in said


def written(name: str, tmp_path: Path, monkeypatch):
    line = ["notebooks.py", str(tmp_path), name, "--small"]
    monkeypatch.setattr(sys, "argv", line)
    notebooks.main()
    return jupytext.read(tmp_path / f"{name}.ipynb")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, file", [("inpaint", "inpaint.png"), ("train_tokenizer", "depth.png")]
)
def test_a_notebook_runs_and_shows_the_picture_that_it_writes(name, file, tmp_path, monkeypatch):
    made = written(name, tmp_path, monkeypatch)
    outputs = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert (tmp_path / name / file).is_file()
