"""A user's mistake on the command line is one line that names the fix."""

import json
import socket

import pytest
from refusals import refused

from fourm.project import run as project_run
from fourm.project.project import Project


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("generate", "--seed", "9" * 20), "'--seed'"),
        (("generate", "--num", "0"), "'--num': 0 is not in the range"),
        (("generate", "--scheme", "magic"), "'magic' is not one of"),
        (("generate", "--input", "caption"), "not of the form NAME=VALUE"),
        (("generate", "--input", "boxes=nofile.json"), "no file nofile.json"),
        (("generate", "--input", "boxes=[1, 2"), "not valid JSON"),
        (("demo", "evaluate", "--scenes", "0"), "'--scenes': 0 is not in the range"),
        (("demo", "--seed", "-1"), "'--seed': -1 is not in the range"),
        (("app", "--port", "99999"), "'--port': 99999 is not in the range"),
        (("app", "--host", "not a host"), "--host 'not a host' is no address"),
        (("quickstart", "x", "--minutes", "0"), "'--minutes'"),
        (("import", "x", "--config", "y", "--out", "z", "--max-damage", "5"), "'--max-damage'"),
        (("tokenize",), "where? give PROJECT"),
        (("evaluate-tokenizer",), "no config"),
        (("train-text", "--out", "x"), "FILE"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, message, capfd):
    assert message in refused(capfd, *arguments)


def test_a_port_in_use_is_named(capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = refused(capfd, "app", "--port", str(port))
    assert f"port {port} of 127.0.0.1" in told and "another --port" in told


def test_a_project_in_place_of_its_model_is_told_where_the_model_is(tmp_path, capfd):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    told = refused(capfd, "generate", "--model", str(tmp_path))
    assert f"its model is {tmp_path / 'model'}" in told


def test_a_project_made_from_something_else_is_not_shown_as_done(tmp_path, capfd):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    out = tmp_path / "out"
    Project(out).belongs_to(str(tmp_path / "a"))
    Project(out).belongs_to(str(tmp_path / "a"))
    told = refused(capfd, "quickstart", str(tmp_path / "b"), "--out", str(out))
    assert f"was made from {tmp_path / 'a'}, not from {tmp_path / 'b'}" in told
    assert json.loads((out / "project.json").read_text())["source"] == str(tmp_path / "a")


def test_fewer_minutes_shorten_the_tokenizers_too(tmp_path, monkeypatch):
    import fourm_data_prep.quickstart as module

    ran = []
    for each in (module, project_run):
        monkeypatch.setattr(each, "run_all", lambda commands, **options: ran.extend(commands))
    for minutes, steps in ((10.0, None), (1.0, 200), (0.001, 20)):
        ran.clear()
        module.quickstart(tmp_path, tmp_path / str(minutes), minutes, 0.05)
        rgb = next(c for c in ran if c[3] == "train-tokenizer" and c[-1] == "rgb")
        found = [word for word in rgb if word.startswith("train.steps=")]
        assert found == ([f"train.steps={steps}"] if steps else [])
