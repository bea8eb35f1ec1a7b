"""Seconds of a training step: packed streams with 7 and with 21 modalities, and 4M's way of doing
the same step.

    python benchmarks/training_step.py [--dim 192] [--out FILE]

The plain way, written with the same weights: embed every token of every modality, gather the chosen
ones into padded tensors, attend with an explicit softmax over full masks, and give every decoder
slot logits of its modality. Same samples, same masks, same loss (the difference is printed). JSON
on standard output.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourm.batch import MASK_QUERY, MaskedBatch
from fourm.masking import Masker, MaskingComponent, MaskingConfig
from fourm.modalities import ModalitySet
from fourm.model import FourM, ModelConfig
from fourm.tokens import SampleTokens

GRID, VOCAB, BATCH, BUDGET = 14, 1024, 16, 128


def modality_set(num: int) -> ModalitySet:
    entry = {
        "kind": "grid",
        "raw": {"type": "image", "size": 224},
        "vocab_size": VOCAB,
        "grid": [GRID, GRID],
    }
    return ModalitySet.from_mapping({"modalities": {f"m{i}": dict(entry) for i in range(num)}})


def make_batch(modalities: ModalitySet) -> tuple[MaskedBatch, SampleTokens]:
    rng = np.random.default_rng(0)
    n = GRID * GRID
    tokens = SampleTokens.from_arrays(
        np.arange(BATCH),
        {m.name: rng.integers(0, VOCAB, (BATCH, n)) for m in modalities},
        {m.name: np.full(BATCH, n) for m in modalities},
    )
    component = MaskingComponent(input_default=0.5, target_default=0.5)
    config = MaskingConfig(
        num_inputs=(BUDGET, BUDGET), num_targets=(BUDGET, BUDGET), components=(component,)
    )
    return Masker(modalities, config, 0)(tokens, np.arange(BATCH)), tokens


def explicit(module, rows: Tensor, context: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN001
    """Softmax attention written out: rows (B, N, D), context (B, M, D), mask (B, N, M)."""
    q, k, v = module.qkv.weight.chunk(3)
    split = lambda x: x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)  # noqa: E731
    q, k, v = split(F.linear(rows, q)), split(F.linear(context, k)), split(F.linear(context, v))
    scores = (
        (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5)
        .masked_fill(~mask[:, None], -torch.inf)
        .softmax(-1)
    )
    return module.proj((scores @ v).transpose(1, 2).flatten(2))


def plain_loss(model: FourM, batch: MaskedBatch, tokens: SampleTokens) -> Tensor:
    """The same loss, 4M's way."""
    modalities = list(model.modalities)
    n = GRID * GRID
    kind = torch.arange(len(modalities)).repeat_interleave(n)
    position = torch.arange(n).repeat(len(modalities))
    ids = torch.from_numpy(np.concatenate([tokens.content[m.name].padded() for m in modalities], 1))
    assert model.decoder_modality is not None
    content = model.tokens(kind.expand_as(ids).reshape(-1), ids.reshape(-1)).unflatten(
        0, ids.shape
    )  # every token of every modality
    place = (model.positions(kind, position).added + model.modality[kind]).expand_as(content)
    target_place = (
        model.positions(kind, position).added + model.decoder_modality[kind] + model.mask_token
    ).expand_as(content)
    e, d = batch.encoder, batch.decoder
    pick_in = (e.modality * n + e.position).reshape(BATCH, BUDGET)
    pick_out = (d.modality * n + d.position).reshape(BATCH, BUDGET)
    gather = lambda x, at: x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))  # noqa: E731
    emb = gather(place, pick_in)
    rows = gather(content, pick_in) + emb
    everything = torch.ones(BATCH, BUDGET, BUDGET, dtype=torch.bool)
    for block in model.encoder:
        normed = block.norm_self(rows)
        rows = rows + explicit(block.self_attention, normed, normed, everything)
        rows = rows + block.mlp(block.norm_mlp(rows))
    context = model.context(model.encoder_norm(rows)) + emb
    rows, own = gather(target_place, pick_out), kind[pick_out]
    same = own[:, :, None] == own[:, None]
    for block in model.decoder:
        normed = block.norm_self(rows)
        rows = rows + explicit(block.self_attention, normed, normed, same)
        rows = rows + explicit(
            block.cross_attention, block.norm_query(rows), block.norm_context(context), everything
        )
        rows = rows + block.mlp(block.norm_mlp(rows))
    rows, wanted = model.decoder_norm(rows).flatten(0, 1), d.target
    total = rows.new_zeros(())
    for i, m in enumerate(modalities):
        chosen = own.flatten() == i
        total = total + F.cross_entropy(
            model.logits(rows[chosen], m.name), wanted[chosen], reduction="sum"
        )
    return total


def seconds(action, repeats: int) -> float:  # noqa: ANN001
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, float] = {
        "dim": options.dim,
        "batch": BATCH,
        "tokens_in": BUDGET,
        "tokens_out": BUDGET,
    }
    for num in (7, 21):
        modalities = modality_set(num)
        torch.manual_seed(0)
        model = FourM(
            ModelConfig(dim=options.dim, encoder_depth=4, decoder_depth=4, num_heads=6), modalities
        )
        for p in model.parameters():
            if p.ndim == 2 and not p.any():
                torch.nn.init.normal_(p, std=0.02)
        batch, tokens = make_batch(modalities)
        assert (batch.decoder.input == MASK_QUERY).all()

        def packed(model: FourM = model, batch: MaskedBatch = batch) -> None:
            model.zero_grad(set_to_none=True)
            (model(batch).sums.sum() / batch.decoder.lengths.sum()).backward()

        def plain(
            model: FourM = model, batch: MaskedBatch = batch, tokens: SampleTokens = tokens
        ) -> None:
            model.zero_grad(set_to_none=True)
            (plain_loss(model, batch, tokens) / batch.decoder.lengths.sum()).backward()

        with torch.no_grad():
            ours, theirs = float(model(batch).sums.sum()), float(plain_loss(model, batch, tokens))
        result[f"loss_difference_{num}"] = abs(ours - theirs) / theirs
        result[f"packed_{num}_s"] = round(seconds(packed, options.repeats), 4)
        result[f"plain_{num}_s"] = round(seconds(plain, options.repeats), 4)
        result[f"ratio_{num}"] = round(result[f"plain_{num}_s"] / result[f"packed_{num}_s"], 2)
    result["cost_of_21_over_7"] = round(result["packed_21_s"] / result["packed_7_s"], 3)
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
