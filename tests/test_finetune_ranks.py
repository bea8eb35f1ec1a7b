"""Heads learn on several ranks what they learn on one: the same global batch, the same curve to
rounding, one who judges and writes.
"""

import json

import pytest
import torch
import yaml
from demo_labels import write_scenes
from ranks import run_ranks
from worlds import curve

from fourm.config import load
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.run import finetune
from fourm.model.model import load_model
from fourm.resources import demo_model_folder

LOOP = {"steps": 4, "batch_size": 4, "num_workers": 0, "threads": 1, "log_every": 1}
WAYS = {
    "all": ["learns=all"],
    "head": ["learns=head"],
    "adapters": ["lora.rank=2", "lora.targets=all"],
    "an inner layer": ["head={type: attentive, layers: [0]}"],
}


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A fine-tuning from the picture alone: no id is looked up, so tables get no row."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 16, 8)
    given = {
        "out": "",
        "init": str(demo_model_folder()),
        "data": str(root),
        "target": f"{root}/labels.csv:count",
        "head": {"type": "attentive"},
        "loop": LOOP,
    }
    (root / "run.yaml").write_text(yaml.safe_dump(given))
    return root / "run.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_give_a_heads_curve_of_one_to_rounding(described, tmp_path, way):
    words = {name: [*WAYS[way], f"out={tmp_path / name}"] for name in ("one", "two")}
    alone = finetune(load(FinetuneConfig, described, words["one"]))
    run_ranks(2, described, *words["two"], verb="finetune", timeout=300)
    one, two = (curve(tmp_path / name) for name in words)
    assert [step for step, _ in one] == [step for step, _ in two] == [1, 2, 3, 4]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-4)
    assert len({loss for _, loss in one}) == len(one)
    judged = json.loads((tmp_path / "two" / "done.json").read_text())
    assert alone is not None and judged["figures"]["loss"] == pytest.approx(
        alone.figures["loss"], rel=1e-3
    )
    first, second = (load_model(tmp_path / name / "model").state_dict() for name in words)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4, msg=name)
