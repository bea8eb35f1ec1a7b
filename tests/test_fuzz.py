"""A short run of the fuzzer: every target meets some bad input, and answers with a sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fourm.errors import UserError
from fuzz import counts
from fuzz.bounded import Judge
from fuzz.target import CORPUS, Target
from fuzz.targets import TARGETS

ROOT = Path(__file__).parents[1]
SECONDS = 0.25  # of CPU, each target


def test_every_reader_answers_bad_input_with_a_sentence():
    command = [sys.executable, "-W", "ignore", "-m", "fuzz.bounded", "--seed", "1"]
    done = subprocess.run(
        [*command, "--cases", "200", "--seconds", str(SECONDS)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=1200,  # only if it waits for ever
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {result["target"] for result in results} == {target.name for target in TARGETS}
    found = [finding for result in results for finding in result["findings"].values()]
    assert not found, found[0]
    assert all(result["cases"] for result in results)


def _writes(case, folder):
    (folder.parent / "escaped").write_text("x")


def _hangs(case, folder):
    while True:
        pass


def _two_lines(case, folder):
    raise UserError("one\ntwo")


def _unpickles(case, folder):
    import pickle

    pickle.loads(pickle.dumps(Path("a")))


def _starts(case, folder):
    os.system("true")


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (lambda case, folder: {}["x"], "KeyError in"),
        (_writes, "writes .* outside of its folder"),
        (_hangs, "hangs in"),
        (_two_lines, "no sentence in"),
        (_unpickles, "pickle.find_class"),
        (_starts, "os.system"),
    ],
)
def test_the_fuzzer_sees_what_no_reader_may_do(run, what, tmp_path):
    target = Target(name="x", inputs=st.none, run=run, seconds=0.2)
    judge = Judge(target, tmp_path)
    judge(None)
    (found,) = judge.result.findings
    assert re.search(what, found), found


def test_a_sentence_is_no_finding(tmp_path):
    def refuse(case, folder):
        raise UserError("a.png is no picture")

    judge = Judge(Target(name="x", inputs=st.none, run=refuse), tmp_path)
    judge(None)
    assert judge.result.refused == 1 and not judge.result.findings


def test_the_corpus_is_small_and_each_of_its_folders_belongs_to_a_target():
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 300_000
    takes_bytes = {target.name for target in TARGETS if target.takes_bytes}
    assert {path.parent.name for path in files} <= takes_bytes


def test_runs_that_are_counted_add_up(tmp_path):
    run = {"target": "a", "cases": 3, "refused": 1, "seconds": 0.25, "findings": {"x": {}}}
    for seed in (2, 1, 2):
        counts.add(tmp_path / "counts.json", run, seed)
    found = counts.read(tmp_path / "counts.json")
    assert found == {"a": counts.Counts(9, 3, 0.8, ["x"], [1, 2])}


def test_the_table_of_counts_is_of_all_targets_and_of_100000_cases():
    table = counts.read(CORPUS.parent / "counts.json")
    assert set(table) == {target.name for target in TARGETS}
    assert sum(entry.cases for entry in table.values()) >= 100_000
    starts_processes = {"two-engines": 20}
    assert all(entry.cases >= starts_processes.get(name, 200) for name, entry in table.items())
