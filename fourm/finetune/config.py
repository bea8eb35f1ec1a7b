"""Everything a fine-tuning is made of; YAML files under ``configs/finetune`` are this tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fourm.config import at_least
from fourm.errors import UserError
from fourm.finetune.heads import Head
from fourm.training.loop_config import LoopConfig
from fourm.training.lora import LoraConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One task more for a trained model."""

    out: str
    init: str  # model folder, hub id or project
    data: str  # project, or folder that holds raw/ (and tokens/)
    # what is learned: a modality, or TABLE.csv:COLUMN; with numbers: true several columns, x,y
    target: str
    numbers: bool = False  # the target is a number, or several, and no class
    inputs: tuple[str, ...] = ("rgb",)
    # what answers: linear or attentive (classes, numbers), dense (maps); null = the model's own
    # decoder, for a target that has a tokenizer
    head: Head | None
    # all = the encoder too; head = it stays as it is (of the decoder: all that the model knew)
    learns: Literal["all", "head"] = "all"
    lora: LoraConfig | None = None  # instead of the encoder itself, adapters of it learn
    # fresh = the same network from random weights: what a trained one is compared with
    weights: Literal["trained", "fresh"] = "trained"
    modalities: str = ""  # YAML file of a set that has the target, where the model's own lacks it
    tokenizers: str = ""  # folder of that set's tokenizers; empty = the model's
    labels: int = 0  # training samples, drawn by the seed; 0 = all
    eval_samples: int = 512  # most that are judged
    split: str = "train"
    validation_split: str = "val"
    loop: LoopConfig

    def __post_init__(self) -> None:
        at_least(self, 0, "labels")
        at_least(self, 2, "eval_samples")
        if not self.inputs:
            raise UserError("no inputs: name at least one modality, e.g. [rgb]")
        if self.target in self.inputs:
            raise UserError(f"{self.target} is the target and an input: there is nothing to learn")
        if self.numbers and (self.head is None or self.head.has_places):
            raise UserError("numbers: true needs a head of whole samples: linear or attentive")
        if self.lora is not None and self.weights == "fresh":
            raise UserError("lora needs trained weights: adapters of fresh ones learn nothing")
        if self.learns == "head" and self.lora is not None:
            raise UserError("learns: head leaves the encoder alone, lora adapts it: choose one")
