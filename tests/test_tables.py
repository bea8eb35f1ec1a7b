"""Tables that are looked up: their kept gradients are torch's, clipping inside the optimizers is
clipping before them, and updates of rows alone are AdamW's where all rows are looked up.
"""

import copy
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from conftest import make_model
from torch import Tensor, nn
from worlds import write_project

from fourm.config import load
from fourm.model.lookups import LookUps
from fourm.training.checkpoints import list_checkpoints, read_checkpoint
from fourm.training.gradients import Gradients
from fourm.training.optimizers import OptimizerConfig, build_optimizers, parameter_groups
from fourm.training.pretrain import PretrainConfig, pretrain
from fourm.training.row_adamw import RowAdamW
from fourm.training.state import TrainingState

RATE, BETAS = 1e-2, (0.9, 0.95)


def table_of(rows: int = 12) -> nn.Parameter:
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(rows, 8))


# ---- gradients that stay -------------------------------------------------------------------------


def test_a_kept_gradient_is_what_torch_would_have_made_at_every_step():
    kept, plain = table_of(), table_of()
    look_ups = LookUps()
    look_ups.keep(kept)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        first, second = torch.randint(12, (2, 9), generator=generator)
        for table, look_up in ((kept, look_ups), (plain, lambda t, rows: F.embedding(rows, t))):
            (look_up(table, first).sin().sum() + look_up(table, second).square().sum()).backward()
        torch.testing.assert_close(kept.grad, plain.grad)
        look_ups.forget(kept)
        plain.grad = None
        assert not kept.grad.any()  # type: ignore[union-attr]


def test_what_is_no_look_up_may_reach_any_row_and_all_are_zero_again():
    table, look_ups = table_of(), LookUps()
    look_ups.keep(table)
    look_ups.note_all()
    (look_ups(table, torch.tensor([1])).sum() + table.square().sum()).backward()
    look_ups.forget(table)
    assert not table.grad.any()  # type: ignore[union-attr]


def test_other_loops_find_gradients_as_torch_makes_them(modalities):
    model = make_model(modalities)
    table, rows = model.tokens.table, torch.tensor([0, 0, 1])
    model.tokens(rows, rows).sum().backward()
    assert table.grad is not None and table.grad.sum() == 3 * model.config.dim
    model.zero_grad()
    assert table.grad is None


def test_a_table_that_is_a_head_too_is_none_of_those_that_are_only_looked_up(modalities):
    assert make_model(modalities, tie_heads=True).tokens.look_ups is None
    model = make_model(modalities)
    assert model.tokens.look_ups is not None and model.heads.look_ups is None


# ---- clipping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("size", [1e-3, 10.0])
def test_clipping_inside_the_optimizers_is_clipping_before_them(modalities, name, size):
    config = OptimizerConfig(name=name)
    inside = make_model(modalities, encoder_depth=1)
    before = copy.deepcopy(inside)
    optimizers = build_optimizers(before, config)
    state = TrainingState(inside, build_optimizers(inside, config), 0.0)
    for step in range(3):
        torch.manual_seed(step)
        for p, q in zip(inside.parameters(), before.parameters(), strict=True):
            p.grad = torch.randn_like(p) * size
            q.grad = p.grad.clone()
        norm = state.gradients.norm()
        assert torch.equal(norm, nn.utils.clip_grad_norm_(before.parameters(), 1.0))
        state.update(None, state.gradients.clip(norm, 1.0))
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(inside.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("tables", ["dense", "rows"])
def test_a_broken_step_that_is_clipped_changes_nothing(modalities, tables):
    model = make_model(modalities, encoder_depth=1)
    config = OptimizerConfig(name="muon", tables=tables)
    state = TrainingState(model, build_optimizers(model, config), 0.9)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    norm = state.gradients.norm()
    state.update(torch.tensor(1.0), state.gradients.clip(norm, 1.0))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_no_limit_clips_nothing():
    layer = nn.Linear(2, 2)
    assert Gradients(layer).clip(torch.tensor(100.0), 0.0) is None


# ---- rows ----------------------------------------------------------------------------------------


class Rows:
    """A table whose rows are updated alone, and AdamW's way of it."""

    def __init__(self) -> None:
        self.table, self.dense, self.look_ups = table_of(), table_of(), LookUps()
        self.optimizer = RowAdamW({self.table: self.look_ups}, RATE, BETAS)
        self.adamw = torch.optim.AdamW([self.dense], RATE, BETAS, weight_decay=0.0)

    def step(self, rows: Tensor, seed: int) -> None:
        torch.manual_seed(seed)
        gradient = torch.zeros_like(self.table)
        gradient[rows] = torch.randn(len(rows), 8) + 0.3
        self.table.grad, self.dense.grad = gradient, gradient.clone()
        self.look_ups.note(rows)
        self.optimizer.step()
        self.adamw.step()
        self.look_ups.forget(self.table)


def test_where_all_rows_are_looked_up_rows_are_updated_as_adamw_updates_them():
    both = Rows()
    for seed in range(50):
        both.step(torch.arange(12), seed)
    torch.testing.assert_close(both.table, both.dense, rtol=1e-5, atol=1e-6)


def test_a_row_rests_until_it_is_looked_up_and_has_then_made_the_moves_that_it_missed():
    both = Rows()
    for seed in range(120):  # until the moments' corrections are near one
        both.step(torch.arange(12), seed)
    rested = both.table.detach().clone()
    others = torch.arange(6)
    for seed in range(30):
        both.step(others, 200 + seed)
    assert torch.equal(both.table[6:], rested[6:])
    assert not torch.equal(both.dense[6:], rested[6:])  # momentum goes on
    both.step(torch.arange(12), 300)
    torch.testing.assert_close(both.table, both.dense, rtol=0, atol=2e-4)
    moved = (both.dense - rested)[6:].abs().mean()
    assert moved > 20 * (both.table - both.dense)[6:].abs().max()
    moments, of_adamw = both.optimizer.state[both.table], both.adamw.state[both.dense]
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(moments[name], of_adamw[name], rtol=1e-4, atol=1e-7)


def test_rows_are_those_of_the_input_table_alone(modalities):
    model = make_model(modalities)
    groups = parameter_groups(model, OptimizerConfig(tables="rows"))
    by_rows = [group.names for group in groups if group.optimizer == "rows"]
    assert by_rows == [["tokens.table"]]
    tied = make_model(modalities, tie_heads=True)
    assert len(build_optimizers(tied, OptimizerConfig(tables="rows"))) == 1


@pytest.mark.parametrize("tables", ["dense", "rows"])
def test_a_run_that_was_cut_goes_on_bit_for_bit(tmp_path, tables):
    project = write_project(tmp_path)

    def train(out: Path) -> dict[str, Tensor]:
        options = [f"loop.optimizer.tables={tables}", "loop.steps=8", "loop.checkpoint_every=4"]
        pretrain(load(PretrainConfig, project, [f"out={out}", *options]))
        return read_checkpoint(list_checkpoints(out / "checkpoints")[-1])[0]

    whole = train(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step_00000008")
    cut = train(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert any(name.endswith(".updated") for name in whole) == (tables == "rows")


def of_two(rank: int, folder: Path) -> None:
    """One of two ranks: each looks up rows of its own, both have the sum of their gradients."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    table, look_ups = table_of(), LookUps()
    optimizer = RowAdamW({table: look_ups}, RATE, BETAS)
    for step in range(4):
        look_ups.note(torch.tensor([rank, 5, 6 + step]))
        table.grad = torch.zeros_like(table)
        table.grad[[0, 1, 5, 6 + step]] = 1.0 + step
        optimizer.step()
        look_ups.forget(table)
    torch.save(table.detach(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_update_the_rows_that_any_of_them_has_looked_up(tmp_path):
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=of_two, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    moved = (first != table_of().detach()).any(1)
    assert moved.nonzero()[:, 0].tolist() == [0, 1, 5, 6, 7, 8, 9]
