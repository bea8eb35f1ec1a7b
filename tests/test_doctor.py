"""What is estimated before a run is what it takes: operations to the last one, memory to a third;
and every run tells its speed.
"""

import json
import re
from dataclasses import replace

import pytest
import torch
import yaml
from accelerate import Accelerator
from conftest import make_model
from worlds import write_project

from fourm.cli import main
from fourm.config import load
from fourm.doctor.estimate import estimate
from fourm.doctor.machine import examine
from fourm.doctor.needs import activation_bytes, needs
from fourm.encoder import Latent
from fourm.flops import flops, training_flops
from fourm.modalities import ModalitySet
from fourm.model import FourM, ModelConfig
from fourm.training.device import known_peak, peak_flops
from fourm.training.optimizers import build_optimizers
from fourm.training.pretrain import PretrainConfig, PretrainTask, pretrain

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("world"), steps=7, log_every=3)


@pytest.fixture(scope="module")
def task(project) -> PretrainTask:
    config = load(PretrainConfig, project)
    return PretrainTask(config, ModalitySet.load(config.modalities))


@pytest.fixture
def without_data(project, tmp_path):
    """The same config where no data is yet."""
    config = yaml.safe_load(project.read_text())
    config["data"] = {"sources": [{"tokens": "nowhere/tokens", "raw": "nowhere/raw"}]}
    path = tmp_path / "pretrain.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


# ---- operations and memory -----------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [{}, {"encoder": Latent(num_tokens=4, iterations=1)}])
def test_operations_of_a_batch_are_the_sum_of_its_samples(task, encoder):
    config = make_model(task.modalities, **encoder).config
    batch = task.batches(0, 1)[3][0]
    e, d = batch.encoder, batch.decoder
    total, start = 0, 0
    is_sequence = [m.kind == "sequence" for m in task.modalities]
    kinds = e.kinds.tolist()
    vocab_sizes = [m.vocab_size for m in task.modalities]
    row = 0
    for sample, length in enumerate(e.lengths.tolist()):
        words = sum(is_sequence[kind] for kind in kinds[start : start + length])
        start += length
        targets = d.segment_lengths[d.segment_sample == sample].tolist()
        heads = []
        for number in targets:
            heads.append(vocab_sizes[int(d.modality[row])])
            row += number
        total += flops(config, length - words, words, tuple(targets), tuple(heads)).total
    assert training_flops(config, task.modalities, batch) == 3 * total


def test_memory_is_what_the_optimizer_holds_and_about_what_the_forward_pass_keeps(task):
    config, modalities = task.config, task.modalities
    model_config = ModelConfig(dim=64, encoder_depth=4, decoder_depth=4, num_heads=2)
    batches = task.batches(0, 1)[0]
    wanted = needs(model_config, config.loop, modalities, batches)
    model = FourM(model_config, modalities)
    assert wanted.parameters == sum(p.numel() for p in model.parameters())
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(batches[0]).sums.sum()
    loss.backward()
    assert sum(kept.values()) == pytest.approx(wanted.activations, rel=0.35)
    optimizers = build_optimizers(model, config.loop.optimizer)
    for optimizer in optimizers:
        optimizer.step()
    moments = [s for o in optimizers for of in o.state.values() for s in of.values()]
    assert sum(t.nbytes for t in moments if t.ndim) == wanted.optimizer


def test_half_precision_and_recomputation_keep_less(task):
    c, loop = ModelConfig(dim=64, encoder_depth=4, decoder_depth=4), task.config.loop
    batch = task.batches(0, 1)[0][0]
    ways = (loop, replace(loop, precision="bf16"), replace(loop, activation_checkpointing=True))
    plain, *less = (activation_bytes(c, way, task.modalities, batch) for way in ways)
    assert all(kept < 0.7 * plain for kept in less)


# ---- the verb ------------------------------------------------------------------------------------


def test_the_machine_is_told_with_reasons(capsys):
    found = {check.name.strip(): check for check in examine()}
    assert {"device", "threads", "precision", "attention", "compile", "torch"} <= set(found)
    if not torch.cuda.is_available():
        assert found["attention"].found == "sdpa" and "cpu" in found["varlen"].why
    main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert {check["name"] for check in told["machine"]} >= {"device", "torch"}


def test_a_config_is_tried_on_its_data_or_on_random_tokens(project, without_data, capsys):
    for path, made_up in ((project, False), (without_data, True)):
        main(["doctor", str(path), "--seconds", "1", "--json"])
        found = json.loads(capsys.readouterr().out)["estimate"]
        assert found["on_made_up_data"] == made_up
        assert found["tried_batch"] == 8 and found["speed"]["units"] > 0
        assert found["hours"] == pytest.approx(found["step_seconds"] * 7 / 3600)
    assert not (project.parent / "run").exists()
    main(["doctor", str(without_data), "--seconds", "1"])
    assert re.search(r"the run .* s a step, 7 steps: .* hours", capsys.readouterr().out)


def test_what_does_not_fit_is_counted_and_not_tried(without_data):
    huge = ["model.dim=16384", "model.encoder_depth=64", "model.num_heads=128"]
    found = estimate(load(PretrainConfig, without_data, huge), 1.0)
    assert found.speed is None and found.hours is None and "GiB are needed" in found.why_not
    assert found.needs.parameters > 10**11
    assert any("not tried" in line for line in found.lines())


@pytest.mark.parametrize(
    "words, told",
    [
        (["nowhere.yaml"], "no config file nowhere.yaml"),
        (["CONFIG", "loop.stepz=3"], "unknown key 'stepz'"),
        (["CONFIG", "--seconds", "0"], "--seconds"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_measured(project, words, told, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", *(str(project) if word == "CONFIG" else word for word in words)])
    out, errors = capfd.readouterr()
    assert stopped.value.code == 2 and told in errors and not out


# ---- speed in every run --------------------------------------------------------------------------


def test_the_last_step_of_every_line_tells_the_speed_of_all(project, tmp_path):
    pretrain(load(PretrainConfig, project, [f"out={tmp_path}"]))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    told = [line for line in lines if "step_seconds" in line]
    assert [line["step"] for line in told] == [3, 6, 7]
    for line in told:
        assert line["step_seconds"] > 0 and line["tokens_per_second"] > 0
        assert 0 <= line["data_wait"] <= 1 and line["memory_gib"] > 0.01
        assert 0 < line["mfu"] < 1


@pytest.mark.filterwarnings("ignore:.log_with")  # it need not be installed here
def test_a_tracker_gets_what_the_log_has(project, tmp_path, monkeypatch):
    tracked = []
    monkeypatch.setattr(Accelerator, "init_trackers", lambda *_: None)
    monkeypatch.setattr(Accelerator, "log", lambda _, figures, step: tracked.append(figures))
    pretrain(load(PretrainConfig, project, [f"out={tmp_path}", "loop.tracker=tensorboard"]))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert tracked == [line for line in lines if "mfu" in line]


def test_peaks_are_known_by_the_names_that_gpus_give_themselves():
    peaks = {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H200": 989e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA L4": 121e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA GeForce RTX 4090": 165.2e12,
    }
    for name, peak in peaks.items():
        assert known_peak(name, "bf16") == peak
    assert known_peak("NVIDIA H100 80GB HBM3", "no") == 67e12
    assert known_peak("Tesla K80", "bf16") is None
    assert peak_flops(CPU, "bf16") is None and peak_flops(CPU, "no") > 1e9
