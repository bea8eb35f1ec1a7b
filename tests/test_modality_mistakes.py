"""A user's mistake in a modality set or in masks of it is one sentence that names it."""

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import ALL_TO_ALL, TINY, make_tokens
from fourm_tokenizers.train import train_tokenizer
from test_masking import rows_of

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.codec_types import find_codec
from fourm.config import from_mapping
from fourm.errors import UserError
from fourm.modalities import MAX_VOCAB, ModalitySet

# ---- modality sets -------------------------------------------------------------------------------

RGB, PIXELS, CAPTION = ("modalities", "rgb"), ("modalities", "pixels"), ("modalities", "caption")
CODES = (*RGB, "tokenizer")
MODALITY_SETS = {
    "size and patch": ((*RGB, "raw", "size"), 65, r"rgb: 65 px is no multiple of patch_size 4"),
    "size and patch of pixels": (
        (*PIXELS, "patch_size"),
        5,
        r"16 px is no multiple of patch_size 5",
    ),
    "size in words": ((*RGB, "raw", "size"), "big", r"rgb: raw: size: expected int, found 'big'"),
    "negative size": ((*RGB, "raw", "size"), -4, r"raw: raw type image needs a size"),
    "no patch": ((*CODES, "patch_size"), 0, r"rgb: patch_size must be at least 1"),
    "patch in words": ((*CODES, "patch_size"), "x", r"rgb: patch_size must be a whole number"),
    "no levels": ((*CODES, "levels"), [], r"rgb: levels must be whole numbers from 2 on"),
    "levels in words": ((*CODES, "levels"), "888", r"rgb: levels must be whole numbers from 2 on"),
    "a level of one": ((*CODES, "levels"), [8, 1], r"rgb: levels must be whole numbers from 2 on"),
    "many levels": (
        (*CODES, "levels"),
        [64] * 6,
        r"68,719,476,736 ids; 2,147,483,648 are the most",
    ),
    "many ids": (
        ("modalities", "code", "vocab_size"),
        MAX_VOCAB + 1,
        r"2,147,483,648 are the most",
    ),
    "ids in words": (("tokenizers", "text", "vocab_size"), "all", r"vocab_size: expected int"),
    "no grid": (("modalities", "depth", "grid"), [0, 4], r"depth: grid must be at least 1, not 0"),
    "no chunks": ((*CAPTION, "chunk_size"), 0, r"caption: chunk_size must be at least 1"),
    "negative tokens": ((*CAPTION, "max_tokens"), -3, r"max_tokens must be at least 0, not -3"),
    "negative weight": ((*RGB, "loss_weight"), -1.0, r"loss_weight must be at least 0, not -1.0"),
    "a kind": ((*RGB, "kind"), "gird", r"'gird' is not one of .*; did you mean 'grid'"),
    "no table": (RGB, "picture", r"modality rgb must be a mapping, not 'picture'"),
    "no tokenizer": (("tokenizers", "text"), 3, r"tokenizer text must be a mapping, not 3"),
    "a source outside": ((*RGB, "source"), "../x", r"name '../x': names are letters"),
    "a list of sources": ((*PIXELS, "source"), ["rgb"], r"source must be a name, not \['rgb'\]"),
    "a list of tokenizers": ((*CAPTION, "tokenizer"), ["x"], r"tokenizer must be a name"),
    "patches of nothing": ((*PIXELS, "raw"), {"type": "text"}, r"needs a raw form that has a size"),
    "no number": ((*RGB, "raw", "mean"), 2.5, r"mean: expected a list, found 2.5"),
}


def changed(path: tuple[str, ...], value: object) -> dict:
    """The tiny modality set with one other entry."""
    data: dict[str, Any] = copy.deepcopy(TINY)
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return data


@pytest.mark.parametrize("path, value, message", MODALITY_SETS.values(), ids=MODALITY_SETS)
def test_a_mistake_in_a_modality_set_is_named(path, value, message):
    with pytest.raises(UserError, match=message):
        ModalitySet.from_mapping(changed(path, value), "f")


@pytest.mark.parametrize("name", ["../../../esc", "/etc/x", ".hidden", "a b", "a->b", "", "a\n"])
@pytest.mark.parametrize("table", ["modalities", "tokenizers"])
def test_a_name_that_is_no_folder_s_is_refused(table, name):
    path = ("modalities", name) if table == "modalities" else ("tokenizers", name)
    entry = TINY["modalities"]["depth"] if table == "modalities" else {"type": "text"}
    with pytest.raises(UserError, match="names are letters, digits"):
        ModalitySet.from_mapping(changed(path, entry), "f")


@pytest.mark.parametrize("name", ["rgb@224", "tok_rgb@224", "a-b", "v1.5", "größe"])
def test_names_of_earlier_releases_are_kept(name):
    entry = TINY["modalities"]["depth"]
    assert name in ModalitySet.from_mapping(changed(("modalities", name), entry), "f")


def test_a_type_of_tokenizer_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(UserError, match="'autoencodr' is not one of .*mean 'autoencoder'"):
        find_codec("autoencodr")
    modalities = ModalitySet.from_mapping(changed((*CODES, "type"), "autoencodr"), "f")
    with pytest.raises(UserError, match="did you mean 'autoencoder'"):
        train_tokenizer("rgb", modalities, tmp_path, tmp_path, tmp_path, [])


# ---- masking -------------------------------------------------------------------------------------

ALL = {"input_default": 0.5, "target_default": 0.5}
MASKS = {
    "negative weight": ({}, [{**ALL, "weight": -1.0}], "weight must be at least 0"),
    "all weights 0": ({}, [{**ALL, "weight": 0.0}] * 2, "all masking components have weight 0"),
    "negative alpha": ({}, [{**ALL, "input": {"rgb": -1.0}}], "alpha of rgb must be at least 0"),
    "negative default": ({}, [{"target_default": -0.5}], "target_default must be at least 0"),
    "no targets": ({"num_targets": (0, 0)}, [ALL], r"component 1 has num_targets \[0, 0\]"),
    "none in one": ({}, [ALL, {**ALL, "num_targets": (0, 0)}], r"component 2 has num_targets"),
    "a range": ({}, [{**ALL, "num_inputs": (5, 2)}], r"num_inputs must be a range .* not \[5, 2\]"),
    "no target alpha": ({}, [{"input_default": 0.5}], "component 1 never gives a target"),
    "one without": ({}, [ALL, {"target": {"rgb": 0.0}}], "component 2 never gives a target"),
    "no output": ({}, [{**ALL, "target": {"pixels": 1.0}}], "pixels is no output modality"),
    "unknown": ({}, [{**ALL, "input": {"rbg": 1.0}}], "unknown modality 'rbg'.*mean 'rgb'"),
}


@pytest.mark.parametrize("numbers, components, message", MASKS.values(), ids=MASKS)
def test_masks_from_which_nothing_is_learned_are_refused(numbers, components, message, modalities):
    table = {"num_inputs": [4, 8], "num_targets": [4, 8], **numbers, "components": components}
    table = json.loads(json.dumps(table))
    with pytest.raises(UserError, match=message):
        Masker(modalities, from_mapping(MaskingConfig, table, "f"), seed=0)


def test_a_component_may_be_switched_off_by_its_weight(modalities):
    off = MaskingComponent(weight=0.0, input_default=1.0, target_default=1.0)
    also = replace(ALL_TO_ALL, components=(*ALL_TO_ALL.components, off))
    tokens, draws = make_tokens(modalities, 8), np.arange(8)
    found, wanted = (Masker(modalities, c, seed=0)(tokens, draws) for c in (also, ALL_TO_ALL))
    for b in range(8):
        for one, other in zip(rows_of(found, b), rows_of(wanted, b), strict=True):
            assert np.array_equal(one, other)
