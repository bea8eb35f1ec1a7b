"""Train the tokenizers of a modality set on its raw shards.

    fourm train-tokenizer configs/tokenizers/<x>.yaml [KEY=VALUE]... [--raw DIR] [--out DIR]

The config is a modality set, with the folders ``raw`` and ``out`` if it stands alone. Learned
tokenizers run in the same loop as pretraining (checkpoints, exact resume, logging); the text
tokenizer is learned from the training split's lines in one go. A tokenizer that is already in
``out`` is left as it is, unless the config has changed since: then it is renamed to
``<name>.before-1`` and trained again.
"""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from fourm.cli import door
from fourm.codec_types import check_type, codec_names
from fourm.config import apply_override, from_mapping, read_yaml
from fourm.data.ranges import settle_ranges
from fourm.data.shards import DamageReport, read_shard, shard_paths, write_json_atomic
from fourm.errors import UserError, nearest
from fourm.files.weights import WEIGHTS_FILE
from fourm.modalities import Modality, ModalitySet
from fourm.records.tokenizer_settings import FIGURES_FILE, note_settings, put_aside, state_of
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.loop import Loop
from fourm_tokenizers.autoencoder import Autoencoder
from fourm_tokenizers.losses import TrainedTokenizer
from fourm_tokenizers.picture import CONFIG_FILE, load_autoencoder
from fourm_tokenizers.settings import TokenizerConfig
from fourm_tokenizers.task import TokenizerTask
from fourm_tokenizers.text import TextConfig, train_text_tokenizer

_log = logging.getLogger(__name__)
_CONFIGS = {"text": TextConfig, "autoencoder": TokenizerConfig}
_TEXT_SAMPLES = 200_000  # lines that word pieces are learned from, at most


def train_autoencoder(
    modality: Modality, settings: dict[str, Any], raw: Path, out: Path, cache: Path
) -> dict[str, float]:
    """Train the tokenizer of a modality and put it into ``out``."""
    config = from_mapping(TokenizerConfig, settings, f"tokenizer of {modality.name}")
    task = TokenizerTask(modality, config, raw, cache)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        tokenizer = Autoencoder(config.model(modality))
        model = TrainedTokenizer(tokenizer, config)
    if config.init:
        start_from(tokenizer, Path(config.init), config.freeze_encoder)
    loop = Loop(model, task, config.train, out / "training")
    figures = loop.run()
    if loop.lead:
        newest = newest_checkpoint(out / "training" / "checkpoints")
        assert newest is not None
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copy(newest / name, out / name)
        write_json_atomic(out / FIGURES_FILE, figures)
        _log.info("%s: %s", modality.name, ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
    return figures


def start_from(tokenizer: Autoencoder, folder: Path, freeze_encoder: bool) -> None:
    """Take the weights of a trained tokenizer where names and shapes agree; positions follow the
    new resolution by themselves.

    The transformer of a plain decoder becomes the one that reads the latents for a diffusion
    decoder.

    Raises UserError if the encoder is to be frozen and does not fit.
    """
    trained = load_autoencoder(folder).state_dict()
    mine = tokenizer.state_dict()
    trained.update(
        {name.replace("decoder.", "decoder.condition.", 1): t for name, t in trained.items()}
    )
    fits = {name: t for name, t in trained.items() if name in mine and mine[name].shape == t.shape}
    coding = ("encoder.", "to_code.", "quantizer.")
    if freeze_encoder:
        lacking = [name for name in mine if name.startswith(coding) and name not in fits]
        if lacking:
            raise UserError(f"{folder} cannot be frozen as the encoder: {lacking[0]} does not fit")
        for name, parameter in tokenizer.named_parameters():
            parameter.requires_grad_(not name.startswith(coding))
    tokenizer.load_state_dict({**mine, **fits})


def text_lines(users: list[Modality], raw: Path, num_bins: int) -> list[str]:
    """Training lines of all modalities that share a text tokenizer."""
    lines: list[str] = []
    report = DamageReport()
    for m in users:
        for shard in shard_paths(raw, "train", m.raw_name):
            for _, value in read_shard(shard, m.raw.read, m.raw.extensions, report):
                lines.append(m.raw.to_text(value, num_bins))
            if len(lines) > _TEXT_SAMPLES:
                break
    return lines


def train_tokenizer(
    name: str, modalities: ModalitySet, raw: Path, out: Path, cache: Path, overrides: list[str]
) -> None:
    """Train one tokenizer of the set, unless it is there with the settings that the set declares.

    One with other settings is renamed first. ``overrides`` change settings for this run alone.
    """
    users = [m for m in modalities if m.tokenizer == name]
    kind = _kind(name, modalities)
    check_type(kind)
    if kind in codec_names() and kind not in _CONFIGS:
        raise UserError(
            f"tokenizer {name}: type {kind} is trained already; name the others with --only"
        )
    if kind not in codec_names():
        return
    if not users:
        _log.info("%s: no modality uses it, so there is nothing to learn from", name)
        return
    settings = copy.deepcopy(modalities.tokenizers[name])  # the set stays as it is declared
    for override in overrides:
        if _knows(kind, override):
            apply_override(settings, override)
    # before an earlier one is renamed: a misspelt key costs nothing
    config = from_mapping(_CONFIGS[kind], settings, f"tokenizer {name}")
    folder = out / name
    if not _begin(folder, name, modalities):
        return
    if isinstance(config, TextConfig):
        tokenizer = train_text_tokenizer(config, text_lines(users, raw, config.num_bins), folder)
        _log.info("%s: %d ids", name, tokenizer.get_vocab_size())
    else:
        train_autoencoder(users[0], settings, raw, folder, cache)


def _kind(name: str, modalities: ModalitySet) -> str:
    return str(modalities.tokenizers[name].get("type", ""))


def _knows(kind: str, override: str) -> bool:
    """True if tokenizers of a type have the setting that an override names."""
    setting = override.partition("=")[0].partition(".")[0]
    return kind in _CONFIGS and setting in {f.name for f in fields(_CONFIGS[kind])}


def check_overrides(
    names: Sequence[str], modalities: ModalitySet, overrides: Sequence[str]
) -> None:
    """Raise UserError for a setting that none of these tokenizers has: it would change nothing.

    Those that have it are changed: ``train.steps`` says nothing to a text tokenizer.
    """
    kinds = list(dict.fromkeys(_kind(name, modalities) for name in names))
    known = {f.name for kind in kinds if kind in _CONFIGS for f in fields(_CONFIGS[kind])}
    for override in overrides:
        setting = override.partition("=")[0].partition(".")[0]
        if not any(_knows(kind, override) for kind in kinds):
            raise UserError(
                f"override {override!r}: no tokenizer that is trained here ({', '.join(names)}; of"
                f" type {', '.join(kinds)}) has a setting {setting!r}{nearest(setting, known)}"
            )


def _begin(folder: Path, name: str, modalities: ModalitySet) -> bool:
    """False if the tokenizer is there; else its folder is ready to be trained in.

    One process decides, the others find what it has done.
    """
    with PartialState().main_process_first():
        state = state_of(folder, name, modalities)
        if state == "unchanged":
            return False
        if state == "changed":
            place = put_aside(folder)
            _log.warning(
                "%s: the config has changed since it was trained: it is %s now, and is trained"
                " again",
                name,
                place,
            )
        note_settings(folder, name, modalities)
    return True


def train_tokenizers(
    config: Path,
    raw: Path | None,
    out: Path | None,
    cache: Path,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> None:
    """Train all tokenizers of a config, or ``only`` these; folders left out are the config's.

    Raises UserError for a tokenizer that the config lacks and for folders that no one names.
    """
    described = read_yaml(config)
    raw_folder, out_folder = raw or described.get("raw"), out or described.get("out")
    if raw_folder is None or out_folder is None:
        raise UserError(f"where? {config} does not say raw and out: give --raw and --out")
    with PartialState().main_process_first():
        for line in settle_ranges(config, raw_folder):
            _log.info("%s", line)
    modalities = ModalitySet.load(config)
    for name in only:
        if name not in modalities.tokenizers:
            raise UserError(
                f"no tokenizer {name!r} in {config}; it has {', '.join(modalities.tokenizers)}"
            )
    check_overrides(only or list(modalities.tokenizers), modalities, overrides)
    for name in only or modalities.tokenizers:
        train_tokenizer(
            name, modalities, Path(raw_folder), Path(out_folder), cache, list(overrides)
        )


# door of earlier releases: python -m fourm_tokenizers.train is fourm train-tokenizer
main = door("train-tokenizer")

if __name__ == "__main__":
    main()
