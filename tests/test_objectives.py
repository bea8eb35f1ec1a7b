"""Objectives: each scores what its definition says, with gradients, in one piece or in chunks."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import make_tokens

from fourm.config import from_mapping, to_mapping
from fourm.errors import UserError
from fourm.model.loss import linear_cross_entropy
from fourm.model.objectives import CrossEntropy, Objective, Targets, ZLoss


@pytest.mark.parametrize("chunk_logits", [1 << 20, 44])
def test_z_loss_adds_the_squared_log_partition_with_its_gradient(chunk_logits):
    torch.manual_seed(0)
    rows = torch.randn(7, 5, requires_grad=True)
    weight = torch.randn(11, 5, requires_grad=True)
    ids = torch.randint(0, 11, (7,))
    logits = rows @ weight.T
    plain = -logits.log_softmax(-1)[torch.arange(7), ids].sum()
    wanted = plain + 0.3 * logits.logsumexp(-1).square().sum()
    expected = torch.autograd.grad(wanted, (rows, weight))
    found = linear_cross_entropy(rows, weight, ids, 0.3, chunk_logits)
    assert torch.allclose(found, wanted, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(found, (rows, weight)), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_model_is_scored_by_the_objective_it_is_given(model, modalities, masker):
    batch = masker(make_tokens(modalities, 4), np.arange(4))
    with torch.no_grad():
        plain, named = model(batch).sums, model(batch, CrossEntropy()).sums
        more = model(batch, ZLoss(weight=0.1)).sums
    assert torch.equal(plain, named)
    present = torch.tensor(batch.decoder.counts) > 0
    assert (more[present] > plain[present]).all()


@dataclass(frozen=True)
class Scored:
    by: Objective


class Halved(CrossEntropy):
    """An objective of one's own."""

    def __call__(self, targets: Targets) -> torch.Tensor:
        return super().__call__(targets) / 2


def test_an_objective_is_chosen_in_a_config_also_from_elsewhere(model, modalities, masker):
    chosen = from_mapping(Scored, {"by": {"type": "z_loss", "weight": 1e-3}}, "config").by
    assert chosen == ZLoss(weight=1e-3) and to_mapping(chosen)["type"] == "z_loss"
    own = from_mapping(Scored, {"by": f"{Halved.__module__}:Halved"}, "config").by
    batch = masker(make_tokens(modalities, 4), np.arange(4))
    with torch.no_grad():
        assert torch.allclose(model(batch, own).sums, model(batch).sums / 2)
    with pytest.raises(UserError, match="positive weight"):
        from_mapping(ZLoss, {"weight": 0}, "objective")
