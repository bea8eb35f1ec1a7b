"""Runs of alignment: killed and started again they are bit identical, two ranks are one, every
config loads.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_worlds import adaptation, domains, settings, world

from fourm.alignment.align import AlignTask
from fourm.alignment.aligner import AlignConfig
from fourm.alignment.contrast import info_nce
from fourm.alignment.pairs import batch_of
from fourm.alignment.unimos import AdaptConfig
from fourm.cli import main
from fourm.config import to_mapping
from fourm.training.checkpoints import newest_checkpoint

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(["tokenizers", "data_prep", "."]),
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["align", "adapt"])
def test_killed_and_started_again_the_result_is_bit_identical(tmp_path, what):
    import yaml

    if what == "align":
        config = settings(
            tmp_path,
            world(tmp_path),
            tasks={"schedule": "adaptive", "regression": 0.5},
            augment={"mixup": "shared", "noise": 0.1},
            connect={
                "kind": "experts",
                "hidden": 32,
                "num_experts": 4,
                "top_k": 2,
                "dim_out": 16,
                "dropout": 0.2,
            },
        )
    else:
        config = adaptation(tmp_path, domains(tmp_path))
    mapping = to_mapping(config)
    mapping["loop"] |= {"steps": 400, "checkpoint_every": 40}
    files = {}
    for name in ("whole", "killed"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**mapping, "out": str(tmp_path / name)}))
        if name == "killed":
            process = subprocess.Popen(
                [sys.executable, "-m", "fourm", what, str(path)],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            deadline = time.monotonic() + 60
            while (
                newest_checkpoint(tmp_path / name / "checkpoints") is None
                and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        main([what, str(path)])
        newest = newest_checkpoint(tmp_path / name / "checkpoints")
        files[name] = (
            newest.name,
            (newest / "model.safetensors").read_bytes(),
            [
                json.loads(line)["loss"]
                for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
                if "loss" in json.loads(line)
            ],
        )
    assert files["whole"] == files["killed"]


def test_a_batch_is_of_the_same_samples_in_every_modality(tmp_path):
    task = AlignTask(settings(tmp_path, world(tmp_path)))
    batch = task.batches(0, 1)[3][0]
    again = batch_of(list(task.latents.values()), batch.samples, 3)
    assert all(torch.equal(a, b) for a, b in zip(batch.values, again.values, strict=True)) and set(
        batch.samples
    ) <= set(task.split.train)


def _rank(rank: int, port: int, out: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    a, b, groups = torch.randn(8, 4), torch.randn(8, 4), torch.tensor([0, 1, 2, 2, 3, 0, 4, 5])
    mine = slice(4 * rank, 4 * rank + 4)
    a, b = a[mine].clone().requires_grad_(), b[mine].clone().requires_grad_()
    loss = info_nce(a, b, torch.tensor(0.3), groups[mine])
    loss.backward()
    np.save(
        Path(out, f"{rank}.npy"),
        np.concatenate([a.grad.numpy(), b.grad.numpy(), np.full((1, 4), float(loss.detach()))]),
    )
    dist.barrier()
    os._exit(0)  # gloo's threads may abort while the interpreter of the other rank is gone already


@pytest.mark.slow
def test_contrast_across_two_ranks_is_that_of_the_whole_batch(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (
        "import sys; sys.path[:0] = ['tests']; import test_alignment_runs;"
        f" test_alignment_runs._rank(int(sys.argv[1]), {port}, {str(tmp_path)!r})"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(rank)], cwd=ROOT, env=ENVIRONMENT)
        for rank in range(2)
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    parts = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    torch.manual_seed(0)
    a, b = torch.randn(8, 4).requires_grad_(), torch.randn(8, 4).requires_grad_()
    loss = info_nce(a, b, torch.tensor(0.3), torch.tensor([0, 1, 2, 2, 3, 0, 4, 5]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(parts[0][-1, 0] + parts[1][-1, 0], rel=1e-5)
    for i, whole in enumerate((a.grad, b.grad)):
        assert np.allclose(
            np.concatenate([p[4 * i : 4 * i + 4] for p in parts]), whole.numpy(), atol=1e-5
        )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "alignment").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_config_loads(path):
    from fourm.config import load

    load(AdaptConfig if path.stem.startswith("unimos") else AlignConfig, path)
