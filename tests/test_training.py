"""The promise: killed anywhere and started again, the loss curve is bit-identical, on any number of
workers; ranks to rounding.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from fourm_tokenizers.text import TextConfig, train_text_tokenizer
from worlds import curve, write_project

from fourm.config import load
from fourm.errors import UserError
from fourm.model.model import load_model
from fourm.training.checkpoints import list_checkpoints, newest_checkpoint
from fourm.training.pretrain import PretrainConfig, pretrain
from fourm.training.ranks import Ranks
from fourm.training.run_folder import hold_folder

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(["tokenizers", "data_prep", "."]),
    "ACCELERATE_USE_CPU": "1",
}
ROOT = Path(__file__).parent.parent


def start(config: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fourm.training.pretrain", "--config", str(config), *overrides]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def uninterrupted(project) -> list[tuple[int, float]]:
    out = project.parent / "whole"
    pretrain(load(PretrainConfig, project, [f"out={out}"]))
    return curve(out)


def test_an_optimizer_s_state_of_other_groups_is_refused_with_a_way_out(project, tmp_path):
    out = tmp_path / "adamw"
    short = ["loop.steps=2", "loop.optimizer.name=adamw", f"out={out}"]
    pretrain(load(PretrainConfig, project, short))
    longer = ["loop.steps=4", "loop.optimizer.name=muon", f"out={out}"]
    with pytest.raises(UserError, match="another optimizer .* another output folder"):
        pretrain(load(PretrainConfig, project, longer))


def test_an_average_that_a_run_had_not_begins_with_its_weights(project, tmp_path):
    out = tmp_path / "later"
    pretrain(load(PretrainConfig, project, ["loop.steps=2", "loop.ema=0", f"out={out}"]))
    pretrain(load(PretrainConfig, project, ["loop.steps=4", "loop.ema=0.9", f"out={out}"]))
    assert [step for step, _ in curve(out)] == [1, 2, 3, 4]


def test_precision_no_needs_no_quotes(project):
    for text in ("loop.precision=no", "loop.precision='no'"):
        assert load(PretrainConfig, project, [text]).loop.precision == "no"


def test_fp16_is_refused_and_bf16_named(project):
    with pytest.raises(UserError, match="fp16 .* bf16"):
        load(PretrainConfig, project, ["loop.precision=fp16"])


def test_one_seed_gives_one_loss_curve_bit_for_bit(project, uninterrupted, tmp_path):
    pretrain(load(PretrainConfig, project, [f"out={tmp_path / 'again'}"]))
    assert curve(tmp_path / "again") == uninterrupted
    assert [step for step, _ in uninterrupted] == list(range(1, 25))
    pretrain(load(PretrainConfig, project, [f"out={tmp_path / 'other'}", "loop.seed=1"]))
    assert curve(tmp_path / "other") != uninterrupted


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_gives_the_same_curve(
    project, uninterrupted, tmp_path
):
    """kill -9 at two random moments of training and one while a checkpoint is being written."""
    out = tmp_path / "killed"
    rng = random.Random(0)
    for kill in range(3):
        process = start(project, f"out={out}", "loop.steps=24")
        deadline = time.time() + 120
        wanted = len(curve(out)) if (out / "log.jsonl").is_file() else 0
        wanted += rng.randint(2, 6)
        while time.time() < deadline and process.poll() is None:
            if kill == 2:  # during a save
                if list((out / "checkpoints").glob("*.partial*")):
                    break
                time.sleep(0.0005)
                continue
            if (out / "log.jsonl").is_file() and len(curve(out)) >= wanted:
                break
            time.sleep(0.002)
        process.kill()
        process.wait()
    pretrain(load(PretrainConfig, project, [f"out={out}"]))
    assert curve(out) == uninterrupted


@pytest.mark.slow
def test_the_number_of_loader_workers_does_not_change_the_curve(project, uninterrupted, tmp_path):
    for workers in (1, 3):
        pretrain(
            load(
                PretrainConfig,
                project,
                [f"out={tmp_path / str(workers)}", f"loop.num_workers={workers}"],
            )
        )
        assert curve(tmp_path / str(workers)) == uninterrupted


@pytest.mark.slow
def test_two_ranks_with_the_same_global_batch_give_the_same_curve_to_rounding(
    project, uninterrupted, tmp_path
):
    out = tmp_path / "ranks"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    command += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
        "--main_process_port",
        "0",
    ]
    command += ["-m", "fourm", "pretrain", str(project), f"out={out}"]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    got = curve(out)
    assert [s for s, _ in got] == [s for s, _ in uninterrupted]
    assert max(abs(a - b) for (_, a), (_, b) in zip(got, uninterrupted, strict=True)) < 2e-3
    assert abs(got[0][1] - uninterrupted[0][1]) < 1e-5


def test_micro_batches_give_the_same_curve_to_rounding(project, uninterrupted, tmp_path):
    pretrain(load(PretrainConfig, project, [f"out={tmp_path / 'm'}", "loop.micro_batches=4"]))
    assert (
        max(abs(a - b) for (_, a), (_, b) in zip(curve(tmp_path / "m"), uninterrupted, strict=True))
        < 2e-3
    )


def test_a_damaged_newest_checkpoint_is_passed_over_loudly(
    project, uninterrupted, tmp_path, caplog
):
    out = tmp_path / "damaged"
    pretrain(load(PretrainConfig, project, [f"out={out}", "loop.steps=24"]))
    newest = list_checkpoints(out / "checkpoints")[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10] + b"0123456789")
    found = newest_checkpoint(out / "checkpoints")
    assert found is not None and found.name == "step_00000020"
    assert "damaged" in caplog.text and "checksum" in caplog.text
    pretrain(load(PretrainConfig, project, [f"out={out}"]))
    assert curve(out) == uninterrupted


@pytest.mark.slow
def test_sigterm_saves_and_says_that_nothing_is_lost(project, uninterrupted, tmp_path):
    out = tmp_path / "term"
    process = start(project, f"out={out}", "loop.checkpoint_every=1000", "loop.steps=24")
    while not (out / "log.jsonl").is_file() or not curve(out):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from here" in errors
    assert newest_checkpoint(out / "checkpoints") is not None
    pretrain(load(PretrainConfig, project, [f"out={out}"]))
    assert curve(out) == uninterrupted


def test_a_checkpoint_folder_is_a_model_folder(project, uninterrupted):
    path = newest_checkpoint(project.parent / "whole" / "checkpoints")
    assert path is not None
    model = load_model(path)
    assert [m.name for m in model.modalities] == ["rgb", "pixels", "depth", "caption"]
    assert (path / "pretrain.yaml").is_file()
    load(PretrainConfig, path / "pretrain.yaml")  # the resolved config can be passed back unchanged


def test_a_loss_that_is_not_finite_stops_with_the_samples_named(project, tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        pretrain(
            load(
                PretrainConfig,
                project,
                [f"out={tmp_path / 'nan'}", "loop.optimizer.lr=1e30", "loop.schedule.warmup=1"],
            )
        )
    listed = json.loads((tmp_path / "nan" / "broken_step.json").read_text())
    assert listed["batches"][0]["keys"] and len(listed["batches"][0]["samples"]) == 8


def test_another_seed_in_the_same_folder_is_refused(project, tmp_path):
    out = tmp_path / "run"
    pretrain(load(PretrainConfig, project, [f"out={out}", "loop.steps=5"]))
    with pytest.raises(ValueError, match="use another output folder"):
        pretrain(load(PretrainConfig, project, [f"out={out}", "loop.seed=9"]))


def test_two_processes_never_train_in_one_folder(project, tmp_path, caplog):
    """The second one says whom it waits for, and goes on when the first has ended."""
    out = tmp_path / "shared"
    out.mkdir()
    held = hold_folder(out, Ranks(0, 1, 60.0))
    assert held is not None
    threading.Timer(1.0, held.close).start()
    started = time.time()
    pretrain(load(PretrainConfig, project, [f"out={out}", "loop.steps=2"]))
    assert (
        time.time() - started > 0.9
        and f"another process (pid {os.getpid()}) is training in" in caplog.text
    )


def test_activation_checkpointing_does_not_change_the_curve(project, uninterrupted, tmp_path):
    out = tmp_path / "act"
    pretrain(
        load(
            PretrainConfig,
            project,
            [f"out={out}", "loop.activation_checkpointing=true", "loop.steps=24"],
        )
    )
    assert curve(out) == uninterrupted
    assert torch.isfinite(
        next(load_model(newest_checkpoint(out / "checkpoints")).parameters())
    ).all()


def test_token_shards_of_another_tokenizer_than_the_one_in_use_stop_the_run(project, tmp_path):
    folder = tmp_path / "tokenizers"
    train_text_tokenizer(
        TextConfig(vocab_size=190, num_sentinels=16, num_bins=32), ["a red cube"], folder / "text"
    )
    config = load(PretrainConfig, project, [f"out={tmp_path / 'run'}", f"tokenizers={folder}"])
    with pytest.raises(ValueError, match="tokenize the data again"):
        pretrain(config)
