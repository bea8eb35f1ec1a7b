"""How many steps fit some minutes: an estimate by operations, good to a factor of two."""

from __future__ import annotations

import os

from fourm.batches.mask_config import MaskingConfig
from fourm.modalities import ModalitySet
from fourm.model.flops import flops
from fourm.training.pretrain import PretrainConfig

MINUTES = 10.0  # that default steps are meant for, tokenizers' too
FEWEST_STEPS = 20
# forward passes of configs/pretrain/quickstart.yaml on one core of a 2024 server CPU: 60 steps a
# minute. Larger models use a core better, so that they get fewer steps than there is time for.
_FLOPS_A_CORE_SECOND = 9.7e9
_SECONDS_A_STEP = 0.01  # of the smallest


def steps_in(minutes: float, config: PretrainConfig, modalities: ModalitySet) -> int:
    """Steps of a pretraining that take about so many minutes on all cores of this machine."""
    speed = (os.cpu_count() or 1) * _FLOPS_A_CORE_SECOND
    step = flops_of_step(config, modalities) / speed + _SECONDS_A_STEP
    return max(FEWEST_STEPS, int(minutes * 60 / step))


def flops_of_step(config: PretrainConfig, modalities: ModalitySet) -> float:
    """Operations of the forward passes of one step, with mean numbers of tokens."""
    inputs, targets = map(round, _mean_rows(config.maskings[0]))
    sizes = [m.vocab_size for m in modalities.outputs]
    one = flops(config.model, inputs, 0, (targets,), (round(sum(sizes) / len(sizes)),))
    return float(one.total * config.loop.batch_size)


def _mean_rows(masking: MaskingConfig) -> tuple[float, float]:
    weights = sum(c.weight for c in masking.components)
    inputs = sum(c.weight * sum(c.num_inputs or masking.num_inputs) for c in masking.components)
    targets = sum(c.weight * sum(c.num_targets or masking.num_targets) for c in masking.components)
    return inputs / weights / 2, targets / weights / 2


def shortened(minutes: float, steps: int) -> tuple[str, ...]:
    """Override of a tokenizer that is declared to train for ``steps``, where there is less time."""
    kept = max(FEWEST_STEPS, round(min(1.0, minutes / MINUTES) * steps))
    return (f"train.steps={kept}",) if kept < steps else ()
