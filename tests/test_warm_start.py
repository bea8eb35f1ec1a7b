"""A modality joins a trained model: what is new learns alone first and nothing else moves, exactly;
stopped at any step, a run goes on to the same bits; nothing is resized or replaced unsaid.
"""

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, make_model
from ranks import run_ranks
from released_folders import fresh as released_model
from safetensors.torch import load_file
from test_fsdp import note_shards, shards
from worlds import curve, write_project_without_depth

from fourm.cli import main
from fourm.config import load
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.model.model import FourM, load_model
from fourm.model.positions import sincos_2d
from fourm.training.checkpoints import list_checkpoints, newest_checkpoint
from fourm.training.pretrain import PretrainConfig, pretrain
from fourm.training.transplant import Resized, Transplant, transplant
from fourm.training.warm_start import start_from

ALONE = 3  # steps
ROOT = Path(__file__).parents[1]
FOLDERS = [str(ROOT), str(ROOT / "tokenizers"), str(ROOT / "data_prep")]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(FOLDERS),
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "1",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A project, and a model that was trained without depth."""
    config, fewer = write_project_without_depth(tmp_path_factory.mktemp("base"))
    pretrain(load(PretrainConfig, config, [f"modalities={fewer}"]))
    return config


def warm(base: Path, out: Path, *more: str) -> list[str]:
    """Overrides of a run that adds depth to the trained model."""
    start = newest_checkpoint(base.parent / "run" / "checkpoints")
    given = [f"out={out}", f"init={start}", f"warm_start.steps={ALONE}", "warm_start.warmup=2"]
    loop = ["steps=7", "checkpoint_every=1", "keep_checkpoints=9"]
    return [*given, *(f"loop.{setting}" for setting in loop), *more]


def run(base: Path, out: Path, *more: str) -> Path:
    pretrain(load(PretrainConfig, base, warm(base, out, *more)))
    return out


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step_{step:08d}" / "model.safetensors")


def held_and_fresh(out: Path, before: dict, after: dict) -> tuple[float, float]:
    """The largest change of what was kept, and the largest of what is new."""
    learners = Transplant.read(out / "init.json").learners
    kept = new = 0.0
    for name, value in after.items():
        change = (value - before[name]).abs()
        is_new = torch.zeros_like(change, dtype=torch.bool)
        for rows in (learners[name] or [(0, len(value))]) if name in learners else []:
            is_new[slice(*rows)] = True
        kept = max(kept, float(change[~is_new].max()) if (~is_new).any() else 0.0)
        new = max(new, float(change[is_new].max()) if is_new.any() else 0.0)
    return kept, new


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    return run(base, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_new_learns_alone_and_then_all_learns(base, tmp_path, optimizer):
    given = [f"loop.optimizer.name={optimizer}", "loop.optimizer.weight_decay=0.5"]
    modalities = ModalitySet.load(base.parent / "modalities.yaml")
    out = run(base, tmp_path / "run", *given)
    start = newest_checkpoint(base.parent / "run" / "checkpoints")
    began = start_from(start, modalities, {}, 0).model.state_dict()
    alone = weights(out, ALONE)
    kept, new = held_and_fresh(out, began, alone)
    assert kept == 0.0 and new > 1e-4
    kept, new = held_and_fresh(out, alone, weights(out, 7))
    assert kept > 1e-4 and new > 1e-4
    trained = load_file(out / "checkpoints" / f"step_{ALONE:08d}" / "training.safetensors")
    names = [n for n in trained if n.startswith("optimizer.")]
    assert names and all(n.startswith(("optimizer.0", "optimizer.1")) for n in names)


def rows_that_moved(out: Path) -> set[str]:
    """Tables of which rows that were kept are others at the end than when all began to learn."""
    before, after = weights(out, ALONE), weights(out, 7)
    moved = set()
    for name, rows in Transplant.read(out / "init.json").learners.items():
        if rows is not None:
            is_kept = torch.ones(len(after[name]), dtype=torch.bool)
            for first, last in rows:
                is_kept[first:last] = False
            if not torch.equal(before[name][is_kept], after[name][is_kept]):
                moved.add(name)
    return moved


def test_kept_rows_of_tables_that_new_rows_have_joined_are_held_unless_they_are_to_learn(
    base, whole, tmp_path
):
    assert rows_that_moved(whole) == set()
    given = ["loop.optimizer.weight_decay=0.5", "loop.optimizer.decay_tables=true"]
    assert rows_that_moved(run(base, tmp_path / "held", *given)) == set()
    moved = rows_that_moved(run(base, tmp_path / "free", "warm_start.hold=false"))
    assert {"tokens.table", "heads.table"} <= moved


def test_from_each_of_its_checkpoints_a_run_goes_on_to_the_same_bits(base, whole, tmp_path):
    """Even where the model that it began with is not there any more."""
    gone = tmp_path / "gone"
    checkpoints = list_checkpoints(whole / "checkpoints")[:-1]
    assert len(checkpoints) > 1
    for checkpoint in checkpoints:
        out = tmp_path / checkpoint.name
        shutil.copytree(checkpoint, out / "checkpoints" / checkpoint.name)
        shutil.copy(whole / "init.json", out / "init.json")
        run(base, out, f"init={gone}")
        again, wanted = weights(out, 7), weights(whole, 7)
        assert all(torch.equal(again[name], value) for name, value in wanted.items())


@pytest.mark.slow
def test_killed_around_the_second_start_the_curve_is_that_of_an_undisturbed_run(
    base, whole, tmp_path
):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "fourm", "pretrain", str(base), *warm(base, out)]
    for step in (ALONE - 1, ALONE):
        process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        wanted = out / "checkpoints" / f"step_{step:08d}"
        while not wanted.is_dir() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    main(command[3:])
    assert curve(out) == curve(whole)
    again, wanted = weights(out, 7), weights(whole, 7)
    assert all(torch.equal(again[name], value) for name, value in wanted.items())


@pytest.mark.slow
def test_two_ranks_hold_what_one_holds(base, whole, tmp_path):
    out = tmp_path / "ranks"
    run_ranks(2, base, *warm(base, out))
    for (step, loss), (_, wanted) in zip(curve(out), curve(whole), strict=True):
        assert loss == pytest.approx(wanted, rel=1e-4), step
    start = newest_checkpoint(base.parent / "run" / "checkpoints")
    modalities = ModalitySet.load(base.parent / "modalities.yaml")
    began = start_from(start, modalities, {}, 0).model.state_dict()
    assert held_and_fresh(out, began, weights(out, ALONE))[0] == 0.0


def test_two_sharded_ranks_hold_what_one_process_holds(base, whole, tmp_path):
    """Only the first has the weights of ``init``; the others get their rows of them."""
    given = warm(base, tmp_path, "loop.sharding=all")
    run_ranks(2, base, *given, prepare=note_shards)
    assert all(places == ["S(0)"] for places, _, _ in shards(tmp_path, 2)[1].values())
    for (step, loss), (_, wanted) in zip(curve(tmp_path), curve(whole), strict=True):
        assert loss == pytest.approx(wanted, rel=1e-4), step
    start = newest_checkpoint(base.parent / "run" / "checkpoints")
    modalities = ModalitySet.load(base.parent / "modalities.yaml")
    began = start_from(start, modalities, {}, 0).model.state_dict()
    alone = load_model(tmp_path / "checkpoints" / f"step_{ALONE:08d}").state_dict()
    kept, new = held_and_fresh(tmp_path, began, alone)
    assert kept == 0.0 and new > 1e-4


def test_rates_rise_anew_at_the_second_start(whole):
    """Of the first steps in which all learns: no moment of the first stage is left."""
    stored = load_file(whole / "checkpoints" / f"step_{ALONE + 1:08d}" / "training.safetensors")
    steps = {float(value) for name, value in stored.items() if name.endswith(".step")}
    assert steps == {1.0}


# ---- what is resized -----------------------------------------------------------------------------


def other_set(**changes: dict) -> ModalitySet:
    given = copy.deepcopy(TINY)
    for name, change in changes.items():
        table = given["tokenizers"] if name == "text" else given["modalities"]
        table[name].update(change)
    return ModalitySet.from_mapping(given)


def test_a_vocabulary_that_has_grown_keeps_its_first_ids_where_that_is_said(modalities):
    old, now = make_model(modalities), other_set(depth={"vocab_size": 30})
    for said, kept in ((Resized(), 0), (Resized(grown=("depth",)), 24)):
        new = make_model(now)
        told = transplant(old, new, resized=said)
        start, _ = new.heads.vocabularies["depth"]
        first, _ = old.heads.vocabularies["depth"]
        theirs, mine = old.heads.table[first : first + kept], new.heads.table[start : start + kept]
        assert torch.equal(theirs, mine)
        parts = [p for p in told.parts if (p.name, p.tensor) == ("depth", "heads.table")]
        assert [p.fate for p in parts] == (["kept", "fresh"] if kept else ["fresh"])
    assert "heads.table: 6" in told.table()


def test_learned_places_are_interpolated_where_that_is_said(modalities):
    old, now = make_model(modalities), other_set(code={"max_tokens": 11})
    new = make_model(now)
    told = transplant(old, new, resized=Resized(stretched=("code",)))
    a, b = old.positions.learned_start["code"], new.positions.learned_start["code"]
    theirs, mine = old.positions.learned[a : a + 6], new.positions.learned[b : b + 11]
    torch.testing.assert_close(mine[::2], theirs)
    torch.testing.assert_close(mine[1::2], (theirs[1:] + theirs[:-1]) / 2)
    assert "resized" in told.table() and told.learners["positions.learned"] == [(b, b + 11)]


def test_places_of_another_grid_lie_between_those_a_model_knows_where_that_is_said(modalities):
    """The picture's corners stay where they were, whatever the number of cells."""
    known = make_model(modalities).positions
    finer = {"raw": {"type": "depth", "size": 32}, "grid": [8, 8], "places": [4, 4]}
    places = make_model(other_set(depth=finer)).positions
    first = int(known.start[modalities.index("depth")])
    coarse = known.fixed[first : first + 16].unflatten(0, (4, 4))
    fine = places.fixed[first : first + 64].unflatten(0, (8, 8))
    around = fine.unflatten(0, (4, 2)).unflatten(2, (4, 2)).mean((1, 3))
    torch.testing.assert_close(around, coarse, atol=0.04, rtol=0)
    assert torch.equal(sincos_2d(4, 4, 32, (4, 4)), sincos_2d(4, 4, 32))


@pytest.mark.parametrize(
    "said, change, told",
    [
        (Resized(grown=("dept",)), {}, "no vocabulary 'dept'.*did you mean 'depth'"),
        (Resized(grown=("depth",)), {"depth": {"vocab_size": 20}}, "20 ids and had 24"),
        (Resized(grown=("rgb",)), {}, "rgb has FSQ levels"),
        (Resized(stretched=("depth",)), {}, "places of depth are not learned but computed"),
    ],
)
def test_what_cannot_be_resized_is_a_sentence(modalities, said, change, told):
    with pytest.raises(UserError, match=told):
        transplant(make_model(modalities), make_model(other_set(**change)), resized=said)


# ---- released models -----------------------------------------------------------------------------


@torch.no_grad()
def test_a_modality_is_added_to_a_released_model(tmp_path):
    old, folder = released_model(tmp_path)
    given = old.modalities.to_mapping()
    given["modalities"]["heat"] = {
        "kind": "grid",
        "raw": {"type": "array", "size": 16},
        "vocab_size": 50,
        "grid": [4, 4],
    }
    start = start_from(folder, ModalitySet.from_mapping(given), {}, 0)
    assert start.moved is not None
    assert {p.name for p in start.moved.parts if p.fate == "fresh"} == {"heat"}
    kept = transplant(start.model, again := FourM(old.config, old.modalities))
    assert {p.fate for p in kept.parts} == {"kept", "left out"}
    ours = again.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in old.state_dict().items())


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, told",
    [
        (["init=runs/nothing-here"], "init: runs/nothing-here is no folder"),
        (["init=./nothing"], "init: no model folder"),
        (["init=''"], "warm_start needs init"),
        (["warm_start.grown=[depths]"], "no vocabulary 'depths'"),
        (["warm_start.steps=-1"], "steps"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(base, tmp_path, capfd, monkeypatch, given, told):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", str(base), *warm(base, tmp_path / "run"), *given])
    assert ended.value.code == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and re.search(told, error)


def test_nothing_in_common_nothing_new_and_another_tokenizer_are_refused(base, tmp_path):
    start = newest_checkpoint(base.parent / "run" / "checkpoints")
    heat = {"kind": "grid", "raw": {"type": "array", "size": 16}, "vocab_size": 9, "grid": [4, 4]}
    with pytest.raises(UserError, match="no modality in common"):
        start_from(start, ModalitySet.from_mapping({"modalities": {"heat": heat}}), {}, 0)
    same = [f"modalities={base.parent / 'fewer.yaml'}"]
    with pytest.raises(UserError, match="nothing in the model is new"):
        run(base, tmp_path / "same", *same)
    copied = tmp_path / "start"
    shutil.copytree(start, copied)
    (copied / "vocabularies.json").write_text(json.dumps({"text": "one"}))
    config = load(PretrainConfig, base, warm(base, tmp_path / "other"))
    now = ModalitySet.load(config.modalities)
    with pytest.raises(UserError, match=r"tokenizer of text is not.*retrained=\[text\]"):
        start_from(copied, now, {"text": "two"}, 0, config.warm_start)
    assert config.warm_start is not None
    agreed = dataclasses.replace(config.warm_start, retrained=("text",))
    moved = start_from(copied, now, {"text": "two"}, 0, agreed).moved
    assert moved is not None and "text" in {p.name for p in moved.parts if p.fate == "fresh"}
    assert load_model(start).config.dim == 16
