"""Distillation: the loss is the one of the definition, a JAR student starts where its teacher is,
and learns from it.
"""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokens
from worlds import write_project

from fourm.config import load
from fourm.model.encoder import Latent
from fourm.model.loss import soft_cross_entropy
from fourm.model.objectives import CrossEntropy
from fourm.training.distill import DistillConfig, Teacher
from fourm.training.pretrain import PretrainConfig, pretrain


def test_the_soft_loss_and_its_gradients_are_those_of_the_definition_in_any_chunks():
    torch.manual_seed(0)
    rows, weight = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    taught, teacher = torch.randn(7, 3), torch.randn(11, 3)
    wanted = -((taught @ teacher.T).softmax(-1) * (rows @ weight.T).log_softmax(-1)).sum()
    expected = torch.autograd.grad(wanted, (rows, weight))
    for chunk in (11, 25, 1 << 20):
        loss = soft_cross_entropy(rows, weight, taught, teacher, chunk)
        assert torch.allclose(loss, wanted, atol=1e-5)
        for a, b in zip(torch.autograd.grad(loss, (rows, weight)), expected, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_a_student_like_its_teacher_has_the_smallest_soft_loss(modalities, masker, tmp_path):
    teacher_model = make_model(modalities, encoder_depth=2)
    teacher_model.save_pretrained(tmp_path)
    teacher = Teacher(DistillConfig(teacher=str(tmp_path), share=1.0), modalities)
    batch = masker(make_tokens(modalities, 6), np.arange(6))
    twin, other = make_model(modalities, encoder_depth=2), make_model(modalities, encoder_depth=2)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    assert teacher.start(twin) == []
    objective = teacher.objective(CrossEntropy(), batch)
    with torch.no_grad():
        assert twin(batch, objective).sums.sum() < other(batch, objective).sums.sum()
        fused = make_model(
            modalities, encoder_depth=2, encoder=Latent(num_tokens=64, context="latents+stem")
        )
        fresh = teacher.start(fused)
    assert fresh and all(name.startswith("latents.") for name in fresh)


@pytest.mark.slow
def test_a_jar_student_is_trained_from_a_plain_checkpoint(tmp_path, capfd):
    project = write_project(tmp_path)
    pretrain(load(PretrainConfig, project, []))
    teacher = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    settings = [
        f"out={tmp_path / 'student'}",
        f"distill.teacher={teacher}",
        "model.fusion.num_tokens=8",
        "loop.steps=6",
    ]
    figures = pretrain(load(PretrainConfig, project, settings))
    assert np.isfinite(figures["loss"])
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        load(PretrainConfig, project, [*settings, "distill.share=2"])
