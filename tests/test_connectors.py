"""Connectors of cached latents (Alt-MoE): sparse experts are all experts computed, padding changes
nothing, every schedule learns.
"""

import pytest
import torch
from latent_worlds import settings, world

from fourm.alignment.align import AlignTask, align, load_aligner
from fourm.alignment.aligner import AlignConfig
from fourm.alignment.connectors import CONTRAST, ConnectorConfig, Experts, dense_reference
from fourm.config import from_mapping, to_mapping


@pytest.mark.parametrize("renormalize", [True, False])
def test_sparse_experts_equal_all_experts_computed(renormalize):
    torch.manual_seed(0)
    experts = Experts(
        ConnectorConfig(hidden=8, num_experts=5, top_k=2, dropout=0.0, renormalize=renormalize)
    )
    rows = torch.randn(20, 8)
    moved = experts(rows)
    assert torch.allclose(moved.rows, dense_reference(experts, rows), atol=1e-6)
    assert moved.use.sum() == 40 and moved.balance > 0
    even = Experts(ConnectorConfig(hidden=8, num_experts=5, top_k=5, dropout=0.0))
    torch.nn.init.zeros_(even.gate.weight)
    assert float(even(rows).balance.detach()) == pytest.approx(1.0)


def test_padding_of_token_latents_changes_nothing(tmp_path):
    config = settings(
        tmp_path,
        world(tmp_path),
        connect={"kind": "experts", "hidden": 16, "num_experts": 4, "top_k": 2, "dim_out": 8},
    )
    shared = AlignTask(config).model().eval().shared
    tokens = torch.randn(3, 5, 24)
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    together = shared.embed(tokens, ("image", "text"), CONTRAST, mask).rows
    for i, n in enumerate((5, 2, 3)):
        alone = shared.embed(tokens[i : i + 1, :n], ("image", "text"), CONTRAST).rows
        assert torch.allclose(together[i], alone[0], atol=1e-5)


@pytest.mark.parametrize("schedule", ["joint", "round_robin", "weighted", "adaptive"])
def test_a_shared_connector_learns_with_every_schedule(tmp_path, schedule):
    tasks = {"schedule": schedule, "regression": 0.5, "weights": {"image>text": 2.0}}
    connect = {
        "kind": "experts",
        "hidden": 32,
        "num_experts": 4,
        "top_k": 2,
        "dim_out": 16,
        "dropout": 0.0,
        "balance": 0.01,
    }
    config = settings(tmp_path, world(tmp_path), tasks=tasks, connect=connect)
    steps = 40 if schedule == "joint" else 240
    figures = align(
        from_mapping(
            AlignConfig,
            {**to_mapping(config), "loop": {**to_mapping(config)["loop"], "steps": steps}},
            "x",
        )
    )
    assert figures["R@1"] > 0.3  # chance 0.05
    model = load_aligner(tmp_path / "run")
    if schedule == "round_robin":
        assert [model.active(i)[0] for i in range(6)] == model.config.directions
    if schedule == "adaptive":
        assert not torch.allclose(model.recalls, torch.full_like(model.recalls, 0.5))
        model.recalls.fill_(1.0)
        model.recalls[2] = 0.0
        drawn = [model.active(i)[0] for i in range(200)]
        assert drawn.count(model.config.directions[2]) > 120
