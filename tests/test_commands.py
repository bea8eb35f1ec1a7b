"""The program ``fourm``: verbs are found and imported one at a time; each ending is one line."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner
from refusals import PYPROJECT, ROOT, refused

from fourm.cli import ending, main
from fourm.cli.extras import where_to_get
from fourm.cli.program import program, verbs
from fourm.cli.verb import verb
from fourm.errors import Interrupted, StageFailed, UserError
from fourm.project.project import command_line, run_all, shown

VERBS = PYPROJECT["project"]["entry-points"]["fourm.commands"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tokenizers", ROOT / "data_prep"))),
}
ENVIRONMENT.pop("COLUMNS", None)


# ---- finding verbs -------------------------------------------------------------------------------


@pytest.fixture
def add_verb(monkeypatch):
    """Add a verb for one test: ``add_verb(name, function)``."""

    class Found:
        def __init__(self, command: click.Command) -> None:
            self.command = command

        def load(self) -> click.Command:
            return self.command

    def add(name, action, **options):
        known = {**verbs(), name: Found(verb(**options)(action))}
        monkeypatch.setattr("fourm.cli.program.verbs", lambda: known)

    return add


def test_every_verb_that_is_declared_can_be_called_and_says_what_it_does():
    assert set(verbs()) == set(VERBS), "install the package again: pip install -e ."
    for name in VERBS:
        done = CliRunner().invoke(program, [name, "--help"])
        assert done.exit_code == 0, done.output
        command = EntryPoint(name, VERBS[name], "fourm.commands").load()
        assert command.help and command.help.splitlines()[0].endswith("."), name
    listed = CliRunner().invoke(program, ["--help"]).output.partition("Commands:")[2]
    assert all(re.search(rf"^  {name} +\w", listed, re.M) for name in VERBS if name != "fusion")
    assert "..." not in listed  # no line that is cut off


@pytest.mark.parametrize(
    "arguments, heavy",
    [
        (["--help"], {"torch", "accelerate", "numpy", "PIL"}),
        (["generate", "--help"], {"torch", "accelerate", "numpy", "PIL"}),
        (["modalities", "demo"], {"torch", "accelerate", "scipy"}),  # raw types know arrays
    ],
)
def test_help_and_tables_do_not_import_torch(arguments, heavy):
    code = (
        "import sys, fourm.cli; fourm.cli.main(sys.argv[1:]);"
        f" print(sorted({heavy} & set(sys.modules)))"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=ENVIRONMENT, capture_output=True, text=True
    )
    print(f"fourm {' '.join(arguments)}: {time.perf_counter() - started:.2f} s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_another_package_s_verb_is_one_like_ours(add_verb, capfd):
    add_verb("crawl", lambda: print("crawled"))
    main(["crawl"])
    assert capfd.readouterr().out == "crawled\n"


def test_an_unknown_verb_or_option_names_the_nearest(capfd):
    assert "'genrate'; did you mean 'generate'?" in refused(capfd, "genrate")
    assert "--guidance-scale" in refused(capfd, "generate", "--guidence-scale", "3")


def test_version_and_completion(capfd):
    main(["--version"])
    assert capfd.readouterr().out.startswith("fourm 0.")
    for shell in ("bash", "zsh", "fish"):
        main(["completion", shell])
        assert "_FOURM_COMPLETE" in capfd.readouterr().out


@pytest.mark.parametrize(
    "module, verb_name",
    [
        ("fourm.training.pretrain", "pretrain"),
        ("fourm_tokenizers.train", "train-tokenizer"),
        ("fourm_tokenizers.evaluate", "evaluate-tokenizer"),
        ("fourm_tokenizers.train_text", "train-text"),
        ("fourm_data_prep.tokenize", "tokenize"),
        ("fourm.fusion.align", "align"),
        ("fourm.fusion.adapt", "adapt"),
        ("fourm.alignment.align", "align"),
        ("fourm.alignment.adapt", "adapt"),
    ],
)
def test_modules_that_were_programs_are_doors(module, verb_name, capsys):
    import importlib

    importlib.import_module(module).main(["--help"])
    assert f"Usage: fourm {verb_name} " in capsys.readouterr().out


@pytest.mark.parametrize("module", ["fourm", "fourm.cli", "fourm.fusion.align"])
def test_programs_start_by_their_module(module):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, "--help"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.startswith("Usage: fourm"), done.stderr
    assert not done.stderr


def test_a_config_is_the_first_word_or_an_option_and_overrides_follow(capfd):
    for words in (["nowhere.yaml", "loop.steps=3"], ["--config", "nowhere.yaml", "loop.steps=3"]):
        for name in ("pretrain", "align", "adapt", "train-tokenizer"):
            assert "no config file nowhere.yaml" in refused(capfd, name, *words)
    assert "no config: give a YAML file" in refused(capfd, "pretrain")


def test_sampling_options_are_called_as_in_the_library():
    import dataclasses

    from fourm.sampling.options import SamplingOptions

    command = EntryPoint("generate", VERBS["generate"], "fourm.commands").load()
    ours = {"model", "caption", "inputs", "table", "first", "more", "out", "num", "seed"}
    ours |= {"vary", "ensemble", "tile", "overlap", "negative"}  # ways to call the pipeline
    ours |= {"animate"}  # what is written beside the results
    sampling = {p.name for p in command.params if p.expose_value} - ours
    assert sampling <= {f.name for f in dataclasses.fields(SamplingOptions)}
    assert {"guidance_scale", "steps", "temperature"} <= sampling


# ---- how commands end ----------------------------------------------------------------------------


def test_only_users_mistakes_are_one_line(add_verb, capfd):
    def fails(error):
        def action():
            raise error

        return action

    add_verb("mistake", fails(UserError("the thing and the fix")))
    assert refused(capfd, "mistake") == "error: the thing and the fix\n"
    with pytest.raises(UserError):
        main(["mistake", "--debug"])
    with pytest.raises(UserError):
        main(["--debug", "mistake"])
    for fault in (ValueError("numpy's"), KeyError("ours"), RuntimeError("torch's"), OSError("?")):
        add_verb("fault", fails(fault))
        with pytest.raises(type(fault)):
            main(["fault"])


def test_what_goes_on_says_so_when_it_is_cut_short_and_nothing_else_does(add_verb, capfd):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "x.tar")

    def interrupted():
        raise KeyboardInterrupt

    for resumes in (True, False):
        add_verb("full", full, resumes=resumes)
        told = refused(capfd, "full")
        assert "No space left on device (x.tar)" in told and ("goes on" in told) == resumes
        add_verb("halt", interrupted, resumes=resumes)
        with pytest.raises(SystemExit) as stopped:
            main(["halt"])
        told = capfd.readouterr().err
        assert stopped.value.code == 130 and told.startswith("\ninterrupted")
        assert ("goes on" in told) == resumes
    keeps = {name for name in VERBS if getattr(verbs()[name].load(), "resumes", False)}
    assert {"pretrain", "train-tokenizer", "import", "tokenize", "quickstart", "demo"} <= keeps
    assert not keeps & {"generate", "convert", "export", "app", "modalities", "train-text"}
    assert ending.ending_of(Interrupted("stopped at step 3"), None) == ending.Ending(
        "\nstopped at step 3", 130
    )


def test_ctrl_c_while_imports_run_is_one_line(tmp_path):
    # a slow module in place of torch: what `fourm generate` imports first
    (tmp_path / "torch.py").write_text(
        "print('importing', flush=True)\nimport time\ntime.sleep(60)\n"
    )
    path = os.pathsep.join((str(tmp_path), ENVIRONMENT["PYTHONPATH"]))
    process = subprocess.Popen(
        [sys.executable, "-m", "fourm", "generate", "--caption", "x"],
        env={**ENVIRONMENT, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # what a shell starts in the background ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130 and told.strip() == "interrupted", told


def test_a_module_that_is_not_installed_is_named_with_its_extra(add_verb, capfd, monkeypatch):
    def needs_scipy():
        import scipy  # noqa: F401

    def needs_nothing_known():
        import fourm.no_such_module  # type: ignore[import-not-found]  # noqa: F401

    monkeypatch.setitem(sys.modules, "scipy", None)
    add_verb("needy", needs_scipy)
    assert "this needs scipy: pip install 'fourm[data]'" in refused(capfd, "needy")
    add_verb("faulty", needs_nothing_known)
    with pytest.raises(ModuleNotFoundError):
        main(["faulty"])
    for module, extra in (
        ("httpx", "data"),
        ("gradio", "app"),
        ("cv2", "labels"),
        ("faiss", "search"),
        ("datasets.features", "hub"),
    ):
        assert where_to_get(module) == f"pip install 'fourm[{extra}]'"
    assert where_to_get("os") == where_to_get("pytest") == ""


def test_a_stage_s_own_line_is_the_last_of_its_project(add_verb, capfd):
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    commands = [slow, command_line("modalities", "nowhere.yaml")]

    with pytest.raises(StageFailed, match="no config file nowhere.yaml") as failed:
        run_all(commands, at_once=2)
    assert failed.value.status == 2
    told = capfd.readouterr()
    assert "fourm modalities nowhere.yaml\n" in told.out and not told.err
    add_verb("project", lambda: run_all(commands, at_once=2))
    assert refused(capfd, "project") == "error: no config file nowhere.yaml\n"


def test_a_stage_that_says_nothing_is_named(capfd):
    with pytest.raises(StageFailed, match=r"stopped with status 3: .*exit\(3\)") as failed:
        run_all([[sys.executable, "-c", "exit(3)"]])
    assert failed.value.status == 3
    assert shown(command_line("report", "runs/a b")) == "fourm report 'runs/a b'"


_SAVES = """
import signal, sys, time
def save(number, frame):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("a second signal"))
    time.sleep(0.5)
    open(sys.argv[1], "w").write("saved")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
print("training", flush=True)
time.sleep(60)
"""


def test_ctrl_c_lets_the_stages_of_a_project_save(tmp_path):
    project = (
        "import sys; from fourm.project.project import run_all;"
        " run_all([[sys.executable, '-c', sys.argv[1], sys.argv[2]]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", project, _SAVES, str(tmp_path / "saved")],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "training\n":
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.wait(20)
    assert (tmp_path / "saved").read_text() == "saved"


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m fourm modalities 4m_21 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode in (0, 141) and not done.stderr, done.stderr
