"""What several ranks tell: a line that all of them would say comes once, what they have met is
counted over all of them.
"""

import json
import logging

import pytest
from ranks import run_ranks
from worlds import write_project

from fourm.config import load
from fourm.data import patches
from fourm.data.shards import shard_path
from fourm.data.tar_headers import members_of
from fourm.progress import OWN, is_news
from fourm.training.pretrain import PretrainConfig, pretrain


def read_files() -> None:
    """Pictures are read from their tars, which tells of damage late."""
    patches.MAX_STORED = 0


def unreadable(out) -> list[int]:
    records = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [record["unreadable"] for record in records if "unreadable" in record]


@pytest.fixture
def damaged(tmp_path):
    """A project of which every third picture shows its damage as it is decoded."""
    config = write_project(tmp_path, 24, steps=6, log_every=2)
    path = shard_path(tmp_path / "raw", "train", "rgb", 0)
    data = bytearray(path.read_bytes())
    for member in list(members_of(path))[::3]:
        middle = member.offset + member.size // 2
        data[middle : member.offset + member.size] = bytes(member.size - member.size // 2)
    path.write_bytes(data)
    return config


def test_unreadable_pictures_are_counted_over_all_ranks(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "MAX_STORED", 0)
    more = "data.max_damage=0.9"
    pretrain(load(PretrainConfig, damaged, [f"out={tmp_path / 'one'}", more]))
    run_ranks(2, damaged, f"out={tmp_path / 'two'}", more, prepare=read_files)
    found = unreadable(tmp_path / "one")
    assert found == sorted(found) and found[-1] > 2
    assert unreadable(tmp_path / "two") == found


def test_what_all_ranks_would_say_is_said_once(damaged, tmp_path):
    lines = tmp_path / "exclude.txt"
    lines.write_text("00000/none\n")
    source = {"tokens": str(tmp_path / "tokens"), "raw": str(tmp_path / "raw")}
    sources = json.dumps([source | {"exclude": str(lines)}])
    words = ("loop.sharding=all", "data.max_damage=0.9", f"data.sources={sources}")
    told = "".join(run_ranks(2, damaged, f"out={tmp_path / 'out'}", *words, prepare=read_files))
    assert told.count("leaves out 0 of") == 1
    assert told.count("held out: loss") == 1
    # which files are damaged is known to the rank that has met them
    assert len(set(told.split("the sample goes without"))) > 3


def test_errors_and_what_a_rank_alone_has_met_are_said_by_any(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    common = logging.LogRecord("x", logging.WARNING, "", 0, "", None, None)
    error = logging.LogRecord("x", logging.ERROR, "", 0, "", None, None)
    own = logging.LogRecord("x", logging.INFO, "", 0, "", None, None)
    own.__dict__ |= OWN
    assert [is_news(record) for record in (common, error, own)] == [False, True, True]
    monkeypatch.setenv("RANK", "0")
    assert is_news(common)
