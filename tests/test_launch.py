"""Launch recipes do what they say: the shell scripts parse and really start ranks, which meet,
train and go on where they were stopped; a Slurm job queues again when it was stopped and not when
it was wrong; what SkyPilot is given is of its form.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from worlds import curve, write_project

from fourm.config import load
from fourm.training.cpu_ranks import rank_environments
from fourm.training.pretrain import PretrainConfig, pretrain

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([".", "tokenizers", "data_prep"]),
    "OMP_NUM_THREADS": "1",
}
# what Slurm's commands do to a script, on one machine: tasks with their numbers, signals handed on
SRUN = """#!{python}
import os, signal, subprocess, sys
num = int(os.environ["SLURM_NTASKS"])
own = [{{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}} for i in range(num)]
tasks = [subprocess.Popen(sys.argv[1:], env=os.environ | task) for task in own]
signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/sh
case "$1" in
  show) echo 127.0.0.1; echo other ;;
  requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("world"), steps=3)


def run(script: str, *words: str, **extra: str) -> subprocess.CompletedProcess:
    environment = {**ENVIRONMENT, "PYTHON": sys.executable, **extra}
    return subprocess.run(
        ["bash", str(LAUNCH / script), *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def free_port() -> str:
    return rank_environments(2)[0]["MASTER_PORT"]


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse_may_be_run_and_ask_for_a_config(path):
    assert subprocess.run(["bash", "-n", str(path)], timeout=30).returncode == 0
    assert os.access(path, os.X_OK)
    found = run(path.name)
    assert found.returncode == 2 and found.stderr.startswith("usage: ")


# ---- torchrun ------------------------------------------------------------------------------------


def test_two_ranks_of_a_machine_train_as_one_process_does(project, tmp_path):
    words = (str(project), f"out={tmp_path / 'two'}")
    found = run("node.sh", *words, GPUS="2", PORT=free_port())
    assert found.returncode == 0, found.stderr
    pretrain(load(PretrainConfig, project, [f"out={tmp_path / 'one'}"]))
    for (step, two), (same, loss) in zip(
        curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True
    ):
        assert step == same and two == pytest.approx(loss, rel=1e-4)
    assert [step for step, _ in curve(tmp_path / "two")] == [1, 2, 3]


def test_what_is_missing_is_one_line(project):
    found = run("node.sh", str(project), NODES="2", GPUS="1")
    assert found.returncode == 2
    assert found.stderr == (
        "error: with NODES=2 give HEAD: the name of the machine with NODE_RANK=0\n"
    )
    found = run("node.sh", str(project), PATH=str(no_nvidia()))
    assert found.returncode == 2 and "say how many ranks to start (GPUS=2)" in found.stderr


def no_nvidia() -> str:
    return ":".join(p for p in os.environ["PATH"].split(":") if not Path(p, "nvidia-smi").exists())


# ---- Slurm ---------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """The environment of a job of two tasks on one node."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": str(20000 + int(free_port()) % 20000),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }


def test_a_job_that_is_wrong_does_not_queue_again(project, tmp_path, slurm):
    wrong = run("slurm.sh", str(project), "loop.stepz=4", **(slurm | {"SLURM_NTASKS": "1"}))
    assert wrong.returncode == 2 and "error: " in wrong.stderr and "stepz" in wrong.stderr
    assert not (tmp_path / "requeued").exists()


def test_a_job_that_is_stopped_saves_queues_again_and_goes_on_to_a_good_end(
    project, tmp_path, slurm
):
    out, long = tmp_path / "run", ("loop.steps=100000", "loop.checkpoint_every=100000")
    environment = {**ENVIRONMENT, "PYTHON": sys.executable, **slurm}
    job = subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sh"), str(project), f"out={out}", *long],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not ((out / "log.jsonl").exists() and curve(out)) and time.monotonic() < deadline:
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)  # what --signal=B:TERM does
    told, errors = job.communicate(timeout=120)
    assert job.returncode == 130, errors
    assert "was stopped: it queues again" in told
    assert "start 1: 2 ranks, head 127.0.0.1" in told
    assert (tmp_path / "requeued").read_text() == f"{slurm['SLURM_JOB_ID']}\n"
    done = curve(out)[-1][0]
    last = f"loop.steps={done + 2}"
    again = slurm | {"SLURM_RESTART_COUNT": "1", "SLURM_NTASKS": "1"}  # a rank more is a start more
    found = run("slurm.sh", str(project), f"out={out}", last, **again)
    assert found.returncode == 0, found.stderr
    assert f"resuming {out} from step {done}" in found.stderr and "start 2:" in found.stdout
    assert [step for step, _ in curve(out)] == list(range(1, done + 3))
    assert len((tmp_path / "requeued").read_text().splitlines()) == 1  # what ends well does not


def test_what_slurm_is_told_lets_a_job_be_stopped_and_queued_again():
    options = dict(
        re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", (LAUNCH / "slurm.sh").read_text(), re.M)
    )
    assert options["signal"].startswith("B:TERM@") and options["open-mode"] == "append"
    assert "requeue" in options and options["ntasks-per-node"] == options["gpus-per-node"]


# ---- SkyPilot ------------------------------------------------------------------------------------

# of https://docs.skypilot.co/en/latest/reference/yaml-spec.html
TASK = {"name", "workdir", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"}
RESOURCES = {"accelerators", "use_spot", "disk_size"}
MOUNT = {"source", "name", "store", "mode"}


def test_sky_is_given_a_task_of_its_form(tmp_path):
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert set(task) == TASK and set(task["resources"]) <= RESOURCES
    assert re.fullmatch(r"[\w-]+:\d+", task["resources"]["accelerators"])
    assert task["resources"]["use_spot"] is True
    assert all(isinstance(value, str) for value in task["envs"].values())
    for where, mount in task["file_mounts"].items():
        assert where.startswith("/") and set(mount) <= MOUNT
        assert mount["mode"] in ("MOUNT", "MOUNT_CACHED", "COPY")
        assert ("source" in mount) != ("name" in mount)
    # checkpoints are made whole by renaming, which needs the cached mount
    assert task["file_mounts"]["/runs"]["mode"] == "MOUNT_CACHED" and task["num_nodes"] == 1
    for part in ("setup", "run"):
        check = subprocess.run(["bash", "-n"], input=task[part], text=True, timeout=30)
        assert check.returncode == 0


def test_what_sky_runs_starts_the_config_with_its_folder(tmp_path):
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "node.sh").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$NODES $NODE_RANK $GPUS $HEAD" "$@"\n'
    )
    (tmp_path / "launch" / "node.sh").chmod(0o755)
    sky = {
        "SKYPILOT_NUM_NODES": "1",
        "SKYPILOT_NODE_RANK": "0",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "HOME": "/home/me",
    }
    found = subprocess.run(
        ["bash", "-c", task["run"]],
        cwd=tmp_path,
        env={**os.environ, **task["envs"], **sky},
        capture_output=True,
        text=True,
        timeout=30,
    )
    first, config, *overrides = found.stdout.splitlines()
    assert first == "1 0 8 10.0.0.1" and config == "configs/pretrain/4m_7_b.yaml"
    assert overrides[:2] == ["out=/runs/4m_7_b/pretrain", "data.cache=/home/me/columns"]
    assert overrides[2:] == task["envs"]["OVERRIDES"].split()
