"""What is estimated before a run is what it takes: operations to the last one, memory to a seventh;
and every run tells its speed.
"""

import gc
import json
import re
from dataclasses import replace

import pytest
import torch
import yaml
from accelerate import Accelerator
from conftest import make_model
from remote_servers import http_server
from remote_worlds import write_world
from soak import write_config
from worlds import write_project

from fourm.batches.batch import MaskedBatch
from fourm.cli import main
from fourm.config import load
from fourm.doctor.activations import Rows, activation_bytes, logit_bytes
from fourm.doctor.estimate import Cluster, estimate
from fourm.doctor.machine import examine
from fourm.doctor.made_up import with_made_up_data
from fourm.doctor.needs import Ranks, Sizes
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.model.encoder import Latent
from fourm.model.flops import flops, training_flops
from fourm.model.model import FourM, ModelConfig
from fourm.training import run_log
from fourm.training.device import known_peak, peak_flops
from fourm.training.loop import _checkpoint_activations
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


PRESET = "configs/pretrain/4m_7_b.yaml"  # its masks, in a narrower network


@pytest.fixture(scope="module")
def preset(tmp_path_factory) -> tuple[PretrainConfig, ModalitySet, MaskedBatch]:
    """4M-7's config made narrow, and its first batch of made-up data."""
    small = ("model.dim=192", "model.num_heads=3", "model.encoder_depth=3", "model.decoder_depth=3")
    config = load(PretrainConfig, PRESET, [*small, "loop.batch_size=4"])
    modalities = ModalitySet.load(config.modalities)
    config = with_made_up_data(config, modalities, tmp_path_factory.mktemp("made_up"))
    return config, modalities, PretrainTask(config, modalities).batches(0, 1)[0][0]


def kept_bytes(model: FourM, batch: MaskedBatch, precision: str) -> int:
    """What a forward pass leaves behind for the backward pass: tensors that autograd saved, and
    those that recomputation starts from.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    own |= {t.untyped_storage().data_ptr() for t in alive()}
    saved: list[torch.UntypedStorage] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.untyped_storage())
        return tensor

    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), half:
        loss = model(batch).sums.sum()
    # tables have a place for their gradient by now, which is no activation
    tables = {p.untyped_storage().nbytes() for p in model.parameters()}
    left = [tensor.untyped_storage() for tensor in alive()]
    saved += [storage for storage in left if storage.nbytes() not in tables]
    assert loss.requires_grad
    return sum({s.data_ptr(): s.nbytes() for s in saved if s.data_ptr() not in own}.values())


def alive() -> list[torch.Tensor]:
    """Tensors with memory; tests before may have left some of a compiler's, which have none."""
    found = (t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter))
    return [t for t in found if isinstance(t.untyped_storage().nbytes(), int) and not t.is_meta]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_activations_are_what_the_forward_pass_keeps_within_15_percent(preset, precision):
    config, modalities, batch = preset
    c, rows = config.model, Rows.of(batch)
    for model_config in (c, replace(c, gated_mlp=False), replace(c, encoder_depth=6)):
        loop = replace(config.loop, precision=precision)
        sizes = Sizes(model_config, modalities)
        halves = 2 * sum(sizes.blocks) if precision == "bf16" else 0
        said = activation_bytes(model_config, loop, rows)
        said += logit_bytes(model_config, loop, modalities, rows) + halves
        kept = kept_bytes(FourM(model_config, modalities), batch, precision)
        assert said == pytest.approx(kept, rel=0.15)
        assert sizes.needs(loop, Ranks(), rows).copies == halves


def test_recomputing_keeps_the_rows_before_each_block_and_one_block(preset):
    config, modalities, batch = preset
    c, rows = replace(config.model, encoder_depth=8, decoder_depth=8), Rows.of(batch)
    loop = replace(config.loop, precision="no", activation_checkpointing=True)
    plain = replace(loop, activation_checkpointing=False)
    block = activation_bytes(c, plain, rows)
    block -= activation_bytes(replace(c, decoder_depth=7), plain, rows)
    said = activation_bytes(c, loop, rows) + logit_bytes(c, loop, modalities, rows)
    model = FourM(c, modalities)
    _checkpoint_activations(model)
    assert said - block == pytest.approx(kept_bytes(model, batch, "no"), rel=0.15)
    assert said < 0.5 * activation_bytes(c, plain, rows)


def test_all_tables_are_counted_and_each_way_of_training_them_has_its_moments(task):
    loop = task.config.loop
    sizes = Sizes(ModelConfig(dim=64), task.modalities)
    model = FourM(ModelConfig(dim=64), task.modalities)
    tables = [model.tokens.table, model.heads.table]
    assert sizes.tables >= sum(table.numel() for table in tables)
    rows = replace(loop, optimizer=replace(loop.optimizer, tables="rows"))
    assert sizes.moments(rows) == sizes.moments(loop)


def test_weights_and_moments_are_what_the_optimizers_hold(task):
    config, modalities = task.config, task.modalities
    model_config = ModelConfig(dim=64, encoder_depth=4, decoder_depth=4, num_heads=2)
    batch = task.batches(0, 1)[0][0]
    sizes = Sizes(model_config, modalities)
    wanted = sizes.needs(config.loop, Ranks(), Rows.of(batch))
    model = FourM(model_config, modalities)
    assert sizes.parameters == sum(p.numel() for p in model.parameters())
    assert wanted.weights == wanted.average == 4 * sizes.parameters
    model(batch).sums.sum().backward()
    optimizers = build_optimizers(model, config.loop.optimizer)
    for optimizer in optimizers:
        optimizer.step()
    moments = [s for o in optimizers for of in o.state.values() for s in of.values()]
    assert sum(t.nbytes for t in moments if t.ndim) == wanted.optimizer


# ---- plans for other machines --------------------------------------------------------------------


def test_shards_of_a_model_are_smaller_and_copies_are_counted(preset):
    config, modalities, batch = preset
    sizes, rows = Sizes(config.model, modalities), Rows.of(batch)
    ways = [Ranks(16), Ranks(16, "node"), Ranks(16, "all")]
    whole, machine, shared = (sizes.needs(config.loop, ranks, rows) for ranks in ways)
    for needs, share in ((machine, 8), (shared, 16)):
        assert needs.weights == whole.weights // share
        assert needs.optimizer == whole.optimizer // share
        assert needs.activations == whole.activations
    assert whole.copies == 4 * sizes.parameters + 2 * sum(sizes.blocks)  # buckets, half weights
    outside = sizes.parameters - sum(sizes.blocks)  # gathered with their gradients, as floats
    assert shared.copies == 8 * outside + 8 * 2 * max(sizes.blocks)


def told_of(capsys, *words: str) -> str:
    main(["doctor", *words])
    return capsys.readouterr().out


def test_the_largest_model_is_planned_in_no_time_and_told_what_fits(capsys):
    xl = "configs/pretrain/4m_21_xl.yaml"
    told = told_of(capsys, xl, "--ranks", "128", "--gpu", "A100 80GB")
    assert re.search("FSDP2  .* fits <- this config", told)
    assert "fits as it is" in told and "hours at an assumed 40% MFU on 128 x A100 80GB" in told
    assert "no shards in data/cc12m/tokens/train, data/cc12m/raw/train, data/coyo" in told
    assert (
        "runs/4m_7_xl/pretrain/checkpoints/step_00238419 is not there: fresh weights instead"
        in told
    )
    told = told_of(capsys, xl, "loop.sharding=none", "--ranks", "128", "--gpu", "80GB")
    assert re.search("DDP  .* does not fit <- this config", told) and "hours" not in told
    assert re.search("80GB +fits with .*loop.sharding=node", told)
    told = told_of(capsys, xl, "--ranks", "128", "--gpu", "24GB")
    assert re.search("24GB +fits with loop.activation_checkpointing=true", told)
    told = told_of(capsys, xl, "--gpu", "24GB")
    assert "does not fit even one sample at a time" in told


@pytest.mark.parametrize(
    "words, told",
    [
        (["--gpu", "H100"], "--gpu 'H100' is not a memory such as 80GB"),
        (["--gpu", "T1000 8GB"], "no peak is known of 'T1000'; give its memory alone"),
        (["--ranks", "3"], "batch_size 8192 is not a multiple of 3 ranks x 1 micro_batches"),
        (["--mfu", "0"], "--mfu"),
        (["loop.sharding=fsdp"], "'fsdp' is not one of none, all, node"),
        (["loop.micro_batches=3"], "batch_size 8192 is not a multiple of micro_batches 3"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", PRESET, *words])
    out, errors = capsys.readouterr()
    assert stopped.value.code == 2 and told in errors and errors.count("\n") == 1 and not out


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


def told_missing(config, *overrides):
    found = estimate(load(PretrainConfig, config, list(overrides)), 1.0, Cluster(2, "80GB"))
    return [line.split(maxsplit=1) for line in found.missing]


def test_data_on_a_server_is_data_that_is_there(tmp_path):
    pytest.importorskip("aiohttp")
    write_world(tmp_path / "world", 40, splits=("train", "val"))
    with http_server(tmp_path / "world") as server:
        config = write_config(tmp_path, [server.url], 2)
        assert told_missing(config, "adaptive=null") == []
        (tmp_path / "world" / "published.json").unlink()
        ((kind, told),) = told_missing(config, "adaptive=null")
    assert kind == "data" and "published.json is not there: run `fourm publish FOLDER`" in told


def test_a_start_that_is_on_the_hub_is_told_from_one_that_is_nowhere(
    project, tmp_path, monkeypatch
):
    pretrain(load(PretrainConfig, project, ["loop.steps=1", f"out={tmp_path}"]))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    here = {"me/here": str(checkpoint)}

    def snapshot(name, allow_patterns, local_files_only=False):
        assert local_files_only, "nothing is fetched"
        if name not in here:
            raise FileNotFoundError(name)
        return here[name]

    monkeypatch.setattr("fourm.records.hub.snapshot_download", snapshot)
    assert told_missing(project, "init=me/here") == []
    for name, told in (("me/there", "not fetched from the hub yet"), ("no/such/x", "not there")):
        ((kind, line),) = told_missing(project, f"init={name}", "warm_start.steps=2")
        assert kind == "init" and line == f"{name} is {told}: fresh weights instead"


def test_what_does_not_fit_is_counted_and_not_tried(without_data):
    huge = ["model.dim=16384", "model.encoder_depth=64", "model.num_heads=128"]
    found = estimate(load(PretrainConfig, without_data, huge), 1.0)
    assert found.speed is None and found.hours is None and "GiB are needed" in found.why_not
    assert found.parameters > 10**11
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


def test_a_tracker_that_is_not_installed_is_told_before_anything_runs(
    project, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_log, "get_available_trackers", lambda: [])
    for name, told in {
        "tensorboard": "needs tensorboard: pip install tensorboard",
        "comet_ml": "pip install comet-ml",
        "tensorbord": "there is no 'tensorbord'.*did you mean 'tensorboard'",
    }.items():
        with pytest.raises(UserError, match=told):
            pretrain(load(PretrainConfig, project, [f"out={tmp_path}", f"loop.tracker={name}"]))
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.filterwarnings("ignore:.log_with")  # it need not be installed here
def test_a_tracker_gets_what_the_log_has(project, tmp_path, monkeypatch):
    tracked = []
    monkeypatch.setattr(run_log, "get_available_trackers", lambda: ["tensorboard"])
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
