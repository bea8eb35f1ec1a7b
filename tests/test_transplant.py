"""A model's weights in a model of another modality set: what is shared computes as before, what
differs is told, and a run never goes on as something else.
"""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, make_model, make_tokens
from worlds import write_project

from fourm.batches.batch import MaskedBatch
from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.config import load
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.model.model import FourM, load_model
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.differences import differences
from fourm.training.distill import DistillConfig, Teacher
from fourm.training.pretrain import PretrainConfig, pretrain
from fourm.training.transplant import NETWORK, transplant
from fourm.training.warm_start import start_from

LEVELS = {"type": "autoencoder", "levels": [3, 5, 5], "patch_size": 4}
KINDS_OF_MODEL = {
    "plain": {},
    "tables of its own": {
        "share_token_embeddings": False,
        "share_learned_positions": False,
        "share_modality_embeddings": True,
        "num_registers": 2,
    },
    "tied heads, rotary": {"tie_heads": True, "positions": "both"},
    "latent": {"encoder": "latent"},
}


def changed_set() -> ModalitySet:
    """TINY without depth, in another order, with another of levels first and a set before the old
    one: every table's rows move.
    """
    given = copy.deepcopy(TINY)
    old = given["modalities"]
    heat = {"kind": "grid", "raw": {"type": "array", "size": 16}, "tokenizer": LEVELS}
    given["modalities"] = {
        "heat": heat,
        "boxes": old["boxes"],
        "mood": {**old["code"], "max_tokens": 3},
        "code": old["code"],
        "rgb": old["rgb"],
        "pixels": old["pixels"],
        "caption": old["caption"],
    }
    return ModalitySet.from_mapping(given)


def shared_set() -> ModalitySet:
    given = copy.deepcopy(TINY)
    del given["modalities"]["depth"]
    return ModalitySet.from_mapping(given)


def logits(model: FourM, batch: MaskedBatch, names: list[str]) -> dict[str, torch.Tensor]:
    """Logits of a batch that numbers its modalities as ``names``, by modality."""
    number = torch.tensor([model.modalities.index(name) for name in names])
    kinds = number.numpy()[batch.encoder.kinds]
    encoder = dataclasses.replace(
        batch.encoder, modality=number[batch.encoder.modality], kinds=kinds
    )
    decoder = dataclasses.replace(batch.decoder, modality=number[batch.decoder.modality])
    rows = model.decode(model.encode(encoder), decoder)
    targets = {name: rows[batch.decoder.modality == i] for i, name in enumerate(names)}
    return {n: model.logits(r, n) for n, r in targets.items() if len(r)}


@pytest.mark.parametrize("options", KINDS_OF_MODEL.values(), ids=KINDS_OF_MODEL)
@torch.no_grad()
def test_modalities_that_stay_have_the_logits_they_had(modalities, options):
    old, new = make_model(modalities, **options), make_model(changed_set(), **options)
    for p in new.parameters():
        p.add_(0.1)  # nothing is right by chance
    transplant(old, new)
    shared = shared_set()
    components = (MaskingComponent(input_default=0.5, target_default=0.5),)
    masking = MaskingConfig(num_inputs=(8, 24), num_targets=(10, 24), components=components)
    batch = Masker(shared, masking, seed=1)(make_tokens(shared, 6), np.arange(6))
    names = [m.name for m in shared]
    before, after = logits(old, batch, names), logits(new, batch, names)
    assert before.keys() == after.keys() and {"rgb", "code", "caption"} <= before.keys()
    for name, wanted in before.items():
        torch.testing.assert_close(after[name], wanted, rtol=1e-5, atol=1e-5, msg=name)


def test_the_table_names_what_is_kept_fresh_and_left_out(modalities):
    old, new = make_model(modalities), make_model(changed_set())
    fresh = {name: value.clone() for name, value in new.state_dict().items()}
    told = transplant(old, new)
    fates: dict[str, set[str]] = {}
    for part in told.parts:
        fates.setdefault(part.name, set()).add(part.fate)
    assert fates.pop("heat") == fates.pop("mood") == {"fresh"}
    assert fates.pop("depth") == {"left out"}
    assert all(found == {"kept"} for found in fates.values())
    assert {"rgb", "pixels", "text", "code", NETWORK} <= fates.keys()
    start, size = new.tokens.vocabularies["mood"]
    assert torch.equal(
        new.tokens.table[start : start + size], fresh["tokens.table"][start : start + size]
    )
    assert "depth" in told.table() and "left out" in told.table()


def test_ids_of_a_tokenizer_that_was_trained_again_begin_fresh(modalities):
    old, new = make_model(modalities), make_model(modalities)
    told = transplant(old, new, {"rgb": "a", "text": "b"}, {"rgb": "x", "text": "b"})
    ids = {p.name: p.fate for p in told.parts if p.tensor == "heads.table"}
    assert ids["rgb"] == "fresh" and ids["text"] == ids["depth"] == "kept"
    vectors = {p.name: p.fate for p in told.parts if p.tensor == "modality"}
    assert vectors["rgb"] == "kept"


def test_other_settings_are_another_tokenizer_where_no_one_noted_which_it_was(modalities):
    given = copy.deepcopy(TINY)
    given["modalities"]["rgb"]["tokenizer"]["dim"] = 64
    told = transplant(make_model(modalities), make_model(ModalitySet.from_mapping(given)))
    ids = {p.name: p.fate for p in told.parts if p.tensor == "heads.table"}
    assert ids["rgb"] == "fresh" and ids["text"] == "kept"


def test_widths_that_differ_are_a_sentence(modalities):
    with pytest.raises(UserError, match="dim 32 do not fit one of dim 64"):
        transplant(make_model(modalities), make_model(modalities, dim=64))


def test_differences_are_named():
    now = changed_set()
    found = "; ".join(differences(ModalitySet.from_mapping(TINY), now))
    for told in ("heat is new", "mood is new", "depth is gone", "their order is heat, boxes"):
        assert told in found
    wider = dataclasses.replace(now["caption"], max_tokens=20, output=False)
    others = tuple(wider if m.name == "caption" else m for m in now)
    assert differences(now, ModalitySet(others)) == [
        "caption has max_tokens 20, had 12",
        "caption has output False, had True",
    ]


# ---- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = write_project(tmp_path_factory.mktemp("trained"), steps=3)
    pretrain(load(PretrainConfig, config))
    return config


def with_set(config, path, change) -> str:
    """The override for a changed modality set, written to ``path``."""
    data = yaml.safe_load((config.parent / "modalities.yaml").read_text())
    change(data["modalities"])
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return f"modalities={path}"


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda m: m.pop("depth"), "depth is gone"),
        (lambda m: m.update(rgb=m.pop("rgb")), "their order is pixels, depth, caption, rgb"),
        (lambda m: m["rgb"].update(vocab_size=64), "rgb has vocab_size 64, had 40"),
        (lambda m: m["caption"].update(max_tokens=20), "caption has max_tokens 20, had 16"),
    ],
)
def test_a_run_is_not_resumed_with_another_modality_set(trained, change, told, tmp_path):
    override = with_set(trained, tmp_path / "other.yaml", change)
    with pytest.raises(UserError, match=told) as refused:
        pretrain(load(PretrainConfig, trained, [override]))
    out = trained.parent / "run"
    assert f"out={out}-2" in str(refused.value) and f"init={out / 'checkpoints'}" in str(
        refused.value
    )


def test_a_run_is_not_resumed_with_another_size_of_model(trained):
    with pytest.raises(UserError, match=r"model.dim is 32, was 16"):
        pretrain(load(PretrainConfig, trained, ["model.dim=32"]))


def test_a_run_may_begin_with_the_weights_of_another_modality_set(trained, tmp_path, caplog):
    override = with_set(trained, tmp_path / "fewer.yaml", lambda m: m.pop("depth"))
    start = newest_checkpoint(trained.parent / "run" / "checkpoints")
    out = tmp_path / "run-2"
    overrides = [override, f"out={out}", f"init={start}"]
    with caplog.at_level("INFO"):
        pretrain(load(PretrainConfig, trained, overrides))
    assert "left out" in caplog.text
    stored = json.loads((out / "init.json").read_text())
    assert stored["init"] == str(start)
    fates = {(part["name"], part["tensor"]): part["fate"] for part in stored["parts"]}
    assert fates["depth", "modality"] == "left out"
    caplog.clear()
    with caplog.at_level("INFO"):
        pretrain(load(PretrainConfig, trained, [*overrides, "loop.steps=4"]))
    assert "resuming" in caplog.text and "left out" not in caplog.text


def test_a_run_that_begins_with_a_set_in_another_order_has_its_rows_by_name(trained, tmp_path):
    """All else is equal, so nothing but the order tells the sets from each other."""
    folder = sorted((trained.parent / "run" / "checkpoints").iterdir())[-1]
    old = load_model(folder)
    swapped = ModalitySet(tuple(reversed(old.modalities.modalities)), old.modalities.tokenizers)
    start = start_from(folder, swapped, {}, 0)
    assert start.model.modalities.modalities == swapped.modalities
    assert start.moved is not None and not start.moved.learners
    for m in swapped:
        was, is_now = old.modalities.index(m.name), swapped.index(m.name)
        assert was != is_now or len(swapped) % 2
        assert torch.equal(start.model.modality[is_now], old.modality[was])


def test_a_teacher_of_a_set_in_another_order_is_refused(trained):
    folder = sorted((trained.parent / "run" / "checkpoints").iterdir())[-1]
    known = load_model(folder).modalities
    swapped = ModalitySet(tuple(reversed(known.modalities)), known.tokenizers)
    Teacher(DistillConfig(teacher=str(folder)), known)
    with pytest.raises(UserError, match="their order is"):
        Teacher(DistillConfig(teacher=str(folder)), swapped)
