"""Compare this package with outputs of the reference implementation of 4M.

    python tests/parity.py FOLDER...

Each folder (or a folder of such folders) holds ``config.json``, ``model.safetensors``,
``inputs.safetensors`` and ``outputs.safetensors``, packed with xz or not: what the reference's own
classes saved, were given and computed. One line is printed for each tensor: name, largest absolute
difference, tolerance (1e-4 of the output's scale, 3e-4 for pictures of several denoising steps; ids
exactly). Exit status 1 if any misses.
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from einops import rearrange
from fourm_tokenizers.noise import noise_betas
from fourm_tokenizers.released.divae import DiVAE
from fourm_tokenizers.released.load import load_tokenizer
from fourm_tokenizers.released.vqvae import VQVAE
from torch import Tensor

from fourm.batch import MASK_QUERY, MaskedBatch, StreamRows
from fourm.interop.released import released_tensors
from fourm.model import FourM
from fourm.sampling.autoregressive import CachedDecoder
from fourm.sampling.state import Branch, GridState, SampleState, encoder_stream

RELATIVE_TOLERANCE = 1e-4
# Several denoising steps amplify rounding: evaluated in float64, the network is 1.4e-5 away from a
# recorded single run and 1.0e-4 away
# from recorded pictures after five steps, so the recordings' own rounding is already as large as
# the tolerance of single runs.
SAMPLED_TOLERANCE = 3e-4


@dataclass(frozen=True)
class Comparison:
    """One compared tensor."""

    name: str
    difference: float
    tolerance: float

    @property
    def good(self) -> bool:
        return self.difference <= self.tolerance


def compare(
    name: str, ours: Tensor | float, theirs: Tensor | float, tolerance: float = RELATIVE_TOLERANCE
) -> Comparison:
    """Floats within ``tolerance`` of the largest number; integers exactly; other shapes never."""
    a, b = torch.as_tensor(ours).detach(), torch.as_tensor(theirs)
    if a.shape != b.shape:
        return Comparison(
            f"{name} (shape {list(a.shape)} instead of {list(b.shape)})", float("inf"), 0.0
        )
    if not b.numel():
        return Comparison(name, 0.0, 0.0)
    a, b = a.double(), b.double() if b.is_floating_point() else b
    if not b.is_floating_point():
        return Comparison(name, (a - b.double()).abs().max().item(), 0.0)
    return Comparison(
        name, (a - b).abs().max().item(), tolerance * b.abs().max().clamp_min(1e-6).item()
    )


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """``name.safetensors`` of a folder, packed or not."""
    packed, plain = folder / f"{name}.safetensors.xz", folder / f"{name}.safetensors"
    return safetensors.torch.load(
        lzma.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    )


def unpacked(folder: Path, into: Path) -> Path:
    """A copy of a model folder as the reference writes it: ``config.json`` and
    ``model.safetensors``.
    """
    packed, plain = folder / "model.safetensors.xz", folder / "model.safetensors"
    (into / "model.safetensors").write_bytes(
        lzma.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    )
    if (folder / "config.json").is_file():
        (into / "config.json").write_bytes((folder / "config.json").read_bytes())
    return into


# ---- FourM ---------------------------------------------------------------------------------------


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


def _by_modality(tensors: dict[str, Tensor], start: str = "") -> dict[str, dict[str, np.ndarray]]:
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
    given = _by_modality(read_tensors(folder, "inputs"))
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
    by_modality = means.mean()
    yield compare("loss.mod", by_modality, expected["loss.mod"])
    if "loss.token" in expected:  # the reference weights a modality by targets x vocabulary
        weight = losses.counts[at] * torch.tensor([float(m.vocab_size) for m in present])
        yield compare("loss.token", (means * weight).sum() / weight.sum(), expected["loss.token"])
    if "grad_norm" in meta:
        by_modality.backward()
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


def _state(model: FourM, given: dict[str, dict[str, np.ndarray]]) -> SampleState:
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
        given = _by_modality(expected, "maskgit/in/")
        state, position = _state(model, given), expected["maskgit/pos"].numpy()
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
                name, _greedy(model, _by_modality(expected, "ar/in/"), scale), expected[name]
            )


def _greedy(model: FourM, given: dict[str, dict[str, np.ndarray]], scale: float) -> Tensor:
    """Left-to-right argmax with the cache, guided by everything but the target."""
    state = _state(model, given)
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


# ---- tokenizers ----------------------------------------------------------------------------------


@torch.inference_mode()
def check_tokenizer(folder: Path) -> Iterator[Comparison]:
    """Codes and reconstructions of one picture, feature, class-map or vector tokenizer."""
    with tempfile.TemporaryDirectory() as scratch:
        model = load_tokenizer(unpacked(folder, Path(scratch)))
    expected, given = read_tensors(folder, "outputs"), read_tensors(folder, "inputs")
    pictures = given["x"]
    yield compare("encoder_out", model.encoder(model.prepared(pictures)), expected["encoder_out"])
    yield compare("latents", model.latents(pictures), expected["latents"])
    ids = model.encode(pictures)
    yield compare("tokens", ids, expected["tokens"])
    yield compare("quant", model.codes(ids), expected["quant"])
    if "tokens_to_embedding" in expected:
        yield compare(
            "tokens_to_embedding", model.codes(expected["tokens"]), expected["tokens_to_embedding"]
        )
    if isinstance(model, VQVAE):
        yield compare("decoded", model.decode(expected["tokens"]), expected["decoded"])
        if "decoded_other_size" in expected:
            yield compare(
                "decoded_other_size",
                model.decode(expected["tokens_other_size"]),
                expected["decoded_other_size"],
            )
    else:
        yield from _check_diffusion(model, given, expected)


def _check_diffusion(
    model: DiVAE, given: dict[str, Tensor], expected: dict[str, Tensor]
) -> Iterator[Comparison]:
    for key in expected:
        if key.startswith("alphas_cumprod/"):
            _, schedule, zero = key.split("/")
            betas = noise_betas(
                schedule, model.settings.num_train_timesteps, zero == "zero_snr=True"
            )
            yield compare(key, torch.cumprod(1 - betas, 0), expected[key])
    scheduler = model.scheduler("ddpm")
    noised = scheduler.add_noise(given["x"], given["noise"], given["timesteps"])
    yield compare("noised", noised, expected["noised"])
    if "velocity" in expected:
        yield compare(
            "velocity",
            scheduler.get_velocity(given["x"], given["noise"], given["timesteps"]),
            expected["velocity"],
        )
    latents = expected["quant"]
    times = "_".join(f"t{int(t)}" for t in given["timesteps"])
    yield compare(
        f"denoiser_{times}",
        model.decoder(noised, given["timesteps"], latents),
        expected[f"denoiser_{times}"],
    )
    yield compare(
        "denoiser_t300", model.decoder(given["noise"], 300, latents), expected["denoiser_t300"]
    )
    if "denoiser_t300_cond_mask" in expected:
        hidden = model.decoder(given["noise"], 300, latents, expected["cond_mask"])
        yield compare("denoiser_t300_cond_mask", hidden, expected["denoiser_t300_cond_mask"])
    for kind in ("sample", "epsilon", "v_prediction"):
        if f"ddim_step/{kind}" in expected:
            scheduler = model.scheduler("ddim", prediction=kind)
            scheduler.set_timesteps(5)
            step = scheduler.step(expected["denoiser_t300"], 699, given["noise"])
            yield compare(f"ddim_step/{kind}", step.prev_sample, expected[f"ddim_step/{kind}"])
    for kind, spacing in (
        ("ddim", "trailing"),
        ("ddim", "linspace"),
        ("ddim", "leading"),
        ("ddpm", "trailing"),
    ):
        key = f"{kind}5_{spacing}"
        if key in expected:
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(expected[key].shape, generator=generator)
            yield compare(f"{key} (first noise)", noise, expected["init_noise_seed0"])
            # the reference's DDPM scheduler takes no spacing: it always steps as "leading"
            scheduler = model.scheduler(kind, "leading" if kind == "ddpm" else spacing)
            yield compare(
                key,
                model.denoise(latents, noise, scheduler, 5, generator),
                expected[key],
                SAMPLED_TOLERANCE,
            )


def check(folder: Path) -> Iterator[Comparison]:
    """All comparisons of one folder."""
    config = json.loads((folder / "config.json").read_text())
    return check_fourm(folder) if "domains_in" in config else check_tokenizer(folder)


def folders_under(path: Path) -> list[Path]:
    """``path`` and the folders below it that hold a model with outputs to compare."""
    if not path.is_dir():
        raise SystemExit(f"error: no folder {path}")
    return sorted(
        {
            f.parent
            for f in path.rglob("outputs.safetensors*")
            if (f.parent / "config.json").is_file()
        }
    )


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python tests/parity.py FOLDER...", file=sys.stderr)
        return 2
    missed = []
    for argument in arguments:
        found = folders_under(Path(argument))
        if not found:
            print(f"error: {argument} holds no outputs of the reference", file=sys.stderr)
            return 2
        for folder in found:
            print(f"== {folder}")
            for c in check(folder):
                print(
                    f"{'ok  ' if c.good else 'MISS'} {c.name:<60} {c.difference:.3e}  tolerance"
                    f" {c.tolerance:.3e}"
                )
                missed += [] if c.good else [f"{folder}: {c.name}"]
    for name in missed:
        print(f"missed: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
