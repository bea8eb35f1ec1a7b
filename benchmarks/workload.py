"""The training steps that benchmarks measure: a model, masks, samples of the right shapes.

Ids are random: no figure of time depends on what they say. Sequences have the lengths that texts of
their kind have. ``Step`` is what ``fourm.training.loop.Loop`` does with one batch on one process:
forward, backward, clipping, optimizers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourm.batches.batch import MaskedBatch
from fourm.batches.masking import Masker, MaskingConfig
from fourm.batches.tokens import SampleTokens
from fourm.config import from_mapping, read_yaml
from fourm.modalities import PAD_ID, SENTINEL_ID, Modality, ModalitySet
from fourm.model.flops import training_flops
from fourm.model.model import FourM, ModelConfig
from fourm.resources import configs_folder
from fourm.training.allocations import keep_freed_memory
from fourm.training.optimizers import OptimizerConfig, build_optimizers
from fourm.training.state import TrainingState

# ids of a sample's text, shortest and longest; sequences that are not named fill their modality
TEXT_LENGTHS = {
    "caption": (8, 40),
    "boxes": (7, 24),
    "det": (6, 120),
    "metadata": (20, 40),
    "human_poses": (2, 160),
    "color_palette": (5, 23),
    "sam_instance": (60, 290),
}
# 4M-7 without its pictures' component, and the mixture of 4M-21 (2406.09406)
ALL_TO_ALL_7: list[dict[str, Any]] = [{"input_default": 0.5, "target_default": 0.5}]
MIXTURE_21: list[dict[str, Any]] = [
    {"input_default": 0.01, "target_default": 0.01},
    {"input_default": 0.1, "target_default": 0.1},
    {"input_default": 1.0, "target_default": 1.0},
    {"input_default": 10.0, "target_default": 10.0},
    {"input": {"rgb@224": 1000.0}, "target_default": 0.5},
    {
        "weight": 0.5,
        "input": {"caption": 5.0},
        "input_default": 0.05,
        "keep": {"caption": "all"},
        "target": {"caption": 0.0},
        "target_default": 0.5,
    },
    {
        "weight": 0.5,
        "input": {"t5_caption": 5.0},
        "input_default": 0.05,
        "target_default": 0.5,
    },
]


@dataclass(frozen=True)
class Samples:
    """B samples by modality."""

    arrays: dict[str, np.ndarray]  # (B, L) ids, padded, or (B, L, C) vectors
    lengths: dict[str, np.ndarray]  # (B,)

    def tokens(self, numbers: np.ndarray) -> SampleTokens:
        """As masking takes them; ``numbers`` (B,) are the samples' in their data set."""
        return SampleTokens.from_arrays(numbers, self.arrays, self.lengths)


@dataclass(frozen=True)
class Workload:
    """One kind of training step."""

    modalities: ModalitySet
    model: ModelConfig
    masking: MaskingConfig
    batch_size: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def samples(self, seed: int) -> Samples:
        """Random tokens and vectors of one batch, before masking."""
        rng, num = np.random.default_rng(seed), self.batch_size
        arrays, lengths = {}, {}
        for m in self.modalities:
            lengths[m.name] = rng.integers(*_lengths(m), num, endpoint=True)
            if m.kind == "continuous":
                shape = (num, m.num_tokens, m.width)
                arrays[m.name] = rng.standard_normal(shape, dtype=np.float32)
                continue
            # text begins behind the special ids
            low = m.vocab_size // 4 if m.kind == "sequence" else 0
            drawn = rng.integers(low, m.vocab_size, (num, m.num_tokens))
            inside = np.arange(m.num_tokens) < lengths[m.name][:, None]
            arrays[m.name] = np.where(inside, drawn, PAD_ID)
            assert low > SENTINEL_ID or m.kind != "sequence"
        return Samples(arrays, lengths)

    def batch(self, seed: int) -> MaskedBatch:
        """A masked batch, a function of ``seed``."""
        numbers = np.arange(self.batch_size)
        tokens = self.samples(seed).tokens(numbers)
        draws = seed * self.batch_size + numbers
        return Masker(self.modalities, self.masking, 0)(tokens, draws)

    def build(self) -> FourM:
        """The model, with random weights where training starts from zeros: blocks that do nothing
        and heads that say nothing would agree whatever went wrong.
        """
        torch.manual_seed(0)
        model = FourM(self.model, self.modalities)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        return model.train()

    def padding(self) -> Workload:
        """The same with masks as 4M draws them: what a modality cannot use of its share is lost."""
        return replace(self, masking=replace(self.masking, redistribute=False))

    def flops(self, batch: MaskedBatch) -> int:
        """Operations of a batch's training step."""
        return int(training_flops(self.model, self.modalities, batch))


def _lengths(m: Modality) -> tuple[int, int]:
    if m.kind != "sequence" and m.name != "t5_caption":
        return m.num_tokens, m.num_tokens
    low, high = TEXT_LENGTHS.get(m.name, (m.num_tokens // 4, m.num_tokens))
    return min(low, m.num_tokens), min(high, m.num_tokens)


def useful_tokens(batch: MaskedBatch) -> int:
    """Rows of a batch that hold a token: inputs and targets."""
    return int(batch.encoder.lengths.sum() + batch.decoder.lengths.sum())


def workload_of_4m(
    num_modalities: int,
    model: ModelConfig,
    tokens: int,
    batch_size: int,
    pixels: bool = True,
) -> Workload:
    """4M-7 or 4M-21, ``tokens`` inputs and as many targets a sample.

    Args:
        pixels: False leaves pictures as pixels out, and of 4M-7 the component that shows nothing
            else.
    """
    modalities = ModalitySet.load(configs_folder() / "modalities" / f"4m_{num_modalities}.yaml")
    if not pixels:
        members = tuple(m for m in modalities if m.name != "rgb@224")
        modalities = ModalitySet(members, modalities.tokenizers)
    components = MIXTURE_21 if num_modalities == 21 else ALL_TO_ALL_7
    if pixels and num_modalities == 7:
        components = [*ALL_TO_ALL_7, {"input": {"rgb@224": 1000.0}, "target_default": 0.5}]
    if not pixels:
        components = [c for c in components if "rgb@224" not in c.get("input", {})]
    given = {"num_inputs": [tokens] * 2, "num_targets": [tokens] * 2, "components": components}
    return Workload(modalities, model, from_mapping(MaskingConfig, given, "masking"), batch_size)


def workload_of_demo() -> Workload:
    """The step of ``make demo``, from its configs."""
    folder = configs_folder()
    config = read_yaml(folder / "pretrain" / "demo.yaml")
    return Workload(
        ModalitySet.load(folder / "modalities" / "demo.yaml"),
        from_mapping(ModelConfig, config["model"], "demo.yaml"),
        from_mapping(MaskingConfig, config["masking"], "demo.yaml"),
        config["loop"]["batch_size"],
        from_mapping(OptimizerConfig, config["loop"]["optimizer"], "demo.yaml"),
    )


@dataclass
class Seconds:
    """CPU seconds of this process in each part of a step."""

    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0

    @property
    def step(self) -> float:
        """All parts together."""
        return self.forward + self.backward + self.optimizer


def timed_step(loss_of: Callable[[], Tensor], update: Callable[[], None]) -> tuple[float, Seconds]:
    """One training step and its loss; ``update`` is what follows the backward pass."""
    marks = [time.process_time()]
    loss = loss_of()
    marks.append(time.process_time())
    loss.backward()
    marks.append(time.process_time())
    update()
    marks.append(time.process_time())
    return float(loss.detach()), Seconds(*np.diff(marks).tolist())


class Step:
    """Our training step as ``Loop`` has it: packed rows, the optimizers of ``build_optimizers``,
    memory that is kept from step to step.
    """

    def __init__(self, work: Workload, device: torch.device | str = "cpu") -> None:
        keep_freed_memory()
        self.work, self.model = work, work.build().to(device)
        self.state = TrainingState(self.model, build_optimizers(self.model, work.optimizer), 0.0)

    def factors(self, batches: Sequence[MaskedBatch]) -> Tensor:
        """What the losses of each modality (modalities,) are multiplied with: the loss is the mean
        over the output modalities of each one's mean, 0 for those without targets.
        """
        counts = np.sum([batch.decoder.counts for batch in batches], axis=0)
        factors = 1.0 / np.maximum(counts, 1) / len(self.work.modalities.outputs)
        return torch.from_numpy(factors.astype(np.float32))

    def __call__(self, batch: MaskedBatch) -> tuple[float, Seconds]:
        """One step; its loss and CPU seconds. What a loader's worker does is not among them."""
        batch = self.model.preparation()(batch)

        def loss() -> Tensor:
            return (self.model(batch).sums * self.factors([batch])).sum()

        return timed_step(loss, self.update)

    def update(self) -> None:
        """Clip and step after a backward pass."""
        gradients = self.state.gradients
        self.state.update(None, gradients.clip(gradients.norm(), self.work.optimizer.clip))


def sizes_of(work: Workload) -> dict[str, Any]:
    """What a workload is, for a report."""
    c = work.model
    return {
        "modalities": len(work.modalities),
        "dim": c.dim,
        "layers": [c.encoder_depth, c.decoder_depth],
        "heads": c.num_heads,
        "tokens": [list(work.masking.num_inputs), list(work.masking.num_targets)],
        "batch": work.batch_size,
    }
