"""Train the tokenizers of a modality set on its raw shards.

    accelerate launch -m fourm_tokenizers.train --config configs/tokenizers/<x>.yaml [--raw DIR] [--out DIR] [--only NAME] [key=value ...]

The config is a modality set, with the folders ``raw`` and ``out`` if it stands alone. Learned
tokenizers run in the same loop as pretraining (checkpoints, exact resume, logging); the text
tokenizer is learned from the training split's lines in one go. A tokenizer that is already in
``out`` is left as it is.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from fourm.codec_types import BUILT_IN
from fourm.commands import run_command
from fourm.config import apply_override, from_mapping, read_yaml
from fourm.data.raw import read_raw
from fourm.data.shards import DamageReport, read_shard, shard_paths, write_json_atomic
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.loop import Loop
from fourm.weights import WEIGHTS_FILE
from fourm_tokenizers.autoencoder import Autoencoder
from fourm_tokenizers.losses import TrainedTokenizer
from fourm_tokenizers.picture import CONFIG_FILE, load_autoencoder
from fourm_tokenizers.settings import TokenizerConfig
from fourm_tokenizers.structured import to_text
from fourm_tokenizers.task import TokenizerTask
from fourm_tokenizers.text import TOKENIZER_FILE, TextConfig, train_text_tokenizer

_log = logging.getLogger(__name__)
FIGURES_FILE = "figures.json"
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
            for _, value in read_shard(
                shard, lambda d, e, m=m: read_raw(d, e, m.raw), m.raw.extensions, report
            ):
                lines.append(to_text(value, m.raw, num_bins))
            if len(lines) > _TEXT_SAMPLES:
                break
    return lines


def train_tokenizer(
    name: str, modalities: ModalitySet, raw: Path, out: Path, cache: Path, overrides: list[str]
) -> None:
    """Train one tokenizer of the set, unless it is there."""
    settings = dict(modalities.tokenizers[name])
    for override in overrides:
        apply_override(settings, override)
    users = [m for m in modalities if m.tokenizer == name]
    kind = settings.get("type", "")
    folder = out / name
    if kind == "text":
        if (folder / TOKENIZER_FILE).is_file():
            return
        config = from_mapping(TextConfig, settings, f"tokenizer {name}")
        tokenizer = train_text_tokenizer(config, text_lines(users, raw, config.num_bins), folder)
        _log.info("%s: %d ids", name, tokenizer.get_vocab_size())
    elif kind == "autoencoder":
        if not (folder / FIGURES_FILE).is_file():
            train_autoencoder(users[0], settings, raw, folder, cache)
    elif kind in BUILT_IN or ":" not in kind:
        raise UserError(
            f"tokenizer {name}: type {kind!r} is not one of {', '.join(BUILT_IN)} and not of the"
            " form package.module:Class"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizers of a modality set.")
    parser.add_argument("--config", required=True, help="YAML file of modalities")
    parser.add_argument("--raw", type=Path, help="folder of raw shards (default: the config's)")
    parser.add_argument("--out", type=Path, help="folder of tokenizers (default: the config's)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/fourm/columns"))
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        help="train this tokenizer alone (may be given again)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to the tokenizer's settings, e.g. train.steps=500",
    )
    options = parser.parse_args(arguments)

    def action() -> None:
        described = read_yaml(options.config)
        raw, out = options.raw or described.get("raw"), options.out or described.get("out")
        if raw is None or out is None:
            raise UserError(
                f"where? {options.config} does not say raw and out: give --raw and --out"
            )
        modalities = ModalitySet.load(options.config)
        for name in options.only:
            if name not in modalities.tokenizers:
                raise UserError(
                    f"no tokenizer {name!r} in {options.config}; it has"
                    f" {', '.join(modalities.tokenizers)}"
                )
        for name in options.only or modalities.tokenizers:
            train_tokenizer(
                name, modalities, Path(raw), Path(out), options.cache, options.overrides
            )

    run_command(action)


if __name__ == "__main__":
    main()
