"""Adapters: only they and what is new are trained; saved as peft saves them, merged they compute
the same, and a run goes on to the same bits.
"""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ALL_TO_ALL, make_model, make_tokens
from ranks import run_ranks
from safetensors.torch import load_file
from test_fsdp import note_shards, shards
from test_warm_start import weights
from worlds import curve, write_project_without_depth

from fourm.batches.masking import Masker
from fourm.cli import main
from fourm.config import load
from fourm.errors import UserError
from fourm.model.model import FourM, load_model
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.lora import LoraConfig, add_adapters
from fourm.training.pretrain import PretrainConfig, PretrainTask, pretrain

peft = pytest.importorskip("peft")


def adapted(base, out, *more: str) -> list[str]:
    """Overrides of a run that trains adapters of the model without depth, and depth."""
    start = newest_checkpoint(base.parent / "run" / "checkpoints")
    given = [f"out={out}", f"init={start}", "lora.rank=2", "lora.targets=all", "loop.steps=5"]
    return [*given, "loop.checkpoint_every=1", "loop.keep_checkpoints=9", *more]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    config, fewer = write_project_without_depth(tmp_path_factory.mktemp("base"))
    pretrain(load(PretrainConfig, config, [f"modalities={fewer}"]))
    return config


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapted") / "run"
    pretrain(load(PretrainConfig, base, adapted(base, out)))
    return out


def noisy(model: FourM) -> FourM:
    """Adapters that do something: they begin with no effect."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize("targets", ["attention", "mlp", "all", ("cross_attention.qkv",)])
@torch.no_grad()
def test_merged_and_unmerged_are_equal_to_rounding(modalities, targets):
    plain, model = make_model(modalities), make_model(modalities)
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        q.copy_(p.normal_(std=0.1))
    batch = Masker(modalities, ALL_TO_ALL, seed=1)(make_tokens(modalities, 6), np.arange(6))
    before = model(batch).sums
    add_adapters(model, LoraConfig(rank=2, targets=targets), "base", None, 0)
    assert torch.equal(model(batch).sums, before)  # adapters begin with no effect
    apart = noisy(model)(batch).sums
    assert (apart - before).abs().max() > 1e-2
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
    torch.testing.assert_close(model(batch).sums, apart, rtol=1e-5, atol=1e-4)


def test_a_fused_weight_has_the_rank_of_its_maps(modalities):
    model = make_model(modalities)
    add_adapters(model, LoraConfig(rank=2, alpha=6, targets="all"), "base", None, 0)
    block = model.decoder_blocks[0]
    ranks = {"qkv": 6, "proj": 2}
    for name, rank in ranks.items():
        layer = getattr(block.self_attention, name)
        assert layer.r["default"] == rank and layer.scaling["default"] == 3.0
    assert block.mlp.fc_in.r["default"] == 4 and block.mlp.fc_out.r["default"] == 2


def test_only_adapters_and_what_is_new_are_trained_and_stored(base, trained):
    folder = newest_checkpoint(trained / "checkpoints")
    start = newest_checkpoint(base.parent / "run" / "checkpoints")
    stored = load_file(folder / "model.safetensors")
    own = {name for name in stored if ".lora_" not in name}
    assert own == {"tokens.table", "heads.table", "modality", "decoder_modality"}
    state = load_file(folder / "training.safetensors")
    shapes = {tuple(v.shape) for n, v in state.items() if n.endswith("exp_avg")}
    assert shapes == {tuple(v.shape) for v in stored.values()}
    adapters = load_file(folder / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") for name in adapters)
    fresh = load_file(folder / "fresh.safetensors")
    assert sum(len(value) for value in fresh.values()) == 2 * 24 + 2
    old, new = load_model(start), load_model(folder)
    for table in ("tokens", "heads"):
        for name, (first, size) in getattr(old, table).vocabularies.items():
            at = getattr(new, table).vocabularies[name][0]
            kept = getattr(old, table).table[first : first + size]
            assert torch.equal(getattr(new, table).table[at : at + size], kept)
    assert torch.equal(old.encoder_norm.weight, new.encoder_norm.weight)
    moved = (new.encoder[0].mlp.fc_in.weight - old.encoder[0].mlp.fc_in.weight).abs().max()
    assert moved > 0


@torch.no_grad()
def test_a_folder_of_adapters_opens_as_any_model_and_as_the_one_that_was_trained(
    base,
    trained,
    tmp_path,
    capsys,
):
    folder = newest_checkpoint(trained / "checkpoints")
    model = FourM.from_pretrained(folder)
    assert not any(".lora_" in name for name in model.state_dict())
    assert all(p.requires_grad for p in model.parameters())
    main(["merge", str(folder), "--out", str(tmp_path / "merged")])
    again = FourM.from_pretrained(tmp_path / "merged")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    config = load(PretrainConfig, base, adapted(base, trained))
    figures = pretrain(config)  # nothing left to do: it is evaluated
    task = PretrainTask(config, model.modalities)
    assert task.evaluate(again.eval(), torch.device("cpu"))["loss"] == pytest.approx(
        figures["loss"], rel=1e-5
    )


def test_from_each_of_its_checkpoints_a_run_with_adapters_goes_on_to_the_same_bits(
    base,
    trained,
    tmp_path,
):
    for step in (1, 3):
        out = tmp_path / str(step)
        name = f"step_{step:08d}"
        shutil.copytree(trained / "checkpoints" / name, out / "checkpoints" / name)
        pretrain(load(PretrainConfig, base, adapted(base, out)))
        again, wanted = weights(out, 5), weights(trained, 5)
        assert all(torch.equal(again[key], value) for key, value in wanted.items())


def test_new_rows_may_learn_alone_before_the_adapters(base, tmp_path):
    given = adapted(base, tmp_path / "run", "warm_start.steps=2")
    pretrain(load(PretrainConfig, base, given))
    early, late = weights(tmp_path / "run", 2), weights(tmp_path / "run", 5)
    adapters = [name for name in early if ".lora_B." in name]
    assert not any(early[name].any() for name in adapters)
    assert all(late[name].any() for name in adapters)
    assert not torch.equal(early["heads.table"], weights(tmp_path / "run", 1)["heads.table"])
    assert np.isfinite([loss for _, loss in curve(tmp_path / "run")]).all()


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_two_sharded_ranks_train_adapters_as_one_process_does_and_go_on(
    base, trained, tmp_path, optimizer
):
    """The base model is sharded too; checkpoints hold what is trained alone."""
    out, name = tmp_path / "two", f"loop.optimizer.name={optimizer}"
    if optimizer != "muon":
        trained = tmp_path / "one"
        pretrain(load(PretrainConfig, base, adapted(base, trained, name)))
    given = adapted(base, out, "loop.sharding=all", name)[1:]
    run_ranks(2, base, f"out={out}", *given, "loop.steps=3")
    run_ranks(2, base, f"out={out}", *given, prepare=note_shards)
    assert all(places == ["S(0)"] for places, _, _ in shards(out, 2)[0].values())
    for (step, loss), (_, wanted) in zip(curve(out), curve(trained), strict=True):
        assert loss == pytest.approx(wanted, rel=1e-4), step
    sharded, whole = (
        load_model(newest_checkpoint(run / "checkpoints")).state_dict() for run in (out, trained)
    )
    for key, value in whole.items():
        torch.testing.assert_close(sharded[key], value, rtol=1e-3, atol=1e-5, msg=key)
    stored = [*(out / "checkpoints").glob("*5/model-*.safetensors")]
    assert stored and not any("fc_in.base" in key for path in stored for key in load_file(path))


@pytest.mark.parametrize(
    "given, told",
    [
        (["lora.rank=4"], r"was trained with lora rank 2.*the config says rank 4"),
        (["lora.targets=[fc_inn]", "out=X"], "no layer is called 'fc_inn'.*did you mean 'fc_in'"),
        (["lora.rank=0"], "rank must be at least 1"),
        (["init=''"], "lora needs init"),
        (["lora=null"], "the config says none"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    base,
    trained,
    tmp_path,
    capfd,
    given,
    told,
):
    given = [text.replace("out=X", f"out={tmp_path}") for text in given]
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", str(base), *adapted(base, trained), *given])
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and error.startswith("error: ") and re.search(told, error)


def test_without_peft_and_without_the_base_model_a_sentence_says_what_to_do(
    trained, tmp_path, monkeypatch
):
    folder = newest_checkpoint(trained / "checkpoints")
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    described = copied / "adapter_config.json"
    described.write_text(described.read_text().replace("step_00000002", "step_00000009"))
    with pytest.raises(UserError, match="base_model_name_or_path.*no model folder"):
        load_model(copied)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'fourm\[lora\]'"):
        load_model(folder)
