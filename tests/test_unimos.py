"""UniMoS: adaptation to an unlabelled domain is better than its prompts, and no target label is
ever seen before the report.
"""

import numpy as np
import pytest
import torch
from latent_worlds import ABOUT, adaptation, domains

from fourm.alignment.adapt import accuracy, adapt
from fourm.alignment.adapt_task import AdaptTask
from fourm.alignment.domains import choose_labelled
from fourm.alignment.latents import write_latents
from fourm.alignment.unimos import AdaptConfig
from fourm.alignment.unimos_losses import information
from fourm.config import from_mapping


def test_adaptation_beats_the_zero_shot_prompts_and_reports_by_labels_it_never_saw(tmp_path):
    places = domains(tmp_path)
    figures = adapt(adaptation(tmp_path, places))
    assert set(figures) == {"information", "agreement with zero-shot"}
    found = accuracy(tmp_path / "run", places["labels"])
    assert found["accuracy"] > found["zero_shot"] and found["samples"] == 120
    task = AdaptTask(adaptation(tmp_path, places))
    assert (task.target.labels == -1).all() and len(task.source.keys) == 20
    # a run that was killed while it saved leaves this: it is no checkpoint
    (tmp_path / "run" / "checkpoints" / "step_99999999.partial123").mkdir()
    assert accuracy(tmp_path / "run", places["labels"]) == found


def test_no_setting_selects_by_the_target_s_labels():
    with pytest.raises(ValueError, match="'accuracy' is not one of last, information"):
        from_mapping(
            AdaptConfig,
            {
                "out": "x",
                "source": "a",
                "target": "b",
                "prompts": "c",
                "labels": "d",
                "select": "accuracy",
                "loop": {"steps": 1, "batch_size": 1},
            },
            "x",
        )


def test_the_second_phase_moves_the_separators_alone(tmp_path):
    task = AdaptTask(adaptation(tmp_path, domains(tmp_path)))
    model = task.model().train()
    batch = task.batches(0, 1)[1][0]
    task.forward(model, batch).sum().backward()
    moved = {
        name.split(".")[0]
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    assert moved == {"vision", "language"}


def test_information_is_largest_for_sure_and_even_opinions():
    even = torch.eye(4).repeat(5, 1)
    assert information(even) > information(torch.full((20, 4), 0.25)) and information(
        even
    ) > information(torch.eye(4)[[0] * 20])
    assert choose_labelled(np.array([0, 0, 0, 1, -1, 1]), 2, 0).size == 4


def test_domains_that_share_samples_or_spaces_that_differ_are_refused(tmp_path):
    places = domains(tmp_path)
    with pytest.raises(ValueError, match="are in the source and in the target"):
        AdaptTask(adaptation(tmp_path, {**places, "target": places["source"]}))
    write_latents(
        tmp_path / "wide", np.zeros((4, 9), np.float32), [f"c{i}" for i in range(4)], **ABOUT
    )
    with pytest.raises(ValueError, match="of different spaces: 16, 16, 9"):
        AdaptTask(adaptation(tmp_path, {**places, "prompts": str(tmp_path / "wide")}))
