"""Tokens of a project depend on nothing but what makes them; those of earlier releases are kept."""

import json
import os
from pathlib import Path

import pytest
from fourm_data_prep import tokenize as tokenize_module
from fourm_data_prep.shard_steps import fingerprint
from fourm_data_prep.token_identity import identities
from fourm_data_prep.tokenize import TokenizeStep, tokenize
from project_worlds import MODALITIES, SIZE, TEXT, World

from fourm.cli import main
from fourm.config import to_mapping
from fourm.data.shards import shard_path, write_shard
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.project import minutes as project_minutes
from fourm.project import run as project_run


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # steps of data preparation in this process
    monkeypatch.setattr(project_minutes, "FEWEST_STEPS", 2)
    monkeypatch.chdir(tmp_path)
    world = World(Path("mine"))
    monkeypatch.setattr(project_run, "run_all", world.run_all)
    return world


def step_of(world: World, **options) -> TokenizeStep:
    p = world.project
    return TokenizeStep(ModalitySet.load(p.modalities), p.raw, p.tokenizers, p.tokens, **options)


def test_tokens_depend_on_nothing_but_what_makes_them():
    m = ModalitySet.from_mapping(MODALITIES)["night"]
    base = MODALITIES["modalities"]["night"]

    def other(**changes) -> tuple[str, ...]:
        data = {"tokenizers": {"text": TEXT}, "modalities": {"night": {**base, **changes}}}
        return identities(ModalitySet.from_mapping(data)["night"], ["s"], "c", 1, False)

    known = identities(m, ["s"], "c", 1, False)
    used = {"loss_weight": 2.0, "input": False, "labeller": "canny", "places": [4, 4]}
    for key, value in used.items():
        assert other(**{key: value})[0] == known[0], key
    assert other(raw={"type": "array", "size": SIZE, "range": [0, 2]})[0] != known[0]
    for changed in ((["t"], "c", 1, False), (["s"], "d", 1, False), (["s"], "c", 2, False)):
        assert identities(m, *changed)[0] != known[0]
    # releases up to 0.7: all settings, defaults too
    assert known[1] == fingerprint([["s"], "c", [to_mapping(m), 1, False]])


def test_tokens_of_an_earlier_release_and_of_other_modalities_are_kept(world, monkeypatch):
    world.run(minutes=1e-9, only=("tokenizers", "tokens"))
    before = world.chunks()
    step, p = step_of(world), world.project
    for path in (p.tokens / "manifests" / "tokenize").glob("*.json"):  # as 0.7 noted them
        manifest = json.loads(path.read_text())
        job = next(job for job in step.jobs() if job.name == path.stem)
        with monkeypatch.context() as then:
            then.setattr(tokenize_module, "identities", lambda *a: identities(*a)[1:])
            made_from = step._made_from(job)
        assert made_from != {Path(o).parts[1]: f for o, f in manifest["made_from"].items()}
        manifest["made_from"] = dict(zip(manifest["outputs"], made_from.values(), strict=True))
        path.write_text(json.dumps({**manifest, "settings": "of 0.7"}))
    encoded = []
    monkeypatch.setattr(
        TokenizeStep, "_encode", lambda self, names, *_: encoded.append(names) or {}
    )
    step = step_of(world)
    for job in step.jobs():
        step.run(job)
    assert encoded == [] and world.chunks() == before


def test_one_modality_is_tokenized_alone(world):
    world.run(minutes=1e-9, only=("tokenizers", "tokens"))
    before = world.chunks()

    def change(data: dict) -> None:
        data["modalities"]["caption"]["max_tokens"] = 6
        data["modalities"]["night"]["raw"]["range"] = [0.0, 0.5]

    world.edit(world.project.modalities, change)
    main(["tokenize", "mine", "--only", "night"])
    after = world.chunks()
    assert {n for n in after if after[n] != before[n]} == {"night"}
    main(["tokenize", "mine"])
    last = world.chunks()
    assert {n for n in last if last[n] != after[n]} == {"caption"}
    for only, told in (("nigth", "did you mean 'night'"), ("pixels", "unknown modality")):
        with pytest.raises(UserError, match=told):
            step_of(world, only=(only,))


def test_skipped_samples_are_told_with_their_number_and_first_names(world, caplog):
    rows = [("000", "txt", b"light 1"), *((f"{i:03d}", "txt", b"\xff\xfe\x00") for i in (1, 2))]
    write_shard(shard_path(world.project.raw, "train", "caption", 0), rows)
    world.run(minutes=1e-9, only=("tokenizers",))
    p = world.project
    with caplog.at_level("WARNING"):
        tokenize(p.modalities, p.raw, p.tokenizers, p.tokens, max_damage=0.9)
    assert "tokenize: 2 of" in caplog.text and "001" in caplog.text and "002" in caplog.text
