"""A step that is not finite changes nothing, is never saved, and is blamed by its own samples, read
at once or a step later; and the host waits for nothing in a step.
"""

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from conftest import make_model
from host_syncs import HostSyncs
from torch import nn
from worlds import curve, write_project

from fourm.config import load
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.model.roles import matrix, state_roles
from fourm.training import loop as loop_module
from fourm.training.checkpoints import list_checkpoints, read_checkpoint
from fourm.training.feed import StepBatches
from fourm.training.finite import FiniteCheck
from fourm.training.loop import Loop
from fourm.training.optimizers import OptimizerConfig, build_optimizers
from fourm.training.pretrain import PretrainConfig, PretrainTask, build_model, pretrain
from fourm.training.state import TrainingState

BROKEN = 12
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHORT = ["loop.steps=24", "loop.checkpoint_every=15", "loop.log_every=20"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"))


@pytest.fixture
def reads_late(monkeypatch):
    """As on a GPU: the host sees a step's verdict when the next one has been made."""
    monkeypatch.setattr(loop_module, "FiniteCheck", lambda a, late: FiniteCheck(a, late=True))


@pytest.fixture
def break_step(monkeypatch):
    """Make the loss of step 12 no number, in its last micro-batch, once; or its gradient alone."""

    def breaks(of_gradient: bool = False) -> None:
        forward, calls = PretrainTask.forward, Calls()

        def broken(task: PretrainTask, model, batch):
            sums = forward(task, model, batch)
            if calls.is_last_of(BROKEN, task.config.loop.micro_batches):
                return _Infinite.apply(sums) if of_gradient else sums * torch.nan
            return sums

        monkeypatch.setattr(PretrainTask, "forward", broken)

    return breaks


class Calls:
    """Counts the forward passes of training."""

    def __init__(self) -> None:
        self.num = 0

    def is_last_of(self, step: int, micro_batches: int) -> bool:
        self.num += 1
        return self.num == step * micro_batches


class _Infinite(torch.autograd.Function):
    """Passes values through; their gradient is infinite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        return torch.full_like(grads[0], torch.inf)


def train(project: Path, out: Path, *overrides: str) -> None:
    pretrain(load(PretrainConfig, project, [f"out={out}", *SHORT, *overrides]))


def samples_of(project: Path, step: int, micro_batches: int) -> list[list[int]]:
    """What a run learns from at a step (from 1)."""
    config = load(PretrainConfig, project, [*SHORT, f"loop.micro_batches={micro_batches}"])
    task = PretrainTask(config, ModalitySet.load(config.modalities))
    return [batch.samples.tolist() for batch in task.batches(0, 1)[step - 1]]


def assert_blamed(project: Path, out: Path, micro_batches: int, of_gradient: bool = False) -> None:
    """Step 12 with its samples, its last micro-batch alone if the loss tells."""
    listed = json.loads((out / "broken_step.json").read_text())
    assert listed["step"] == BROKEN
    assert [b["samples"] for b in listed["batches"]] == samples_of(project, BROKEN, micro_batches)
    broken = [bool(batch["not_finite"]) for batch in listed["batches"]]
    assert broken == [False] * (micro_batches - 1) + [not of_gradient]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("of_gradient", [False, True])
def test_read_late_nothing_broken_is_saved_and_its_samples_are_blamed(
    project, tmp_path, reads_late, break_step, optimizer, micro_batches, of_gradient
):
    break_step(of_gradient=of_gradient)
    name, micro = f"loop.optimizer.name={optimizer}", f"loop.micro_batches={micro_batches}"
    with pytest.raises(UserError, match="step 12 is not finite"):
        train(project, tmp_path, name, micro)
    assert not list_checkpoints(tmp_path / "checkpoints")
    assert_blamed(project, tmp_path, micro_batches, of_gradient)


def test_the_verdict_is_read_before_a_save_and_before_a_line_of_the_log(
    project, tmp_path, reads_late, break_step
):
    for key in ("checkpoint_every", "log_every"):
        out = tmp_path / key
        break_step()
        with pytest.raises(UserError, match="step 12 is not finite"):
            train(project, out, "loop.checkpoint_every=11", f"loop.{key}=12")
        saved = [path.name for path in list_checkpoints(out / "checkpoints")]
        assert saved == ([] if key == "checkpoint_every" else ["step_00000011"])
        assert not (out / "log.jsonl").exists()


def test_the_last_step_is_judged_too(project, tmp_path, reads_late, break_step):
    break_step()
    with pytest.raises(UserError, match="step 12 is not finite"):
        train(project, tmp_path, "loop.steps=12")
    assert not list_checkpoints(tmp_path / "checkpoints")


def test_a_run_goes_on_from_before_the_broken_step_as_if_it_had_not_been(
    project, tmp_path, reads_late, break_step
):
    train(project, tmp_path / "whole", "loop.steps=14", "loop.log_every=1")
    break_step()
    with pytest.raises(UserError):
        train(project, tmp_path / "cut", "loop.steps=14", "loop.checkpoint_every=11")
    train(project, tmp_path / "cut", "loop.steps=14", "loop.log_every=1")
    assert curve(tmp_path / "cut")[-3:] == curve(tmp_path / "whole")[-3:]
    last = [list_checkpoints(tmp_path / n / "checkpoints")[-1] for n in ("whole", "cut")]
    (whole, _), (cut, _) = map(read_checkpoint, last)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def state_of(state: TrainingState) -> dict[str, torch.Tensor]:
    weights, others = state.tensors()
    return {name: t.clone() for name, t in (weights | others).items()}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_broken_update_leaves_weights_moments_and_average_bit_for_bit(modalities, name):
    model = make_model(modalities, encoder_depth=1)
    config = OptimizerConfig(name=name)
    state = TrainingState(model, build_optimizers(model, config), 0.9)

    def update(gradient: float, broken: float | None) -> None:
        for p in model.parameters():
            p.grad = torch.randn_like(p) * gradient
        state.update(None if broken is None else torch.tensor(broken))

    update(1.0, None)
    before = state_of(state)
    update(torch.nan, 1.0)
    after = state_of(state)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    update(1.0, 0.0)  # and goes on
    assert not torch.equal(state_of(state)["tokens.table"], after["tokens.table"])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_sound_update_is_the_same_whether_it_was_judged_or_not(name):
    torch.manual_seed(0)
    found = []
    for broken in (None, torch.tensor(0.0)):
        layer = nn.Linear(8, 8)
        state_roles(layer, weight=matrix())
        nn.init.eye_(layer.weight)
        nn.init.ones_(layer.bias)
        state = TrainingState(layer, build_optimizers(layer, OptimizerConfig(name=name)), 0.9)
        for step in range(3):
            for p in layer.parameters():
                p.grad = torch.linspace(-1, 1 + step, p.numel()).reshape(p.shape)
            state.update(broken)
        found.append(state_of(state))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-6, atol=1e-7)


def of_two(rank: int, port: int, project: Path, out: Path) -> None:
    """One of two ranks; the second one's loss breaks."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "1",
    }
    forward, calls = PretrainTask.forward, Calls()

    def broken(task: PretrainTask, model, batch):
        sums = forward(task, model, batch)
        return sums * torch.nan if calls.is_last_of(BROKEN, 1) and rank == 1 else sums

    PretrainTask.forward = broken  # type: ignore[method-assign]
    loop_module.FiniteCheck = lambda a, late: FiniteCheck(a, late=True)  # type: ignore[assignment, misc]
    try:
        train(project, out)
    except UserError as error:
        (out / f"told-{rank}").write_text(str(error))


@pytest.mark.slow
def test_of_two_ranks_where_one_breaks_both_stop_and_its_samples_are_among_the_blamed(
    project, tmp_path
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    arguments = [(rank, port, project, tmp_path) for rank in range(2)]
    ranks = [context.Process(target=of_two, args=given) for given in arguments]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    for rank in range(2):
        assert "step 12 is not finite" in (tmp_path / f"told-{rank}").read_text()
    listed = json.loads((tmp_path / "broken_step.json").read_text())
    assert [batch["rank"] for batch in listed["batches"]] == [0, 1]
    assert [bool(batch["not_finite"]) for batch in listed["batches"]] == [False, True]
    named = [i for batch in listed["batches"] for i in batch["samples"]]
    assert named == samples_of(project, BROKEN, 1)[0]
    assert not list_checkpoints(tmp_path / "checkpoints")


def second_step(project: Path, out: Path, optimizer: str) -> tuple[Loop, StepBatches]:
    """A run that has made one step, and the batches of the next."""
    named = [f"out={out}", f"loop.optimizer.name={optimizer}", "loop.micro_batches=2"]
    config = load(PretrainConfig, project, named)
    modalities = ModalitySet.load(config.modalities)
    loop = Loop(
        build_model(config, modalities).model, PretrainTask(config, modalities), config.loop, out
    )
    steps = loop._batches()
    loop._train_step(next(steps))  # what is made once is made here
    loop.state.step += 1
    return loop, next(steps)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_host_waits_for_nothing_in_a_step(project, tmp_path, reads_late, optimizer):
    """The model's own forward pass is not counted here: its layouts have a test of their own."""
    loop, given = second_step(project, tmp_path, optimizer)
    with HostSyncs() as syncs:
        loop._train_step(given)
    ours = [sync for sync in syncs.found if sync.where.startswith("fourm/training/")]
    assert not ours, syncs
    assert not [sync for sync in syncs.found if sync.where == "the backward pass"], syncs


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_on_a_gpu_no_operation_of_a_step_waits(project, tmp_path, optimizer):
    loop, given = second_step(project, tmp_path, optimizer)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop._train_step(given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_on_a_gpu_a_broken_step_is_blamed_a_step_later(project, tmp_path, break_step, optimizer):
    break_step()
    with pytest.raises(UserError, match="step 12 is not finite"):
        train(project, tmp_path, f"loop.optimizer.name={optimizer}")
    assert not list_checkpoints(tmp_path / "checkpoints")
    assert_blamed(project, tmp_path, 1)
