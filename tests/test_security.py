"""What SECURITY.md promises of programs: nothing is unpickled, no model runs code; each promise of
the page has a test.
"""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import make_model
from project_worlds import World

from fourm.codecs import CodecSet
from fourm.data.npy import read_npy, read_npz
from fourm.errors import UserError
from fourm.files.foreign_code import refuse_code
from fourm.files.model_files import read_description
from fourm.modalities import ModalitySet
from fourm.model.model import FourM
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.records.hub import find_model
from fourm.resources import demo_model_folder

ROOT = Path(__file__).parents[1]


# ---- nothing is unpickled ------------------------------------------------------------------------


def run_refusing_pickle(tmp_path, *command):
    """Run a program in which unpickling is an error, in all of its processes."""
    site, told = tmp_path / "site", tmp_path / "unpickled"
    site.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("refusing_pickle.py"), site / "sitecustomize.py")
    path = [str(site), *(str(ROOT / name) for name in ("", "tokenizers", "data_prep", "tests"))]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "FOURM_UNPICKLED": str(told),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    return done, told.read_text() if told.is_file() else ""


def test_the_watch_sees_an_unpickled_class(tmp_path):
    code = "import pickle, pathlib; pickle.loads(pickle.dumps(pathlib.Path('a')))"
    done, told = run_refusing_pickle(tmp_path, "-c", code)
    assert done.returncode == 1 and "pathlib" in told


TRAINS = """
import sys
from pathlib import Path
from fourm.config import load
from fourm.training.pretrain import PretrainConfig, pretrain
from worlds import write_project
project = write_project(Path(sys.argv[1]), 24)
for steps in (2, 4):
    pretrain(load(PretrainConfig, project, [f"loop.steps={steps}", "loop.checkpoint_every=2"]))
"""


def test_nothing_is_unpickled_where_a_model_trains_resumes_and_samples(tmp_path):
    done, told = run_refusing_pickle(tmp_path, "-c", TRAINS, str(tmp_path / "project"))
    assert done.returncode == 0 and not told, (told, done.stderr[-2000:])
    words = ["-m", "fourm", "generate", "--caption", "a red cube", "--steps", "1", "depth", "boxes"]
    done, told = run_refusing_pickle(tmp_path, *words)
    assert done.returncode == 0 and not told, (told, done.stderr[-2000:])


SMALL = ["model.dim=16", "model.encoder_depth=1", "model.decoder_depth=1", "model.num_heads=2"]


@pytest.mark.slow
def test_nothing_is_unpickled_in_a_whole_project(tmp_path):
    """Tokenizers trained, tokenized, pretrained, exported, sampled, judged: a process a stage."""
    project = World(tmp_path / "mine").project
    words = ["-m", "fourm", "run", str(project.root), "--minutes", "0.001", *SMALL]
    done, told = run_refusing_pickle(tmp_path, *words, "loop.batch_size=4")
    assert done.returncode == 0 and not told, (told, done.stderr[-2000:])
    assert project.report.is_file()


def test_arrays_of_objects_are_refused_unread(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="objects, which is never read"):
        read_npy(buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, emb=np.array([Payload()], dtype=object))
    with pytest.raises(UserError, match="objects, which is never read"):
        read_npz(buffer.getvalue(), ("emb",))
    assert not (tmp_path / "executed").exists()


# ---- models of others ----------------------------------------------------------------------------


def hub(monkeypatch, folder):
    """A hub that has one repository."""
    for module in ("fourm.records.hub", "fourm.codecs"):
        monkeypatch.setattr(f"{module}.snapshot_download", lambda name, **_: str(folder))


@pytest.fixture
def model_folder(modalities, tmp_path):
    make_model(modalities).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_of_the_hub_that_names_code_is_refused_and_opens_by_its_path(
    model_folder, tmp_path, monkeypatch
):
    (tmp_path / "payload.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n"
        "from fourm.sampling.schemes import MaskGIT as Scheme\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {"rgb": {"scheme": {"type": "payload:Scheme"}}}
    (model_folder / "generation.yaml").write_text(yaml.safe_dump(settings))
    hub(monkeypatch, model_folder)
    by_name = lambda name: FourM._from_pretrained(model_id=name)  # noqa: E731
    for opened in (AnyToAnyPipeline.from_pretrained, by_name, find_model):
        with pytest.raises(UserError, match=r"names code, payload:Scheme, .* by its path"):
            opened("someone/model")
    assert not (tmp_path / "executed").exists()
    AnyToAnyPipeline.from_pretrained(model_folder)
    assert (tmp_path / "executed").exists()


def test_a_tokenizer_of_the_hub_that_names_code_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"quantizer": {"type": "payload:Config"}}')
    hub(monkeypatch, tmp_path)
    entry = {
        "kind": "grid",
        "raw": {"type": "image", "size": 16},
        "tokenizer": {"type": "autoencoder", "levels": [4], "patch_size": 4, "hub": "some/one"},
    }
    codecs = CodecSet(ModalitySet.from_mapping({"modalities": {"rgb": entry}}), tmp_path / "no")
    with pytest.raises(UserError, match="names code, payload:Config"):
        codecs["rgb"]


def test_what_this_release_writes_names_no_code(model_folder):
    assert refuse_code(model_folder) == model_folder
    assert refuse_code(demo_model_folder()) == demo_model_folder()


@pytest.mark.parametrize("num", [0, 1, 63, 65, 10**7])
def test_a_wrong_number_of_tokens_is_a_sentence_and_no_memory(num):
    described = read_description(demo_model_folder())
    tables = {key: described[key] for key in ("tokenizers", "modalities")}
    codec = CodecSet(ModalitySet.from_mapping(tables), demo_model_folder() / "tokenizers")["depth"]
    with pytest.raises(UserError, match=rf"depth has 64 tokens, these are {num} ids"):
        codec.decode([np.zeros(num, np.int64)])
    with pytest.raises(UserError, match="ids of depth are in 0..239"):
        codec.decode([np.full(64, 240)])


# ---- the page of promises ------------------------------------------------------------------------


def test_every_promise_of_the_security_page_has_a_test_that_exists():
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", text)
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
