"""Fine-tuning: heads and the decoder learn what they are asked, only what may learn does, a killed
run goes on as if nothing was, and what is written answers as what was judged. The model is the
demo's own.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from demo_labels import write_scenes
from PIL import Image
from worlds import MODALITIES, write_project

from fourm.cli import main
from fourm.config import from_mapping, load
from fourm.data.shards import DamageReport
from fourm.evaluation.held_out import Shards
from fourm.files.weights import load_weights
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.goals import ClassGoal
from fourm.finetune.run import finetune
from fourm.finetune.samples import drawn_keys, stream_of
from fourm.finetune.saved import SavedHead, TunedPipeline, seen_inputs
from fourm.finetune.tuned import ENCODER, build_tuned
from fourm.model.model import load_model
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.resources import demo_model_folder
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.layer_decay import rate_shares
from fourm.training.optimizers import OptimizerConfig, build_optimizers
from fourm.training.pretrain import PretrainConfig, pretrain

MODEL = demo_model_folder()
LOOP = {"steps": 4, "batch_size": 4, "num_workers": 0, "threads": 1, "log_every": 2}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 40, 16)
    return root


@pytest.fixture(scope="module")
def pipe():
    return AnyToAnyPipeline.from_pretrained(MODEL)


def config(scenes, out, **changes):
    """A small fine-tuning to shapes; ``loop`` changes its own."""
    given = {
        "out": str(out),
        "init": str(MODEL),
        "data": str(scenes),
        "target": f"{scenes}/labels.csv:shape",
        "head": "attentive",
        **changes,
    }
    given["loop"] = {**LOOP, **changes.get("loop", {})}
    return from_mapping(FinetuneConfig, given, "test")


def weights_of(folder):
    return load_model(folder).state_dict()


# ---- what is learned -----------------------------------------------------------------------------


def test_a_plain_label_is_learned_from_few_samples_and_told_beside_the_commonest(scenes, tmp_path):
    given = {"inputs": ["caption"], "target": f"{scenes}/labels.csv:count", "labels": 32}
    loop = {"steps": 40, "optimizer": {"lr": 2e-3}}
    judged = finetune(config(scenes, tmp_path / "run", **given, loop=loop))
    assert judged is not None and judged.num_train == 32 and judged.num_held_out == 16
    assert judged.figures["accuracy"] > 0.9 > judged.baseline["accuracy"]
    told = json.loads((tmp_path / "run" / "done.json").read_text())
    assert told["figures"] == judged.figures and told["step"] == 40
    assert "constant" in judged.text() and "accuracy" in judged.text()


def test_numbers_are_learned_and_told_beside_their_mean(scenes, tmp_path):
    given = {"inputs": ["boxes"], "target": f"{scenes}/labels.csv:x,count", "numbers": True}
    loop = {"steps": 120, "optimizer": {"lr": 2e-3}}
    judged = finetune(config(scenes, tmp_path / "run", **given, loop=loop))
    assert judged is not None
    figures, mean = judged.figures, judged.baseline
    assert list(figures) == ["loss", "mae", "r2", "mae x", "mae count"]
    assert figures["r2"] > 0.4 and abs(mean["r2"]) < 0.2 and figures["mae"] < mean["mae"]
    tuned = TunedPipeline.from_pretrained(tmp_path / "run" / "model")
    box = {"box": [0.1, 0.4, 0.3, 0.6], "label": "red cube"}
    (answer,) = tuned({"boxes": [box]})
    assert len(answer) == 2 and all(isinstance(number, float) for number in answer)


@pytest.mark.parametrize("target", ["semseg", "depth"])
def test_maps_are_learned_from_raw_shards_and_judged_by_their_raw_type(scenes, tmp_path, target):
    judged = finetune(config(scenes, tmp_path, target=target, head="dense", loop={"steps": 40}))
    assert judged is not None
    assert Image.open(tmp_path / "held_out.png").size == (3 * 132 - 4, 6 * 132 - 4)
    figure = {"semseg": "accuracy", "depth": "delta1"}[target]
    assert judged.figures[figure] > judged.baseline[figure]
    # the baseline is the raw type's own, of what was learned from
    tuned = TunedPipeline.from_pretrained(tmp_path / "model")
    known = tuned.pipe.modalities
    columns = (
        Shards.find(scenes, "val").raw_of(known[target]),
        Shards.find(scenes, "val").raw_of(known["rgb"]),
    )
    keys = {f"00000/{i:08d}" for i in range(16)}
    truth, pictures = (column.read(keys, DamageReport()) for column in columns)
    order = sorted(truth)
    answers = tuned({"rgb": [pictures[key] for key in order]})
    figures = known[target].raw.figures(np.stack(answers), np.stack([truth[k] for k in order]))
    for name, value in figures.items():
        assert judged.figures[name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize("how", ["all", "head", "adapters"])
def test_only_what_may_learn_does_and_what_is_written_is_that(scenes, tmp_path, how):
    changes = {"adapters": {"lora": {"rank": 2}}}.get(how, {"learns": how})
    judged = finetune(config(scenes, tmp_path, **changes, loop={"optimizer": {"lr": 1e-2}}))
    before, after = weights_of(MODEL), weights_of(tmp_path / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert judged is not None
    if how == "head":
        assert not changed and judged.learning == 0
    elif how == "adapters":
        assert changed and all(re.search(r"^encoder\..*(qkv|proj)", name) for name in changed)
        assert judged.learning < 0.02 * judged.of
    else:
        assert changed and all(name.startswith(ENCODER) for name in changed)
        assert judged.learning == judged.of
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["started_from_weights"] and provenance["steps"] == 4
    assert provenance["held_out"] == {}  # nothing that was told of the model it began with
    card = (tmp_path / "model" / "README.md").read_text()
    assert ("do not generate with it" in card) == (how != "head") and "accuracy" in card


def test_all_of_the_encoder_gets_a_gradient_and_nothing_else_could(pipe, scenes):
    """Of what a stream has no rows of, a table's rows stay; every parameter is reached."""
    given = config(scenes, "nowhere", inputs=["rgb", "caption"])
    inputs = seen_inputs(pipe.modalities, given.inputs)
    model = load_model(MODEL)
    tuned = build_tuned(model, ClassGoal(classes=("a", "b")), inputs, given)
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    stream = stream_of(pipe, {"pixels": [rgb], "caption": ["a red cube"]})
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    tuned.rows(stream).vectors.square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {n for n, _ in model.named_parameters() if n.startswith(ENCODER)}


def test_adapters_alone_on_their_base_answer_as_the_merged_model_does(scenes, tmp_path, pipe):
    given = {"lora": {"rank": 2}, "head": {"type": "linear", "layers": [0, -1]}}
    finetune(config(scenes, tmp_path, **given, loop={"optimizer": {"lr": 1e-2}}))
    assert not (tmp_path / "adapters" / "model.safetensors").exists()
    rgb = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    merged, adapted = (
        TunedPipeline.from_pretrained(tmp_path / name) for name in ("model", "adapters")
    )
    first = merged.outputs({"rgb": rgb})
    np.testing.assert_allclose(first, adapted.outputs({"rgb": rgb}), atol=1e-5)
    # as trained: adapters beside the weights, not in them
    saved = SavedHead.read(tmp_path / "model")
    trained = build_tuned(
        load_model(MODEL),
        saved.goal,
        seen_inputs(pipe.modalities, ("rgb",)),
        config(scenes, tmp_path, **given),
    )
    load_weights(trained, tmp_path / "checkpoints" / "step_00000004")
    unmerged = TunedPipeline(pipe, trained, saved).outputs({"rgb": rgb})
    np.testing.assert_allclose(first, unmerged, atol=1e-4)
    assert np.abs(first - first[::-1]).max() > 1e-3  # and they depend on the picture


def test_a_model_that_was_fine_tuned_is_a_model_to_all_others(scenes, tmp_path, capsys):
    finetune(config(scenes, tmp_path / "run"))
    words = ["features", str(tmp_path / "run" / "model"), str(scenes)]
    main([*words, "--out", str(tmp_path / "features"), "--samples", "4"])
    assert "4 samples" in capsys.readouterr().out


# ---- runs ----------------------------------------------------------------------------------------


def test_a_run_that_was_cut_short_goes_on_bit_for_bit(scenes, tmp_path):
    run = config(scenes, tmp_path / "a", loop={"checkpoint_every": 2, "ema": 0.9})
    whole = finetune(run)
    (tmp_path / "b").mkdir()
    shutil.copytree(
        tmp_path / "a" / "checkpoints" / "step_00000002",
        tmp_path / "b" / "checkpoints" / "step_00000002",
    )
    resumed = finetune(replace(run, out=str(tmp_path / "b")))
    assert whole is not None and resumed is not None and whole.figures == resumed.figures
    first, second = (weights_of(tmp_path / name / "model") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fewer_labels_are_among_more_and_without_a_number_all_are_used(scenes):
    keys = [str(i) for i in range(50)]
    few, many = (set(drawn_keys(keys, config(scenes, "x", labels=labels))) for labels in (5, 20))
    assert few < many and len(few) == 5 and len(many) == 20
    assert drawn_keys(keys, config(scenes, "x")) == keys


def test_random_weights_are_the_same_network_and_a_function_of_the_seed(scenes, tmp_path):
    for name in "ab":
        finetune(config(scenes, tmp_path / name, weights="fresh", loop={"steps": 1}))
    first, second = (weights_of(tmp_path / name / "model") for name in "ab")
    trained = weights_of(MODEL)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {n: t.shape for n, t in first.items()} == {n: t.shape for n, t in trained.items()}
    assert not torch.allclose(
        first["encoder.0.mlp.fc_in.weight"], trained["encoder.0.mlp.fc_in.weight"]
    )


# ---- layer-wise decay ----------------------------------------------------------------------------


def test_each_layer_learns_at_a_share_of_the_next_ones_rate():
    model = load_model(MODEL)
    shares = rate_shares(model, 0.5)
    num = len(model.encoder_blocks) + len(model.decoder_blocks)
    assert shares["encoder.0.mlp.fc_in.weight"] == 0.5**num
    assert shares["encoder.1.mlp.fc_in.weight"] == 0.5 ** (num - 1)
    assert shares["tokens.table"] == 0.5 ** (num + 1)
    assert shares["heads.table"] == 1.0
    rates = {
        id(p): group["lr"]
        for optimizer in build_optimizers(model, OptimizerConfig(name="muon", layer_decay=0.5))
        for group in optimizer.param_groups
        for p in group["params"]
    }
    named = dict(model.named_parameters())
    first, second = (rates[id(named[f"encoder.{i}.mlp.fc_in.weight"])] for i in (0, 1))
    assert second == pytest.approx(2 * first)
    assert rates[id(named["heads.table"])] == OptimizerConfig().lr


def test_without_decay_groups_are_what_they_were():
    model = load_model(MODEL)
    plain = build_optimizers(model, OptimizerConfig(name="muon"))
    assert [len(optimizer.param_groups) for optimizer in plain] == [2, 1]


# ---- the model's own decoder ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_target_that_the_model_does_not_know_is_learned_by_its_decoder(tmp_path):
    run = write_project(tmp_path, steps=2)
    for name, wanted in (("fewer", ("rgb", "pixels")), ("more", ("rgb", "pixels", "depth"))):
        members = {m: MODALITIES["modalities"][m] for m in wanted}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"modalities": members}))
    words = [f"modalities={tmp_path / 'fewer.yaml'}", f"out={tmp_path / 'base'}"]
    pretrain(load(PretrainConfig, run, words))
    base = newest_checkpoint(tmp_path / "base" / "checkpoints")
    given = {
        "out": str(tmp_path / "tuned"),
        "init": str(base),
        "data": str(tmp_path),
        "target": "depth",
        "head": None,
        "learns": "head",
        "labels": 16,
        "modalities": str(tmp_path / "more.yaml"),
        "eval_samples": 4,
        "loop": {**LOOP, "steps": 3},
    }
    judged = finetune(from_mapping(FinetuneConfig, given, "test"))
    assert judged is not None and judged.num_train == 16 and 0 < judged.learning < judged.of
    assert judged.figures["cross_entropy"] > 0
    before, after = weights_of(base), weights_of(tmp_path / "tuned" / "model")
    name = "encoder.0.mlp.fc_in.weight"
    assert torch.equal(before[name], after[name])  # what it knew learned nothing
    assert len(after["heads.table"]) > len(before["heads.table"])


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["heed=linear"], "unknown key 'heed'.*head"),
        (["head=linaer"], "head 'linaer' is not one of attentive, dense, linear.*linear"),
        (["head.layers=[9]"], "no layer 9: the encoder has 3"),
        (["inputs=[rbg]"], "unknown modality 'rbg'.*rgb"),
        (["target={scenes}/labels.csv:shap"], "no column 'shap'.*shape"),
        (["target=nowhere.csv:shape"], "no table nowhere.csv"),
        (["target=depth"], "pictures, no classes"),
        (["target=depth", "head=dense", "inputs=[depth]"], "target and an input"),
        (["target=rgb", "head=dense", "inputs=[pixels]"], "both made of raw rgb"),
        (["target=caption", "head=dense"], "no maps"),
        (["target=depth", "head=dense", "inputs=[caption]"], "needs an input with a grid"),
        (["labels=41"], "known of 40 samples of train: labels=41 are too many"),
        (["split=tarin"], "no split 'tarin'"),
        (["init=nowhere"], "no model folder nowhere"),
        (["data=nowhere"], "no folder nowhere"),
        (["weights=fresh", "lora.rank=2"], "lora needs trained weights"),
        (["learns=head", "lora.rank=2"], "choose one"),
        (["lora.targets=[qvk]"], "no layer is called 'qvk'.*qkv"),
        (["lora.targets=[context]"], "no layers of the encoder"),
        (["loop.optimizer.layer_decay=1.5"], "layer_decay must be above 0 and at most 1"),
        (["loop.batch_size=5", "loop.micro_batches=2"], "not a multiple"),
        (["target=depth", "head=null"], "has no shards of"),
        (["numbers=true"], "column shape: '(cube|sphere|cone|cylinder)' is no number"),
        (["numbers=true", "target={scenes}/labels.csv:x,z"], "no column 'z'"),
        (["numbers=true", "target=caption"], "caption are of type text"),
        (["numbers=true", "target=depth", "head=dense"], "needs a head of whole samples"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(scenes, tmp_path, capfd, given, message):
    described = {
        "out": str(tmp_path / "run"),
        "init": str(MODEL),
        "data": str(scenes),
        "target": f"{scenes}/labels.csv:shape",
        "head": {"type": "attentive"},
        "loop": LOOP,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(described))
    words = [text.format(scenes=scenes) for text in given]
    with pytest.raises(SystemExit) as ended:
        main(["finetune", str(tmp_path / "run.yaml"), *words])
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and error.startswith("error: ") and re.search(message, error)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_other_settings_do_not_go_on_with_a_run_and_a_folder_without_a_head_is_named(
    scenes, tmp_path
):
    run = config(scenes, tmp_path / "run", loop={"steps": 1})
    finetune(run)
    with pytest.raises(ValueError, match="was trained with learns all, the config says head"):
        finetune(replace(run, learns="head"))
    with pytest.raises(ValueError, match=r"no head\.json"):
        TunedPipeline.from_pretrained(MODEL)
    with pytest.raises(ValueError, match="rgb is not given"):
        TunedPipeline.from_pretrained(tmp_path / "run" / "model")({"caption": "a red cube"})


def test_every_shipped_fine_tuning_loads():
    paths = sorted((Path(__file__).parents[1] / "configs" / "finetune").glob("*.yaml"))
    assert len(paths) >= 2
    for path in paths:
        found = load(FinetuneConfig, path)
        assert "# Command:" in path.read_text() and found.loop.steps > 0
