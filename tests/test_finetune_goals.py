"""What a fine-tuning learns towards: losses and figures of labels, maps and numbers."""

import json

import numpy as np
import pytest
import torch
from worlds import MODALITIES

from fourm.data.shards import shard_path, write_shard
from fourm.evaluation.metrics import class_figures
from fourm.finetune.goals import ClassGoal, MapGoal, NumbersGoal
from fourm.finetune.numbers import numbers_of
from fourm.modalities import ModalitySet
from fourm.raw.depth import Depth
from fourm.raw.labels import Labels
from fourm.resources import demo_model_folder

MODEL = demo_model_folder()
LOOP = {"steps": 4, "batch_size": 4, "num_workers": 0, "threads": 1, "log_every": 2}


def test_pixels_without_a_class_count_in_no_loss_and_no_figure():
    goal = MapGoal(raw=Labels(size=4, classes=("a", "b", "c"), ignore=255))
    truth = np.zeros((2, 4, 4), np.uint8)
    truth[0, 0] = 255
    wanted = goal.wanted(list(truth))
    outputs = torch.zeros(2, 3, 4, 4)
    assert goal.count(wanted) == 28
    assert float(goal.loss(outputs, wanted)) == pytest.approx(28 * np.log(3), rel=1e-5)
    outputs[:, 1] = 1.0
    assert goal.figures(goal.answers(outputs.numpy()), list(truth))["accuracy"] == 0.0
    assert goal.figures([np.zeros((4, 4), np.uint8)] * 2, list(truth)) == class_figures(
        np.zeros((2, 4, 4)), np.where(truth == 255, 0, truth), 3
    )


def test_numbers_go_through_the_raw_types_own_form_and_back():
    goal = MapGoal(raw=Depth(size=4, range=(2.0, 10.0)))
    depth = np.linspace(2, 10, 16, dtype=np.float32).reshape(1, 4, 4)
    wanted = goal.wanted(list(depth))
    assert wanted.shape == (1, 1, 4, 4) and goal.count(wanted) == 16
    np.testing.assert_allclose(goal.answers(wanted.numpy())[0], depth[0], atol=1e-5)
    assert float(goal.loss(wanted, wanted)) == 0.0


def test_numbers_are_judged_as_scikit_learn_does_and_a_mean_explains_nothing():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth = (rng.normal(size=(20, 2)) * (3, 0.1) + (100, 0)).tolist()
    goal = NumbersGoal.of(("a", "b"), truth)
    wanted = goal.wanted(truth)
    assert wanted.mean(0).abs().max() < 1e-4 and goal.count(wanted) == 20
    np.testing.assert_allclose(goal.answers(wanted.numpy()), truth, atol=1e-4)
    said = (np.array(truth) + rng.normal(size=(20, 2)) * (1, 0.05)).tolist()
    figures = goal.figures(said, truth)
    assert figures["mae"] == pytest.approx(metrics.mean_absolute_error(truth, said))
    assert figures["r2"] == pytest.approx(metrics.r2_score(truth, said))
    each = metrics.mean_absolute_error(truth, said, multioutput="raw_values")
    assert [figures["mae a"], figures["mae b"]] == pytest.approx(list(each))
    assert goal.figures([goal.constant(truth)] * 20, truth)["r2"] == pytest.approx(0)
    # the loss is what R2 is made of
    loss = goal.loss(goal.wanted(said), wanted) / 20
    assert 1 - float(loss) == pytest.approx(figures["r2"], abs=1e-5)


def test_lists_of_numbers_are_a_target_and_others_are_named(tmp_path):
    numbers = ModalitySet.from_mapping(
        {
            "tokenizers": MODALITIES["tokenizers"],
            "modalities": {
                "place": {
                    "kind": "sequence",
                    "raw": {"type": "numbers"},
                    "tokenizer": "text",
                    "max_tokens": 8,
                },
                "caption": MODALITIES["modalities"]["caption"],
            },
        },
        "test",
    )
    values = [("0", [0.1, 0.9]), ("1", [0.3, 0.2])]
    path = shard_path(tmp_path / "raw", "train", "place", 0)
    path.parent.mkdir(parents=True)
    write_shard(path, ((key, "json", json.dumps(value).encode()) for key, value in values))
    known = numbers_of("place", numbers, tmp_path)
    assert known.of(["00000/1", "00000/2"], "train") == [[0.3, 0.2], None]
    assert known.names(2) == ("place[0]", "place[1]") and known.names(1) == ("place",)
    with pytest.raises(ValueError, match="caption are of type text"):
        numbers_of("caption", numbers, tmp_path)
    with pytest.raises(ValueError, match="samples have 1 to 2 numbers"):
        NumbersGoal.of(("a",), [[1.0], [1.0, 2.0]])


def test_a_class_that_training_never_showed_is_wrong_and_breaks_nothing():
    goal = ClassGoal(classes=("cube", "cone"))
    wanted = goal.wanted(["cube", "ball"])
    assert goal.count(wanted) == 1.0
    assert goal.figures(["cube", "cube"], ["cube", "ball"])["accuracy"] == 0.5
