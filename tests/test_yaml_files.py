"""A config may be based on another: its keys are laid over the base's, and a mistake names the
files that it may be in.
"""

import pytest
import yaml

from fourm.batches.masking import MaskingConfig
from fourm.config import load
from fourm.errors import UserError
from fourm.files.yaml_files import overlay, read_tree, read_yaml
from fourm.modalities import ModalitySet

MASKS = {"num_inputs": [4, 8], "num_targets": [2, 2], "components": [{"target_default": 1}]}


@pytest.fixture
def write(tmp_path):
    def written(name: str, content: object) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    return written


def test_mappings_are_laid_over_each_other_and_all_else_is_replaced(write):
    write("first.yaml", {"a": {"x": 1, "y": [1, 2], "z": {"p": 1}}, "b": 1, "c": [1]})
    path = write("second.yaml", {"base": "first.yaml", "a": {"y": [3], "z": {"q": 2}}, "b": None})
    assert read_yaml(path) == {"a": {"x": 1, "y": [3], "z": {"p": 1, "q": 2}}, "b": None, "c": [1]}


def test_a_base_may_have_a_base_and_stand_anywhere_beside_its_own_file(write):
    write("masks/all.yaml", MASKS)
    write("masks/few.yaml", {"base": "all.yaml", "num_inputs": [1, 2]})
    write("runs/one.yaml", {"masking": {"base": "../masks/few.yaml"}, "n": 1})
    path = write(
        "runs/two.yaml",
        {"base": "one.yaml", "sources": [{"masking": {"base": "../masks/all.yaml"}}]},
    )
    tree = read_tree(path)
    assert tree.data["masking"] == {**MASKS, "num_inputs": [1, 2]} and tree.data["n"] == 1
    assert tree.data["sources"] == [{"masking": MASKS}]
    assert tree.where == f"{path} (base one.yaml, ../masks/few.yaml, ../masks/all.yaml)"


def test_a_mapping_of_another_type_takes_nothing_over():
    latent = {"encoder": {"type": "latent", "num_tokens": 4}}
    assert overlay(latent, {"encoder": {"type": "plain"}}) == {"encoder": {"type": "plain"}}
    more = overlay(latent, {"encoder": {"iterations": 3}})
    assert more["encoder"] == {"type": "latent", "num_tokens": 4, "iterations": 3}
    assert latent == {"encoder": {"type": "latent", "num_tokens": 4}}


def test_what_is_typed_is_laid_over_both(write):
    write("all.yaml", MASKS)
    path = write("few.yaml", {"base": "all.yaml", "num_inputs": [1, 2]})
    found = load(MaskingConfig, path, ["num_targets=[1, 1]"])
    assert (found.num_inputs, found.num_targets) == ((1, 2), (1, 1))


def test_modalities_may_be_based_on_others(write):
    entry = {"kind": "grid", "raw": {"type": "image", "size": 8}, "grid": [2, 2], "vocab_size": 4}
    write("one.yaml", {"modalities": {"a": entry, "b": entry}})
    path = write(
        "two.yaml", {"base": "one.yaml", "modalities": {"b": {"output": False}, "c": entry}}
    )
    found = ModalitySet.load(path)
    assert [m.name for m in found] == ["a", "b", "c"] and not found["b"].output


def test_a_wrong_key_names_the_file_and_its_base(write):
    write("all.yaml", {**MASKS, "components": [{"wieght": 1}]})
    path = write("few.yaml", {"base": "all.yaml"})
    with pytest.raises(UserError, match=r"few.yaml \(base all.yaml\): .*'wieght'.*'weight'"):
        load(MaskingConfig, path)


@pytest.mark.parametrize(
    "content, told",
    [
        ({"base": "nowhere.yaml"}, r"a.yaml: base nowhere.yaml: no config file .*nowhere.yaml"),
        ({"base": "."}, r"a.yaml: base \.: .* is a folder; a config is a YAML file"),
        ({"base": ["b.yaml"]}, r"a.yaml: base must be the path of a YAML file, not \['b.yaml'\]"),
        ({"base": "a.yaml"}, r"a.yaml: its base .*a.yaml is based on .*a.yaml in turn"),
        ({"base": "circle.yaml"}, r"a.yaml: base circle.yaml: .*circle.yaml: its base .*a.yaml is"),
        ({"base": "list.yaml"}, r"a.yaml: base list.yaml: .*list.yaml must hold a mapping"),
        (
            {"base": "twice.yaml"},
            r"a.yaml: base twice.yaml: .*twice.yaml:2: key 'x' is given twice",
        ),
    ],
)
def test_a_base_that_cannot_be_read_is_a_sentence_with_both_files(write, content, told):
    write("circle.yaml", {"base": "a.yaml"})
    write("list.yaml", [1])
    write("twice.yaml", "x: 1\nx: 2\n")
    with pytest.raises(UserError, match=told) as raised:
        read_tree(write("a.yaml", content))
    assert "\n" not in str(raised.value)


def test_a_packaged_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "modalities" in read_yaml("configs/modalities/4m_7.yaml")
    with pytest.raises(UserError, match="no config file configs/modalities/4m_8.yaml"):
        read_yaml("configs/modalities/4m_8.yaml")
    (tmp_path / "configs" / "modalities").mkdir(parents=True)
    (tmp_path / "configs" / "modalities" / "4m_7.yaml").write_text("own: 1")
    assert read_yaml("configs/modalities/4m_7.yaml") == {"own": 1}
