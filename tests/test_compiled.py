"""Blocks compiled each for itself: the same losses and gradients, one graph for each kind of block
whatever the lengths, and a sentence where there is no compiler.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokens
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from fourm.model.attention import Backend
from fourm.model.blocks import Block
from fourm.training.compiled import compile_blocks

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MACHINES = {
    "on a CPU": (Backend("sdpa", on_cpu=True), CPU),
    "padded": (Backend("sdpa", on_cpu=False), CUDA),
    "varlen": (Backend("varlen", on_cpu=False), CUDA),
}
CASES = [("on a CPU", False), ("padded", False), ("varlen", True)]


@pytest.fixture
def traced(monkeypatch):
    """``torch.compile`` up to the code that it would write: what is traced is what counts here."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr("fourm.training.compiled.missing_for_compiling", lambda device: "")
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(("case", "checkpointed"), CASES)
def test_compiled_blocks_equal_eager_ones_over_20_ragged_batches_without_a_new_graph(
    case, checkpointed, modalities, masker, varlen_on_cpu, traced
):
    backend, device = MACHINES[case]
    eager, compiled = make_model(modalities), make_model(modalities)
    compile_blocks(compiled, device)
    if checkpointed:
        for module in compiled.modules():
            if isinstance(module, Block):
                module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    prepare = replace(eager.preparation(), backend=backend)
    eager.preparation = compiled.preparation = lambda: prepare
    graphs = []
    for i in range(20):
        draws = np.arange(6 * i, 6 * i + 6)
        batch = prepare(masker(make_tokens(modalities, 6, seed=i), draws))
        found = [model(batch).sums for model in (eager, compiled)]
        assert torch.allclose(*found, rtol=1e-5)
        for model, sums in zip((eager, compiled), found, strict=True):
            model.zero_grad()
            sums.sum().backward()
        for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    if device == CUDA:
        assert graphs[-1] == 2 and not counters["graph_break"], "encoder's and decoder's blocks"
    assert graphs[3] == graphs[-1]


def test_without_a_compiler_blocks_stay_as_they_are_and_it_is_said(modalities, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = make_model(modalities)
    compile_blocks(model, CPU)
    assert "a C++ compiler (no-such-compiler) is missing" in caplog.text
    assert not any("forward" in vars(module) for module in model.modules())
