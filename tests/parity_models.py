"""Models compared with recorded outputs of the reference: rows, logits, losses, generation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from parity_tensors import RELATIVE_TOLERANCE, Comparison, compare, read_tensors, unpacked
from torch import Tensor

from fourm.batches.batch import MASK_QUERY, MaskedBatch, StreamRows
from fourm.interop.released import released_tensors
from fourm.model.model import FourM
from fourm.sampling.autoregressive import CachedDecoder
from fourm.sampling.state import Branch, GridState, SampleState, encoder_stream


@dataclass(frozen=True)
class Selected:
    """Rows of one stream that the reference keeps: sample and slot of each, in our packed order."""

    sample: np.ndarray
    slot: np.ndarray


def to_batch(
    model: FourM,
    given: dict[str, dict[str, np.ndarray]],
    order: list[str],
    num_in: int,
    num_out: int,
) -> tuple[MaskedBatch, Selected, Selected]:
    """The reference's padded batch as packed streams, and where their rows lie in its (batch, slot)
    tensors.
    """
    size = len(next(iter(given.values()))["input_mask"])
    encoder, decoder = StreamRows(size), StreamRows(size)
    causal = np.array([m.kind == "sequence" for m in model.modalities])
    used_in, used_out = np.zeros(size, int), np.zeros(size, int)
    slots_in: list[tuple[np.ndarray, np.ndarray]] = []
    slots_out: list[tuple[np.ndarray, np.ndarray]] = []
    for name in order:
        if name not in model.modalities:
            continue
        m, index, data = model.modalities[name], model.modalities.index(name), given[name]
        if m.input:
            mask = ~data["input_mask"]
            rank = np.cumsum(mask, 1) - 1
            mask = mask & (rank + used_in[:, None] < num_in)
            sample, column = np.nonzero(mask)
            slots_in.append((sample, used_in[sample] + rank[sample, column]))
            position = rank[sample, column] if m.grid is None and m.kind != "set" else column
            if m.kind == "continuous":
                values = data["tensor"]
                if m.patch_size:
                    p = m.patch_size
                    values = rearrange(values, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p)
                encoder.add_vectors(name, index, sample, position, values[sample, column])
            else:
                encoder.add(
                    index, sample, position, data["tensor"].reshape(size, -1)[sample, column]
                )
            used_in = used_in + mask.sum(1)
        if m.output:
            mask = ~data["target_mask"]
            ids = data["tensor"].reshape(size, -1)
            if m.kind == "sequence":  # a place counts if it and the next are targets
                mask, inputs, targets = mask[:, :-1] & mask[:, 1:], ids[:, :-1], ids[:, 1:]
            else:
                inputs, targets = np.full_like(ids, MASK_QUERY), ids
            rank = np.cumsum(mask, 1) - 1
            mask = mask & (rank + used_out[:, None] < num_out)
            sample, column = np.nonzero(mask)
            slots_out.append((sample, used_out[sample] + rank[sample, column]))
            position = rank[sample, column] if m.kind == "sequence" else column
            decoder.add(index, sample, position, inputs[sample, column], targets[sample, column])
            used_out = used_out + mask.sum(1)
    batch = MaskedBatch(encoder.encoder(), decoder.decoder(causal), np.arange(size))
    return batch, _packed(slots_in), _packed(slots_out)


def _packed(parts: list[tuple[np.ndarray, np.ndarray]]) -> Selected:
    sample, slot = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(sample, kind="stable")
    return Selected(sample[order], slot[order])


def by_modality(tensors: dict[str, Tensor], start: str = "") -> dict[str, dict[str, np.ndarray]]:
    result: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in tensors.items():
        if key.startswith(start):
            name, _, part = key.removeprefix(start).rpartition("/")
            result.setdefault(name, {})[part] = tensor.numpy()
    return result


def check_fourm(folder: Path) -> Iterator[Comparison]:
    """Embeddings, encoder, decoder, logits, losses, gradients and generation of one checkpoint."""
    meta = json.loads((folder / "meta.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        model = FourM.from_pretrained(unpacked(folder, Path(scratch)), dtype=torch.float32)
    expected = read_tensors(folder, "outputs")
    given = by_modality(read_tensors(folder, "inputs"))
    order = meta["modality_order"]
    batch, seen, wanted = to_batch(
        model, given, order, meta["num_encoder_tokens"], meta["num_decoder_tokens"]
    )

    content, at = model._embed_input(batch.encoder)
    encoded = model.encode(batch.encoder)
    hidden = model.decode(encoded, batch.decoder)
    inputs = (torch.from_numpy(seen.sample), torch.from_numpy(seen.slot))
    outputs = (torch.from_numpy(wanted.sample), torch.from_numpy(wanted.slot))
    num_registers = model.config.num_registers
    own = _rows_of_tokens(batch.encoder.lengths, num_registers)

    def of_inputs(name: str) -> Tensor:
        """Rows of the reference that hold tokens; it may put registers before them."""
        table = expected[name]
        return table[:, table.shape[1] - meta["num_encoder_tokens"] :][inputs]

    yield compare("encoder_in/tokens", content, of_inputs("encoder_in/tokens"))
    yield compare("encoder_in/emb", at.added, of_inputs("encoder_in/emb"))
    ids = torch.tensor([meta["modality_ids"][m.name] for m in model.modalities])
    yield compare(
        "encoder_in/mod_mask", ids[batch.encoder.modality], of_inputs("encoder_in/mod_mask").long()
    )
    yield compare("encoder_out", encoded.features[own], of_inputs("encoder_out"))
    if (
        num_registers
        and expected["encoder_out"].shape[1] == meta["num_encoder_tokens"] + num_registers
    ):
        rows = encoded.features[_complement(own, len(encoded.features))]
        yield compare(
            "encoder_out (registers)",
            rows,
            expected["encoder_out"][:, :num_registers].flatten(0, 1),
        )

    d = batch.decoder
    embedded, _ = model.embed_target(d.modality, d.position, d.input)
    yield compare(
        "decoder_in/tokens+emb",
        embedded,
        (expected["decoder_in/tokens"] + expected["decoder_in/emb"])[outputs],
    )
    yield compare(
        "decoder_in/mod_mask",
        ids[batch.decoder.modality],
        expected["decoder_in/mod_mask"][outputs].long(),
    )
    yield compare(
        "decoder_in/target_ids", batch.decoder.target, expected["decoder_in/target_ids"][outputs]
    )
    yield compare("decoder_out", hidden, expected["decoder_out"][outputs])
    for m in model.modalities:
        rows = torch.nonzero(batch.decoder.modality == model.modalities.index(m.name))[:, 0]
        if not m.output:
            continue
        logits = model.logits(hidden[rows], m.name)
        if f"logits/{m.name}" in expected:
            yield compare(
                f"logits/{m.name}", logits[: meta["keep_logits"]], expected[f"logits/{m.name}"]
            )
        # of all rows, also those that belong to other modalities
        if f"logits_sum/{m.name}" in expected:
            every = model.logits(hidden, m.name)
            # a sum of V numbers is exact to its parts' scale
            scale = every.abs().double().sum(-1).max().item()
            difference = (
                (every.double().sum(-1) - expected[f"logits_sum/{m.name}"][outputs])
                .abs()
                .max()
                .item()
            )
            yield Comparison(f"logits_sum/{m.name}", difference, RELATIVE_TOLERANCE * scale)
    yield from _check_losses(model, batch, meta, expected)
    if (folder / "generation.safetensors").is_file() or (
        folder / "generation.safetensors.xz"
    ).is_file():
        yield from _check_generation(model, read_tensors(folder, "generation"))


def _rows_of_tokens(lengths: np.ndarray, num_registers: int) -> Tensor:
    """Packed rows that are no registers: each sample begins with its registers."""
    sample = np.repeat(np.arange(len(lengths)), lengths)
    return torch.from_numpy(np.arange(len(sample)) + num_registers * (sample + 1))


def _complement(rows: Tensor, size: int) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[rows] = False
    return mask


def _check_losses(
    model: FourM, batch: MaskedBatch, meta: dict, expected: dict[str, Tensor]
) -> Iterator[Comparison]:
    losses = model(batch)
    present = [m for m in model.modalities.outputs if m.name in meta["modality_order"]]
    at = [model.modalities.index(m.name) for m in present]
    means = losses.sums[at] / losses.counts[at].clamp_min(1)
    for m, mean in zip(present, means, strict=True):
        if f"mod_loss/{m.name}" in expected:
            yield compare(f"mod_loss/{m.name}", mean, expected[f"mod_loss/{m.name}"])
    average = means.mean()
    yield compare("loss.mod", average, expected["loss.mod"])
    if "loss.token" in expected:  # the reference weights a modality by targets x vocabulary
        weight = losses.counts[at] * torch.tensor([float(m.vocab_size) for m in present])
        yield compare("loss.token", (means * weight).sum() / weight.sum(), expected["loss.token"])
    if "grad_norm" in meta:
        average.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        ours = {
            name: g.norm().item()
            for name, g in released_tensors(model, gradients, dead=False).items()
        }
        largest = max(meta["grad_norm"].values())
        for name, norm in meta["grad_norm"].items():
            twin = name.replace("decoder_embeddings", "encoder_embeddings")
            found = ours.get(name, ours.get(twin))
            difference = (
                abs(found - norm) if found is not None else (0.0 if norm == 0 else float("inf"))
            )
            yield Comparison(
                f"grad_norm {name}", difference, RELATIVE_TOLERANCE * max(norm, 0.01 * largest)
            )


def state_of(model: FourM, given: dict[str, dict[str, np.ndarray]]) -> SampleState:
    """A generation state of the reference: what its input masks leave visible."""
    size = len(next(iter(given.values()))["tensor"])
    state = SampleState(size)
    for name, data in given.items():
        mask = ~data["input_mask"]
        if model.modalities[name].kind == "sequence":
            state.sequences[name] = [
                row[keep] for row, keep in zip(data["tensor"], mask, strict=True)
            ]
        else:
            state.grids[name] = GridState(data["tensor"], mask)
    return state


@torch.inference_mode()
def _check_generation(model: FourM, expected: dict[str, Tensor]) -> Iterator[Comparison]:
    causal = np.array([m.kind == "sequence" for m in model.modalities])
    if "maskgit/pos" in expected:
        given = by_modality(expected, "maskgit/in/")
        state, position = state_of(model, given), expected["maskgit/pos"].numpy()
        target = next(
            name
            for name, data in given.items()
            if model.modalities[name].kind != "sequence" and data["input_mask"].any()
        )
        conditions = [name for name in given if name != target]
        size, count = position.shape
        rows = StreamRows(2 * size)
        sample = np.repeat(np.arange(size), count)
        for branch in range(2):
            query = np.full(len(sample), MASK_QUERY)
            rows.add(
                model.modalities.index(target),
                sample + branch * size,
                position.reshape(-1),
                query,
                query * 0,
            )
        stream = encoder_stream([state, Branch(frozenset(conditions)).of(state)], model.modalities)
        logits = model.logits(model.decode(model.encode(stream), rows.decoder(causal)), target)
        full, empty = logits.unflatten(0, (2, size, count))
        shown = expected["maskgit/logits_first16"].shape[1]
        yield compare("maskgit/logits_first16", full[:, :shown], expected["maskgit/logits_first16"])
        yield compare(
            "maskgit/uncond_logits_first16",
            empty[:, :shown],
            expected["maskgit/uncond_logits_first16"],
        )
        yield compare("maskgit/argmax", full.argmax(-1), expected["maskgit/argmax"])
        if "maskgit/cfg3_argmax" in expected:
            yield compare(
                "maskgit/cfg3_argmax",
                (empty + (full - empty) * 3).argmax(-1),
                expected["maskgit/cfg3_argmax"],
            )
    for name, scale in (("ar/greedy", 1.0), ("ar/greedy_cfg2", 2.0)):
        if name in expected:
            yield compare(
                name, _greedy(model, by_modality(expected, "ar/in/"), scale), expected[name]
            )


def _greedy(model: FourM, given: dict[str, dict[str, np.ndarray]], scale: float) -> Tensor:
    """Left-to-right argmax with the cache, guided by everything but the target."""
    state = state_of(model, given)
    target = next(
        name
        for name, data in given.items()
        if model.modalities[name].kind == "sequence" and not data["target_mask"].all()
    )
    others = frozenset(name for name in given if name != target)
    branches = [state] if scale == 1.0 else [state, Branch(others).of(state)]
    length = int((~given[target]["target_mask"][0]).sum())
    last = int(given[target]["tensor"][0][~given[target]["target_mask"][0]][-1])
    decoder = CachedDecoder(model, model.encode(encoder_stream(branches, model.modalities)), length)
    tokens = torch.from_numpy(given[target]["tensor"][:, 0].astype(np.int64))
    result, finished = [], torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(length):
        rows = decoder.step(model.modalities.index(target), tokens.repeat(len(branches)))
        logits = model.logits(rows, target).unflatten(0, (len(branches), -1))
        guided = logits[0] if scale == 1.0 else logits[1] + scale * (logits[0] - logits[1])
        tokens = guided.argmax(-1)
        result.append(tokens)
        finished |= tokens == last
        if finished.all():
            break
    return torch.stack(result, 1)
