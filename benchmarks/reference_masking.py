"""Masking a sample at a time in torch and Python lists, as apple/ml-4m does it: the baseline of
``loader.py``.

Written from the description of its rules, not from its code. Every modality of a sample becomes a
padded tensor with three masks, whatever was chosen of it, and a batch stacks them all: what the
model then takes of it is gathered on its side, which is not timed here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Dirichlet
from torch.utils.data import default_collate

from fourm.batches.masking import MaskingComponent, MaskingConfig
from fourm.modalities import FIRST_SENTINEL, Modality, ModalitySet

Masked = dict[str, Tensor]


def mask_batch(
    modalities: ModalitySet, config: MaskingConfig, samples: list[dict[str, np.ndarray]]
) -> dict[str, Masked]:
    """Masked and collated samples, each given as ids (L,) by modality."""
    return default_collate([mask_sample(modalities, config, sample) for sample in samples])


def mask_sample(
    modalities: ModalitySet, config: MaskingConfig, sample: dict[str, np.ndarray]
) -> dict[str, Masked]:
    """Tensor, input mask, target mask (True = hidden) and attention mask of each modality."""
    weights = torch.tensor([c.weight for c in config.components])
    component = config.components[int(torch.multinomial(weights, 1))]
    num_in = int(torch.randint(config.num_inputs[0], config.num_inputs[1] + 1, (1,)))
    num_out = int(torch.randint(config.num_targets[0], config.num_targets[1] + 1, (1,)))
    most = torch.tensor([m.num_tokens for m in modalities])
    given = torch.minimum(_budgets(_alpha(component, modalities, True), num_in), most)
    is_sequence = torch.tensor([m.kind == "sequence" for m in modalities])
    room = torch.where(is_sequence, most, most - given)
    wanted = torch.minimum(_budgets(_alpha(component, modalities, False), num_out), room)
    result = {}
    for i, m in enumerate(modalities):
        mask = _mask_sequence if m.kind == "sequence" else _mask_grid
        result[m.name] = mask(m, sample[m.name], int(given[i]), int(wanted[i]))
    return result


def _alpha(component: MaskingComponent, modalities: ModalitySet, is_input: bool) -> Tensor:
    table = component.input if is_input else component.target
    default = component.input_default if is_input else component.target_default
    allowed = [m.input if is_input else m.output for m in modalities]
    alpha = [table.get(m.name, default) * a for m, a in zip(modalities, allowed, strict=True)]
    return torch.tensor(alpha).clamp_min(1e-9)


def _budgets(alpha: Tensor, total: int) -> Tensor:
    share = Dirichlet(alpha)
    budgets = (share.sample() * total).floor().int()
    for _ in range(total - int(budgets.sum())):
        budgets[share.sample().argmax()] += 1
    return budgets


def _mask_grid(m: Modality, ids: np.ndarray, given: int, wanted: int) -> Masked:
    order = torch.argsort(torch.rand(m.num_tokens))
    back = torch.argsort(order)
    input_mask, target_mask = torch.ones(2, m.num_tokens, dtype=torch.bool)
    input_mask[:given] = False
    target_mask[given : given + wanted] = False
    input_mask, target_mask = input_mask[back], target_mask[back]
    attention = torch.zeros(m.num_tokens, dtype=torch.int)
    if wanted:
        attention[int((~target_mask).nonzero()[0])] = wanted
    return {
        "tensor": torch.from_numpy(ids.astype(np.int64)),
        "input_mask": input_mask,
        "target_mask": target_mask,
        "attention": attention,
    }


def _mask_sequence(m: Modality, ids: np.ndarray, given: int, wanted: int) -> Masked:
    sequence = ids.tolist()
    if not given:
        shown, target = [], [FIRST_SENTINEL, *sequence, FIRST_SENTINEL + 1]
    else:
        keep = float(torch.rand(1))
        shown, target = _hide(sequence, torch.rand(len(sequence)) <= keep)
        while len(shown) > given:
            keep *= 0.9
            shown, target = _hide(sequence, torch.rand(len(sequence)) <= keep)
    if len(target) > wanted:
        target = _window(target, wanted)
    size = (m.num_tokens + 1) * 2
    tensor, attention = torch.zeros(size, dtype=torch.int), torch.zeros(size, dtype=torch.int)
    input_mask, target_mask = torch.ones(2, size, dtype=torch.bool)
    tensor[: len(shown)] = torch.tensor(shown, dtype=torch.int)
    input_mask[: len(shown)] = False
    end = given + len(target)
    tensor[given:end] = torch.tensor(target, dtype=torch.int)
    target_mask[given:end] = False
    attention[given:end] = 1
    return {
        "tensor": tensor,
        "input_mask": input_mask,
        "target_mask": target_mask,
        "attention": attention,
    }


def _hide(ids: list[int], keep: Tensor) -> tuple[list[int], list[int]]:
    shown, target, number, was_kept = [], [], 0, True
    for token, kept in zip(ids, keep.tolist(), strict=True):
        if kept:
            shown.append(token)
        else:
            if was_kept:
                shown.append(FIRST_SENTINEL + number)
                target.append(FIRST_SENTINEL + number)
                number += 1
            target.append(token)
        was_kept = kept
    return shown, [*target, FIRST_SENTINEL + number]


def _window(target: list[int], wanted: int) -> list[int]:
    starts = [i for i, t in enumerate(target) if FIRST_SENTINEL <= t < FIRST_SENTINEL + 199][:-1]
    if not starts:
        return target[:wanted]
    first = starts[int(torch.randint(len(starts), (1,)))]
    if len(target) - first < wanted:
        first = next(i for i in starts if len(target) - i <= wanted)
    return target[first : first + wanted]
