"""A fine-tuned model on disk and in use.

It is a model folder, so that all that takes a model takes its encoder (features, probes, search);
``head.json`` and ``head.safetensors`` beside it are the head. The decoder is as it was and knows
nothing of how the encoder has changed. A folder of adapters has the same two files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fourm.config import check_fields, from_mapping, to_mapping
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.evaluation.opened import device
from fourm.features.sources import chosen_inputs
from fourm.files.formats import FORMAT, check_format
from fourm.files.tensor_file import save_tensors
from fourm.files.weights import WeightFiles, fill, load_weights
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.goals import Goal
from fourm.finetune.heads import Head
from fourm.finetune.task import outputs_of, parts
from fourm.finetune.tuned import Tuned, adapt_encoder, build_head, starting_model
from fourm.modalities import Modality, ModalitySet
from fourm.model.model import load_model
from fourm.pipeline.inputs import Inputs, reads_itself
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.records.provenance import Provenance
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.lora import write_adapters

_BACKBONE = "backbone."  # of the encoder's weights in a checkpoint
HEAD_FILE, HEAD_WEIGHTS = "head.json", "head.safetensors"


@dataclass(frozen=True, kw_only=True)
class SavedHead:
    """What ``head.json`` says."""

    target: str
    inputs: tuple[str, ...]
    head: Head
    goal: Goal

    def __post_init__(self) -> None:
        check_fields(self)

    def write(self, network: nn.Module, folder: Path) -> None:
        """Both files."""
        write_json_atomic(folder / HEAD_FILE, {"format": FORMAT, **to_mapping(self)})
        save_tensors(folder / HEAD_WEIGHTS, network.state_dict())

    @staticmethod
    def read(folder: Path) -> SavedHead:
        """Raises UserError for a folder without a head."""
        path = folder / HEAD_FILE
        if not path.is_file():
            raise UserError(f"{folder} has no {HEAD_FILE}: it is no model that was fine-tuned")
        try:
            described = dict(json.loads(path.read_text()))
        except ValueError:
            raise UserError(f"{path} is not valid JSON: the file is damaged") from None
        check_format(described, path)
        return from_mapping(
            SavedHead, {k: v for k, v in described.items() if k != "format"}, str(path)
        )


def seen_inputs(modalities: ModalitySet, names: Sequence[str]) -> tuple[Modality, ...]:
    """Inputs as the encoder sees them: where it reads a picture itself, that instead of tokens."""
    chosen = chosen_inputs(modalities, ",".join(names))
    return tuple(dict.fromkeys(reads_itself(m, modalities) or m for m in chosen))


def write_tuned(
    config: FinetuneConfig,
    goal: Goal,
    inputs: tuple[Modality, ...],
    made: Provenance,
    figures: Mapping[str, float],
) -> None:
    """``model`` in a run's folder, out of its last checkpoint; with adapters also ``adapters``.

    ``figures`` of the head are told in the model's card.
    """
    out, base = Path(config.out), Path(config.init)
    checkpoint = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None and config.head is not None
    files = WeightFiles.open(checkpoint)
    pipe = AnyToAnyPipeline.from_pretrained(base, config.tokenizers or None)
    saved = SavedHead(target=config.target, inputs=config.inputs, head=config.head, goal=goal)
    network, layers = build_head(pipe.model, config.head, goal, inputs)
    fill(network, lambda name: files.read(f"head.{name}"))
    learned = {
        name.removeprefix(_BACKBONE): files.read(name)
        for name in files
        if name.startswith(_BACKBONE)
    }
    if config.lora is not None:
        folder = out / "adapters"
        folder.mkdir(exist_ok=True)
        pipe.model.write_description(folder)
        adapt_encoder(pipe.model, config.lora, config.init, config.loop.seed, layers)
        write_adapters(pipe.model, None, folder, learned)
        saved.write(network, folder)
        model = load_model(folder)
    else:
        model = starting_model(pipe.model, config)
        own = model.state_dict()
        for name, value in learned.items():
            own[name].copy_(value)
    model.provenance = made  # what was told of the model that it began with is not true of it
    AnyToAnyPipeline(model, pipe.tokenizers_folder, pipe.options).save_pretrained(out / "model")
    saved.write(network, out / "model")
    _tell(saved, figures, config.learns == "head", out / "model" / "README.md")


def _tell(saved: SavedHead, figures: Mapping[str, float], intact: bool, card: Path) -> None:
    """Say in a model's card what it is for: its own text is of what it was."""
    told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    decoder = (
        "Its encoder and its decoder are those of the model that it began with."
        if intact
        else "Its encoder was changed and its decoder was not: do not generate with it."
    )
    note = (
        f"## Fine-tuned\n\n`{HEAD_FILE}` answers `{saved.target}` from {', '.join(saved.inputs)}:"
        f" held out, {told}. {decoder}\n\n"
        "```python\nfrom fourm.finetune.saved import TunedPipeline\n\n"
        'tuned = TunedPipeline.from_pretrained("path/to/this/folder")\n```\n\n'
        "What follows is of the encoder and the decoder.\n\n"
    )
    card.write_text(card.read_text().replace("## Use\n", f"{note}## Use\n", 1))


class TunedPipeline:
    """A fine-tuned model: inputs in, answers out."""

    def __init__(self, pipe: AnyToAnyPipeline, network: Tuned, saved: SavedHead) -> None:
        self.pipe, self.network, self.saved = pipe, network.eval(), saved

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, tokenizers: str | Path | None = None
    ) -> TunedPipeline:
        """Open a fine-tuned model, whole or as adapters. Raises UserError."""
        folder = Path(folder)
        saved = SavedHead.read(folder)
        pipe = AnyToAnyPipeline.from_pretrained(folder, tokenizers, device=device())
        inputs = seen_inputs(pipe.modalities, saved.inputs)
        network, layers = build_head(pipe.model, saved.head, saved.goal, inputs)
        load_weights(network, folder / HEAD_WEIGHTS)
        return cls(pipe, Tuned(pipe.model, network.to(pipe.model.device), layers), saved)

    def outputs(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """The head's numbers (B, C[, H, W]): logits of classes, numbers in deviations from their
        mean, or what the raw type's network form has.
        """
        missing = [name for name in self.saved.inputs if name not in inputs]
        if missing:
            raise UserError(f"{missing[0]} is not given: this model answers from it")
        values = Inputs.of(dict(inputs), 1, self.pipe.modalities)
        found = []
        for part in parts(values.num_samples):
            given = {name: [each[i] for i in part] for name, each in values.values.items()}
            found.append(outputs_of(self.pipe, self.network, given, self.pipe.model.device))
        return torch.cat(found).numpy()

    def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Answers for one sample or lists of them: names of classes, lists of numbers, or maps of
        the raw type.

        ``inputs`` are as those of ``AnyToAnyPipeline``.
        """
        return self.saved.goal.answers(self.outputs(inputs))
