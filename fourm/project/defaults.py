"""What a project's files lack is written into them, where it can be read and edited: what kind a
modality is and who makes its tokens, by its raw type, and a ``pretrain.yaml`` for any set.

Tokenizers are small ones of some minutes, eight to sixteen patches a side. The model is small too;
its masks have every input whole, one at a time, and mixtures of all of them, and ask for every
output.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import yaml

from fourm.config import from_mapping, read_yaml
from fourm.data.raw_sets import raw_of
from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.files.yaml_files import parse
from fourm.modalities import Kind, ModalitySet
from fourm.project.minutes import steps_in
from fourm.project.project import Project
from fourm.raw import Raw
from fourm.training.pretrain import PretrainConfig

_log = logging.getLogger(__name__)
_BINS = 64
_TEXT = {
    "type": "text",
    "vocab_size": 3000,
    "num_sentinels": 32,
    "num_axes": 4,
    "num_bins": _BINS,
}
_TRAIN = {
    "batch_size": 8,
    "optimizer": {"name": "muon", "lr": 2.0e-3, "muon_lr": 0.012, "weight_decay": 0.01},
    "schedule": {"name": "wsd", "warmup": 50, "decay": 0.6},
    "threads": 1,
    "num_workers": 0,
    "checkpoint_every": 200,
    "keep_checkpoints": 1,
}
_LINES = 512  # that the length of a sequence is measured on
_LONGEST = 256
_MOST_INPUTS, _MOST_TARGETS = 256, 128


# ---- modalities.yaml -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Addition:
    """Text for an entry of the file."""

    name: str
    entry: dict[str, Any]


def complete_modalities(project: Project) -> None:
    """Write into ``modalities.yaml`` what kind each modality is and who makes its tokens, where it
    does not say. Raises UserError where there is no such file.
    """
    if not project.modalities.is_file():
        raise UserError(
            f"no {project.modalities}: write one (docs/modalities.md; a start is"
            f" configs/modalities/own_data.yaml), then fourm import SOURCE --config"
            f" {project.modalities} --out {project.raw}"
        )
    data = read_yaml(project.modalities)
    table = data.get("modalities")
    if not isinstance(table, dict):
        return  # the set itself says what is wrong
    spelling = _text_tokenizer(data)
    additions = []
    for name, entry in table.items():
        if isinstance(entry, dict):
            entry = _lacking(project, name, entry, table, spelling)
            additions += [_Addition(name, entry)] if entry else []
    if not additions:
        return
    path = project.modalities
    new_text = any(a.entry.get("tokenizer") == spelling for a in additions)
    text = _inserted(path.read_text(), additions, str(path))
    if new_text and spelling not in (data.get("tokenizers") or {}):
        text = _with_text_tokenizer(text, spelling)
    assert parse(text, str(path))["modalities"].keys() <= table.keys()
    path.write_text(text)
    names = ", ".join(a.name for a in additions)
    _log.info("%s says now how tokens are made of %s: edit it as you like", path, names)


def _text_tokenizer(data: dict[str, Any]) -> str:
    """Name of the set's text tokenizer, or of the one to be added."""
    for name, settings in (data.get("tokenizers") or {}).items():
        if isinstance(settings, dict) and settings.get("type") == "text":
            return name
    return "text"


def _lacking(
    project: Project, name: str, entry: dict[str, Any], table: dict[str, Any], spelling: str
) -> dict[str, Any]:
    """What an entry does not say and needs."""
    source = table.get(entry.get("source") or "")
    given = entry.get("raw") or (source.get("raw") if isinstance(source, dict) else None)
    if given is None or entry.get("kind") == "continuous":
        return {}
    if entry.get("tokenizer") or entry.get("vocab_size"):
        return {}
    raw = raw_of(name, given, str(project.modalities))
    kind: Kind = entry.get("kind") or _kind_of(raw, name)
    found: dict[str, Any] = {} if "kind" in entry else {"kind": kind}
    if kind == "sequence":
        found["tokenizer"] = spelling
        if "max_tokens" not in entry:
            found["max_tokens"] = _length(project, entry.get("source") or name, raw)
    else:
        found["tokenizer"] = _autoencoder(raw, kind)
    return found


def _kind_of(raw: Raw, name: str) -> Kind:
    """How values of a raw type are used unless someone says otherwise."""
    if type(raw).to_text is not Raw.to_text:
        return "sequence"
    if type(raw).network_form is not Raw.network_form:
        return "grid" if raw.pixels else "set"
    raise UserError(
        f"modality {name}: nothing makes tokens of raw type {raw.type_name}: give its kind and"
        " tokenizer, or leave it out"
    )


def _autoencoder(raw: Raw, kind: Kind) -> dict[str, Any]:
    """A small one: more codes and depth for what has colours. VQ: it uses its codes whatever the
    data are like, which FSQ does not (docs/tokenizers.md).
    """
    rich = raw.num_channels > 1
    settings: dict[str, Any] = {
        "type": "autoencoder",
        "quantizer": {"type": "vq", "codebook_size": 2048 if rich else 512},
        "dim": 128 if rich else 96,
        "encoder_depth": 1,
        "decoder_depth": 2,
    }
    if raw.pixels:
        settings |= {"patch_size": patch_size_of(raw.pixels), "detail_weight": 1.0}
    if kind == "set":
        settings["num_tokens"] = 8
    return {**settings, "train": {"steps": 2000 if rich else 1500, **_TRAIN}}


def patch_size_of(pixels: int) -> int:
    """The finest patches of which there are at most eight a side; else at most sixteen; else the
    largest that fit.
    """
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if pixels % size == 0]
    for most in (8, 16):
        for size in sizes:
            if pixels // size <= most:
                return size
    return sizes[-1]


def _length(project: Project, name: str, raw: Raw) -> int:
    """Tokens that the longest of the first lines needs, and some: words may be several pieces."""
    longest = 0
    for path in shard_paths(project.raw, "train", name)[:1]:
        values = read_shard(path, raw.read, raw.extensions, DamageReport())
        for (_, value), _ in zip(values, range(_LINES), strict=False):
            longest = max(longest, len(raw.to_text(value, _BINS).split()))
    return min(_LONGEST, max(16, 8 * math.ceil((1.4 * longest + 2) / 8)))


def _inserted(text: str, additions: list[_Addition], where: str) -> str:
    """The file with what is added at the head of each entry; all else stays as it is written."""
    places = _entries(text)
    for a in additions:
        if a.name not in places:
            raise UserError(
                f"{where}: {a.name} does not say how its tokens are made, and its entry is in"
                f" another file: give it there, for example {_flow(a.entry)}"
            )
    # from the end on, so that places before stay where they are; an alias is one place of several
    for (at, column, is_flow), entry in sorted(
        {places[a.name]: a.entry for a in additions}.items(), reverse=True, key=lambda item: item[0]
    ):
        items = [f"{key}: {_flow(value)}" for key, value in entry.items()]
        end = ", " if is_flow else f"\n{' ' * column}"
        text = text[:at] + "".join(item + end for item in items) + text[at:]
    return text


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    told = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return told.removesuffix("...\n").strip()


def _entries(text: str) -> dict[str, tuple[int, int, bool]]:
    """Where the entry of each modality begins: index, column, and whether it is in braces."""
    places = {}
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    for key, value in root.value:
        if key.value == "modalities" and isinstance(value, yaml.MappingNode):
            for name, entry in value.value:
                if isinstance(entry, yaml.MappingNode):
                    mark, is_flow = entry.start_mark, bool(entry.flow_style)
                    places[name.value] = (mark.index + is_flow, mark.column, is_flow)
    return places


def _with_text_tokenizer(text: str, name: str) -> str:
    """The file with a text tokenizer in its table ``tokenizers``."""
    told = _flow(_TEXT)
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    for key, value in root.value:
        if key.value == "tokenizers" and isinstance(value, yaml.MappingNode):
            mark, is_flow = value.start_mark, bool(value.flow_style)
            new = f"{name}: {told}, " if is_flow else f"{name}: {told}\n{' ' * mark.column}"
            return text[: mark.index + is_flow] + new + text[mark.index + is_flow :]
    at = root.start_mark.index
    return text[:at] + f"tokenizers:\n  {name}: {told}\n\n" + text[at:]


# ---- pretrain.yaml -------------------------------------------------------------------------------


def write_pretrain_config(project: Project, modalities: ModalitySet, minutes: float) -> None:
    """A ``pretrain.yaml`` for the set, with as many steps as fit some minutes on this machine;
    nothing where there is one.
    """
    if project.pretrain_config.is_file():
        return
    described: dict[str, Any] = {
        "out": str(project.root / "pretrain"),
        "modalities": str(project.modalities),
        "tokenizers": str(project.tokenizers),
        "data": {
            "sources": [{"tokens": str(project.tokens), "raw": str(project.raw)}],
            "cache": str(project.cache),
        },
        "model": {"dim": 128, "encoder_depth": 3, "decoder_depth": 3, "num_heads": 4},
        "masking": masking_for(modalities),
        "loop": {
            "steps": 1000,
            "batch_size": 32,
            "optimizer": {"name": "muon", "lr": 3.0e-3, "muon_lr": 0.01, "weight_decay": 0.02},
            "schedule": {"name": "wsd", "warmup": 60, "decay": 0.5},
            "checkpoint_every": 100,
            "log_every": 20,
            "num_workers": 0,
        },
    }
    config = from_mapping(PretrainConfig, described, str(project.pretrain_config))
    loop = described["loop"]
    loop["steps"] = steps_in(minutes, config, modalities)
    loop["schedule"]["warmup"] = min(60, loop["steps"] // 10)
    text = yaml.safe_dump(described, sort_keys=False, default_flow_style=None, width=100)
    project.pretrain_config.write_text(
        f"# Pretraining of all modalities in {project.modalities.name}, about {minutes:g} minutes."
        f" Edit it and run the project again.\n{text}"
    )
    _log.info("%s is written: edit it as you like", project.pretrain_config)


def masking_for(modalities: ModalitySet) -> dict[str, Any]:
    """Masks of any set: each input whole, one at a time, and any part of any to any part of any;
    every output is asked for in all of them.
    """
    inputs, outputs = modalities.inputs, modalities.outputs
    most = max(m.num_tokens for m in inputs)
    budget = min(_MOST_INPUTS, max(64, most + most // 2))
    asked = min(_MOST_TARGETS, sum(m.num_tokens for m in outputs))
    whole = [
        {
            "weight": round(0.6 / len(inputs), 3),
            "input": {m.name: 1000},
            **({"keep": {m.name: "all"}} if m.kind == "sequence" else {}),
            "target_default": 0.5,
            "num_inputs": [min(m.num_tokens, _MOST_INPUTS)] * 2,
        }
        for m in inputs
        if [m.name] != [o.name for o in outputs]  # what is given whole leaves nothing to ask for
    ]
    return {
        "num_inputs": [1, budget],
        "num_targets": [asked, asked],
        "components": [*whole, {"weight": 0.4, "input_default": 0.3, "target_default": 0.3}],
    }
