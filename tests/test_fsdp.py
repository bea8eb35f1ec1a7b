"""Sharded over the ranks (FSDP2): the parameters are shards, the curve is that of one process, with
everything a run has; it goes on with any number of ranks.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from ranks import run_ranks, start_ranks
from worlds import curve, write_project

from fourm import FourM
from fourm.config import load
from fourm.training import loop as loop_module
from fourm.training.checkpoints import list_checkpoints, read_checkpoint
from fourm.training.compiled import missing_for_compiling
from fourm.training.pretrain import PretrainConfig, PretrainTask, pretrain

STEPS = 7
SHORT = (f"loop.steps={STEPS}", "loop.checkpoint_every=3")
SHARDED = "loop.sharding=all"
no_compiler = pytest.mark.skipif(
    bool(missing_for_compiling(torch.device("cpu"))), reason="needs a compiler"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def alone(project) -> Path:
    """One process, nothing sharded."""
    out = project.parent / "alone"
    pretrain(load(PretrainConfig, project, [*SHORT, f"out={out}"]))
    return out


def note_shards() -> None:
    """Write what each rank holds beside the run when it begins."""
    begin = loop_module.Loop.run

    def run(loop):
        found = {}
        for name, p in loop.state.model.named_parameters():
            places = [str(place) for place in getattr(p, "placements", ["whole"])]
            held = p.to_local().numel() if places != ["whole"] else p.numel()
            found[name] = [places, held, p.numel()]
        rank = os.environ["RANK"]
        loop.out.mkdir(parents=True, exist_ok=True)
        (loop.out / f"shards-{rank}.json").write_text(json.dumps(found))
        return begin(loop)

    loop_module.Loop.run = run


def shards(out: Path, num: int) -> list[dict]:
    return [json.loads((out / f"shards-{rank}.json").read_text()) for rank in range(num)]


def assert_same(out: Path, wanted: Path, tolerance: float = 1e-5) -> None:
    """The same curve and the same held-out losses, to rounding."""
    found, curve_wanted = curve(out), curve(wanted)
    assert [step for step, _ in found] == [step for step, _ in curve_wanted]
    pairs = zip(found, curve_wanted, strict=True)
    assert max(abs(a - b) for (_, a), (_, b) in pairs) < tolerance
    ends = [json.loads((folder / "done.json").read_text()) for folder in (out, wanted)]
    assert abs(ends[0]["loss"] - ends[1]["loss"]) < tolerance


def test_every_parameter_is_a_shard_and_the_curve_is_that_of_one_process(project, alone, tmp_path):
    """Muon, an average, an evaluation with it, checkpoints on the way."""
    run_ranks(2, project, *SHORT, SHARDED, f"out={tmp_path}", prepare=note_shards)
    for name, (places, _, whole) in shards(tmp_path, 2)[0].items():
        held = [of_rank[name][1] for of_rank in shards(tmp_path, 2)]
        assert places == ["S(0)"] and sum(held) == whole and max(held) < whole, name
    assert_same(tmp_path, alone)


def test_accelerate_s_own_flag_shards_too(project, alone, tmp_path):
    """``accelerate launch --use_fsdp``: on CPUs Accelerate itself would quietly use DDP."""
    flags = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    run_ranks(2, project, *SHORT, f"out={tmp_path}", prepare=note_shards, **flags)
    assert all(places == ["S(0)"] for places, _, _ in shards(tmp_path, 2)[0].values())
    assert_same(tmp_path, alone)


def test_a_setting_of_the_launcher_that_is_not_followed_is_refused(project, tmp_path):
    flags = {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}
    group = start_ranks(2, project, f"out={tmp_path}", **flags)
    assert group.end() == [2, 2]
    assert all("fsdp_offload_params is not followed" in told for told in group.told)


@pytest.mark.parametrize(
    "options",
    [
        ("loop.micro_batches=2",),
        ("loop.activation_checkpointing=true",),
        ("loop.optimizer.name=adamw", "loop.activation_checkpointing=true", "loop.ema=0"),
    ],
    ids=["micro-batches", "checkpointing", "adamw"],
)
def test_sharded_with_what_a_run_has_the_curve_stays(project, tmp_path, options):
    pretrain(load(PretrainConfig, project, [*SHORT, *options, f"out={tmp_path / 'alone'}"]))
    run_ranks(2, project, *SHORT, SHARDED, *options, f"out={tmp_path / 'two'}")
    assert_same(tmp_path / "two", tmp_path / "alone", 1e-4)


@no_compiler
@pytest.mark.slow
def test_sharded_and_compiled_the_curve_is_that_of_one_process_that_does_not_compile(
    project, alone, tmp_path
):
    run_ranks(2, project, *SHORT, SHARDED, "loop.compile=true", f"out={tmp_path}", timeout=400)
    assert_same(tmp_path, alone, 1e-3)


def test_bf16_blocks_are_gathered_in_half_precision_and_learn_the_same(project, tmp_path):
    half = [*SHORT, "loop.precision=bf16"]
    run_ranks(1, project, *half, f"out={tmp_path / 'alone'}")
    run_ranks(2, project, *half, SHARDED, f"out={tmp_path / 'two'}")
    assert_same(tmp_path / "two", tmp_path / "alone", 2e-2)


@pytest.mark.slow
def test_of_four_ranks_two_machines_have_a_copy_each(project, alone, tmp_path):
    """HSDP: sharded within a machine of two, the same on both."""
    node = "loop.sharding=node"
    run_ranks(4, project, *SHORT, node, f"out={tmp_path}", prepare=note_shards, per_machine=2)
    for name, (places, held, _) in shards(tmp_path, 4)[0].items():
        assert places == ["R", "S(0)"], name
        assert shards(tmp_path, 4)[2][name][1] == held
    assert_same(tmp_path, alone)
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert len(list(newest.glob("model-*-of-00002.safetensors"))) == 2


def test_two_ranks_then_four_then_one_give_the_same_curve(project, alone, tmp_path):
    out = f"out={tmp_path}"
    run_ranks(2, project, "loop.steps=3", SHARDED, out)
    run_ranks(4, project, "loop.steps=5", SHARDED, out)
    pretrain(load(PretrainConfig, project, [*SHORT, out]))
    assert_same(tmp_path, alone, 1e-4)


def test_one_process_then_two_sharded_ranks_give_the_same_curve(project, alone, tmp_path):
    pretrain(load(PretrainConfig, project, ["loop.steps=4", f"out={tmp_path}"]))
    run_ranks(2, project, *SHORT, SHARDED, f"out={tmp_path}")
    assert_same(tmp_path, alone, 1e-4)


def test_a_sharded_checkpoint_is_a_model_folder(project, alone, tmp_path):
    run_ranks(2, project, *SHORT, SHARDED, f"out={tmp_path}")
    path = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert not (path / "model.safetensors").exists()
    sharded = FourM.from_pretrained(path)
    whole = FourM.from_pretrained(list_checkpoints(alone / "checkpoints")[-1])
    for (name, a), b in zip(sharded.state_dict().items(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    sharded.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    mine, theirs = (
        read_checkpoint(list_checkpoints(folder / "checkpoints")[-1])[0]
        for folder in (tmp_path, alone)
    )
    assert {n: t.shape for n, t in mine.items()} == {n: t.shape for n, t in theirs.items()}


def break_the_second_rank() -> None:
    forward = PretrainTask.forward
    calls = []

    def broken(task, model, batch):
        calls.append(0)
        sums = forward(task, model, batch)
        return sums * torch.nan if len(calls) == 5 and os.environ["RANK"] == "1" else sums

    PretrainTask.forward = broken  # type: ignore[method-assign]


def test_sharded_a_step_that_is_not_finite_stops_all_ranks_and_is_not_saved(
    project, alone, tmp_path
):
    group = start_ranks(
        2, project, *SHORT, SHARDED, f"out={tmp_path}", prepare=break_the_second_rank
    )
    assert group.end() == [2, 2]
    assert all("step 5 is not finite" in told for told in group.told)
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == ["step_00000003"]
    run_ranks(2, project, *SHORT, SHARDED, f"out={tmp_path}")
    assert_same(tmp_path, alone, 1e-4)


def reads_late() -> None:
    """As on a GPU: optimizers are handed the verdict, the host reads it a step later."""
    check = loop_module.FiniteCheck
    loop_module.FiniteCheck = lambda accelerator, late: check(accelerator, late=True)  # type: ignore[assignment, misc]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_sharded_optimizers_take_the_verdict_of_the_device(project, alone, tmp_path, name):
    options = [*SHORT, f"loop.optimizer.name={name}"]
    if name != "muon":  # the project's own
        alone = tmp_path / "alone"
        pretrain(load(PretrainConfig, project, [*options, f"out={alone}"]))
    run_ranks(2, project, *options, SHARDED, f"out={tmp_path / 'two'}", prepare=reads_late)
    assert_same(tmp_path / "two", alone, 1e-4)


def note_memory() -> None:
    """Write how many numbers of parameters a rank has in memory when a model has been made."""
    from fourm.training import pretrain as module

    build = module.build_model

    def built(*args, **options):
        start = build(*args, **options)
        held = sum(p.numel() for p in start.model.parameters() if not p.is_meta)
        (Path(os.environ["NOTE"]) / f"held-{os.environ['RANK']}").write_text(str(held))
        return start

    module.build_model = built


def test_only_the_first_rank_makes_the_weights(project, tmp_path):
    short = ("loop.steps=1", SHARDED, f"out={tmp_path / 'run'}")
    run_ranks(2, project, *short, prepare=note_memory, NOTE=str(tmp_path))
    held = [int((tmp_path / f"held-{rank}").read_text()) for rank in range(2)]
    assert held[0] > 0 and held[1] == 0
