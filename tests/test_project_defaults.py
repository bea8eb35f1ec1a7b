"""What a project's YAML does not say follows from its raw types, and comments stay."""

import copy
import os
from pathlib import Path

import pytest
from project_worlds import MODALITIES, SIZE, World, write

from fourm.modalities import ModalitySet
from fourm.project import minutes as project_minutes
from fourm.project import run as project_run
from fourm.project.defaults import complete_modalities, masking_for, patch_size_of


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # steps of data preparation in this process
    monkeypatch.setattr(project_minutes, "FEWEST_STEPS", 2)
    monkeypatch.chdir(tmp_path)
    world = World(Path("mine"))
    monkeypatch.setattr(project_run, "run_all", world.run_all)
    return world


def test_what_the_yaml_does_not_say_follows_from_the_raw_type_and_comments_stay(world):
    world.project.modalities.write_text(
        "# mine\nmodalities:\n"
        f"  rgb: {{raw: {{type: image, size: {SIZE}}}}}  # braces\n"
        f"  night:\n    # a block\n    raw: {{type: array, size: {SIZE}}}\n"
        "  caption: {kind: sequence, raw: text}\n"
        "  pixels: {kind: continuous, source: rgb, patch_size: 4}\n"
    )
    complete_modalities(world.project)
    text = world.project.modalities.read_text()
    assert all(f"# {comment}" in text for comment in ("mine", "braces", "a block"))
    found = ModalitySet.load(world.project.modalities)
    assert [m.kind for m in found] == ["grid", "grid", "sequence", "continuous"]
    assert found["rgb"].grid == (8, 8) and found["caption"].max_tokens == 16
    assert set(found.tokenizers) == {"text", "rgb", "night"}
    complete_modalities(world.project)
    assert world.project.modalities.read_text() == text


def test_a_set_that_has_a_text_tokenizer_gets_no_other(world):
    lacking = copy.deepcopy(MODALITIES)
    del lacking["modalities"]["caption"]["tokenizer"]
    write(world.project.modalities, lacking)
    complete_modalities(world.project)
    assert ModalitySet.load(world.project.modalities).tokenizers.keys() == {"text", "rgb", "night"}


def test_masks_of_any_set_give_every_input_and_ask_for_every_output():
    data = copy.deepcopy(MODALITIES)
    data["modalities"]["pixels"] = {"kind": "continuous", "source": "rgb", "patch_size": 4}
    modalities = ModalitySet.from_mapping(data)
    masking = masking_for(modalities)
    whole, mixed = masking["components"][:-1], masking["components"][-1]
    assert [next(iter(c["input"])) for c in whole] == ["rgb", "night", "caption", "pixels"]
    assert all(c["target_default"] for c in masking["components"]) and mixed["input_default"]
    assert sum(c["weight"] for c in masking["components"]) == pytest.approx(1.0)


def test_patches_are_as_fine_as_their_number_allows():
    assert [patch_size_of(n) for n in (8, 16, 32, 48, 64, 96, 224)] == [1, 2, 4, 8, 8, 16, 32]
