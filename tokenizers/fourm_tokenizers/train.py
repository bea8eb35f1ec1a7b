"""Train the tokenizers of a modality set on its raw shards.

    accelerate launch -m fourm_tokenizers.train --config configs/modalities/<x>.yaml --raw DIR --out DIR [--only NAME] [key=value ...]

Image tokenizers run in the same loop as pretraining (checkpoints, exact resume, logging); the text tokenizer is learned from the
training split's lines in one go. A tokenizer that is already in ``out`` is left as it is.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fourm.codecs import BUILT_IN
from fourm.commands import run_command
from fourm.config import apply_override, from_mapping, to_mapping
from fourm.data.columns import Column, open_column
from fourm.data.order import SampleOrder
from fourm.data.raw import read_raw
from fourm.data.shards import DamageReport, read_shard, shard_paths, write_json_atomic
from fourm.modalities import Modality, ModalitySet
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.loop import Loop, LoopConfig
from fourm.weights import WEIGHTS_FILE
from fourm_tokenizers.autoencoder import AutoencoderConfig, ImageAutoencoder
from fourm_tokenizers.picture import CONFIG_FILE, from_pictures, to_pictures
from fourm_tokenizers.structured import to_text
from fourm_tokenizers.text import TOKENIZER_FILE, TextConfig, train_text_tokenizer

_log = logging.getLogger(__name__)
FIGURES_FILE = "figures.json"
_EVAL_PICTURES = 256
_TEXT_SAMPLES = 200_000  # lines that word pieces are learned from, at most


@dataclass(frozen=True, kw_only=True)
class PictureTokenizerConfig:
    """Settings of an image tokenizer in the ``tokenizer`` entry of its modality."""

    type: str = "autoencoder"
    levels: tuple[int, ...]
    patch_size: int
    dim: int = 128
    num_heads: int = 4
    encoder_depth: int = 2
    decoder_depth: int = 2
    refine_channels: int = 0
    detail_weight: float = 0.0
    train: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2000, batch_size=16))

    def model(self, modality: Modality) -> AutoencoderConfig:
        values = {k: v for k, v in to_mapping(self).items() if k not in ("type", "train")}
        classes = len(modality.raw.classes) if modality.raw.type == "labels" else 0
        return from_mapping(
            AutoencoderConfig,
            {**values, "image_size": modality.raw.size, "channels": modality.raw.num_channels, "num_classes": classes},
            modality.name,
        )


@dataclass(frozen=True)
class PictureBatch:
    pictures: Tensor  # (B, C, H, W) or (B, H, W) class ids
    samples: np.ndarray

    def to(self, device: torch.device | str) -> PictureBatch:
        return PictureBatch(self.pictures.to(device, non_blocking=True), self.samples)

    def pin_memory(self) -> PictureBatch:
        return PictureBatch(self.pictures.pin_memory(), self.samples)


class PictureBatches(torch.utils.data.Dataset):
    """Step number -> this rank's micro-batches of pictures."""

    def __init__(self, column: Column, modality: Modality, config: LoopConfig, rank: int, world_size: int) -> None:
        each, odd = divmod(config.batch_size, world_size * config.micro_batches)
        if odd:
            raise ValueError(f"batch size {config.batch_size} is not a multiple of {world_size} ranks x {config.micro_batches}")
        self._column, self._modality, self._config = column, modality, config
        self._order = SampleOrder([len(column)], [1.0], config.seed)
        self._rank, self._world, self._each = rank, world_size, each

    def __getitem__(self, step: int) -> list[PictureBatch]:
        result = []
        for micro in range(self._config.micro_batches):
            first = step * self._config.batch_size + (micro * self._world + self._rank) * self._each
            samples = self._order(np.arange(first, first + self._each)).sample
            result.append(PictureBatch(to_pictures(self._column.gather(samples)[0][:, 0], self._modality), samples))
        return result


class PictureTask:
    """An image autoencoder on the raw shards of its modality."""

    terms = ("reconstruction",)
    unit = "pictures"

    def __init__(self, modality: Modality, config: PictureTokenizerConfig, raw: Path, cache: Path) -> None:
        self.modality, self.config = modality, config
        self._train = raw_column(modality, raw, "train", cache)
        self._held_out = raw_column(modality, raw, "val", cache)

    def batches(self, rank: int, world_size: int) -> PictureBatches:
        return PictureBatches(self._train, self.modality, self.config.train, rank, world_size)

    def counts(self, batch: PictureBatch) -> np.ndarray:
        return np.array([float(len(batch.samples))])

    def forward(self, model: nn.Module, batch: PictureBatch) -> Tensor:
        return model(batch.pictures).loss[None] * len(batch.samples)

    def weights(self, counts: np.ndarray) -> np.ndarray:
        return 1.0 / np.maximum(counts, 1.0)

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        from fourm.evaluation.metrics import dense_figures

        assert isinstance(model, ImageAutoencoder)
        raw = self._held_out.gather(np.arange(min(_EVAL_PICTURES, len(self._held_out))))[0][:, 0]
        result = model(to_pictures(raw, self.modality).to(device))
        used, counts = result.ids.cpu().unique(return_counts=True)
        share = counts.double() / counts.sum()
        usage = len(used) / min(model.config.codebook_size, result.ids.numel())
        if usage < 0.1:
            _log.warning("%s uses %.0f %% of its codes: take fewer levels or train longer", self.modality.name, 100 * usage)
        figures = dense_figures(self.modality.raw, np.stack(from_pictures(result.output.cpu(), self.modality)), raw)
        return {**figures, "usage": usage, "perplexity": float((-share * share.log()).sum().exp())}

    def save(self, model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
        assert isinstance(model, ImageAutoencoder)
        (folder / CONFIG_FILE).write_text(json.dumps(to_mapping(model.config), indent=1) + "\n")
        save_file({n: t.detach().cpu().contiguous() for n, t in weights.items()}, folder / WEIGHTS_FILE)

    def describe(self, batch: PictureBatch) -> dict[str, Any]:
        return {"samples": batch.samples.tolist(), "keys": self._train.keys[batch.samples].tolist()}


def raw_column(modality: Modality, raw: Path, split: str, cache: Path) -> Column:
    """All raw values of a dense modality in a split, memory-mapped."""
    shards = shard_paths(raw, split, modality.raw_name)
    if not shards:
        raise ValueError(f"no shards in {raw / split / modality.raw_name}")
    spec = modality.raw
    report = DamageReport()
    column = open_column(
        shards, lambda data, ext: read_raw(data, ext, spec)[None], spec.extensions, f"raw {spec}", cache, report
    )
    report.check(cache / f"damage-{split}-{modality.raw_name}.json")
    return column


def train_picture_tokenizer(
    modality: Modality, settings: dict[str, Any], raw: Path, out: Path, cache: Path
) -> dict[str, float]:
    """Train the image tokenizer of a modality and put it into ``out``."""
    config = from_mapping(PictureTokenizerConfig, settings, f"tokenizer of {modality.name}")
    task = PictureTask(modality, config, raw, cache)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        model = ImageAutoencoder(config.model(modality))
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


def text_lines(users: list[Modality], raw: Path, num_bins: int) -> list[str]:
    """Training lines of all modalities that share a text tokenizer."""
    lines: list[str] = []
    report = DamageReport()
    for m in users:
        for shard in shard_paths(raw, "train", m.raw_name):
            for _, value in read_shard(shard, lambda d, e, m=m: read_raw(d, e, m.raw), m.raw.extensions, report):
                lines.append(to_text(value, m.raw, num_bins))
            if len(lines) > _TEXT_SAMPLES:
                break
    return lines


def train_tokenizer(name: str, modalities: ModalitySet, raw: Path, out: Path, cache: Path, overrides: list[str]) -> None:
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
            train_picture_tokenizer(users[0], settings, raw, folder, cache)
    elif kind in BUILT_IN or ":" not in kind:
        raise ValueError(
            f"tokenizer {name}: type {kind!r} is not one of {', '.join(BUILT_IN)} and not of the form package.module:Class"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizers of a modality set.")
    parser.add_argument("--config", required=True, help="YAML file of modalities")
    parser.add_argument("--raw", required=True, type=Path, help="folder of raw shards")
    parser.add_argument("--out", required=True, type=Path, help="folder of tokenizers")
    parser.add_argument("--cache", type=Path, default=Path(".cache/fourm/columns"))
    parser.add_argument("--only", action="append", default=[], help="train this tokenizer alone (may be given again)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the tokenizer's settings, e.g. train.steps=500"
    )
    options = parser.parse_args(arguments)

    def action() -> None:
        modalities = ModalitySet.load(options.config)
        for name in options.only:
            if name not in modalities.tokenizers:
                raise ValueError(f"no tokenizer {name!r} in {options.config}; it has {', '.join(modalities.tokenizers)}")
        for name in options.only or modalities.tokenizers:
            train_tokenizer(name, modalities, options.raw, options.out, options.cache, options.overrides)

    run_command(action)


if __name__ == "__main__":
    main()
