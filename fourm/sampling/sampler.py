"""The sampler: one loop for all schemes, one forward pass for all guidance branches.

A step asks two questions: which positions are committed, and with which ids. Random, Halton and
raster orders know the positions in advance and query only those; MaskGIT and the entropy bound
query all open positions and choose by what comes back. All guidance branches go through the network
together, on the same positions. Every random number is addressed by (sample's seed, target, step,
position): the result does not depend on batch size, neighbours or any global generator.

MaskGIT: 2202.04200; Halton: 2503.17076; entropy bound: 2505.24857; guidance: 2207.12598; ROAR as in
4M, 2312.06647.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fourm.batch import MASK_QUERY, DecoderStream, EncoderStream, StreamRows, map_tensors
from fourm.errors import UserError
from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID, Modality
from fourm.model import FourM
from fourm.rng import CounterRNG
from fourm.sampling.autoregressive import CachedDecoder, count_gaps, fill_gaps, forbidden_ids
from fourm.sampling.choose import choose
from fourm.sampling.options import SamplingOptions, tokens_done
from fourm.sampling.orders import halton_order, random_order, raster_order
from fourm.sampling.state import GridState, SampleState, encoder_stream

_TOKEN, _NOISE = 1, 2  # purposes of random numbers
StreamT = TypeVar("StreamT", EncoderStream, DecoderStream)


@dataclass(frozen=True)
class Guidance:
    """Branches of one forward pass and how their logits combine: sum of weight x logits."""

    # what each branch leaves out; the first is the full condition or the empty one
    dropped: list[frozenset[str]]
    weights: Callable[[float], list[float]]


class Sampler:
    """Generates modalities with one model."""

    def __init__(self, model: FourM, num_sentinels: dict[str, int] | None = None) -> None:
        self.model = model.eval()
        self.modalities = model.modalities
        self._last_sentinel = {
            name: SENTINEL_ID + num - 1 for name, num in (num_sentinels or {}).items()
        }
        self.decoder_type = CachedDecoder

    @torch.inference_mode()
    def generate(
        self,
        state: SampleState,
        target: str,
        options: SamplingOptions,
        seeds: np.ndarray,
        conditions: list[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> SampleState:
        """Generate one target for every sample; returns a new state in which it is known.

        Args:
            seeds: (B,) seed of each sample.
            conditions: modalities that guidance strengthens (given inputs, usually); the rest of
                the state stays in all branches.
            progress: called with (steps done, steps in all).
        """
        m = self.modalities[target]
        if not m.output:
            raise UserError(
                f"{target} is no output of this model; it has"
                f" {', '.join(o.name for o in self.modalities.outputs)}"
            )
        state = SampleState(state.num_samples, dict(state.grids), dict(state.sequences))
        guidance = self._guidance(
            options, [name for name in conditions if name != target and name in state.present]
        )
        if m.kind == "sequence":
            state.sequences[target] = self._sequence(state, m, options, seeds, guidance, progress)
        else:
            state.grids[target] = self._grid(state, m, options, seeds, guidance, progress)
        return state

    def _guidance(self, options: SamplingOptions, conditions: list[str]) -> Guidance:
        if options.condition_weights:  # u + sum of w_i (c_i - u), each c_i with one condition alone
            for name in options.condition_weights:
                if name not in conditions:
                    raise UserError(
                        f"condition_weights names {name!r}, which is not given; given are"
                        f" {', '.join(conditions)}"
                    )
            everything = frozenset(conditions)
            names = list(options.condition_weights)
            weights = [options.condition_weights[name] for name in names]
            return Guidance(
                [everything, *(everything - {n} for n in names)],
                lambda _: [1 - sum(weights), *weights],
            )
        if options.guidance_scale == 1.0 or not conditions:
            return Guidance([frozenset()], lambda _: [1.0])
        return Guidance([frozenset(), frozenset(conditions)], lambda scale: [scale, 1.0 - scale])

    def _combine(self, rows: Tensor, name: str, weights: list[float]) -> Tensor:
        """Decoder output (branches x n, D) -> guided logits (n, V)."""
        logits = self.model.logits(rows, name).float().unflatten(0, (len(weights), -1))
        return torch.einsum("b,bnv->nv", torch.tensor(weights, device=logits.device), logits)

    # ---- grids and sets --------------------------------------------------------------------------

    def _grid(
        self,
        state: SampleState,
        m: Modality,
        options: SamplingOptions,
        seeds: np.ndarray,
        guidance: Guidance,
        progress: Callable[[int, int], None] | None,
    ) -> GridState:
        b, n = state.num_samples, m.num_tokens
        given = state.grids.get(m.name)
        grid = (
            GridState(np.zeros((b, n), np.int64), np.zeros((b, n), bool))
            if given is None
            else (GridState(given.values.copy(), given.known.copy()))
        )
        fixed = grid.known.copy()
        state = SampleState(b, {**state.grids, m.name: grid}, state.sequences)
        rng = CounterRNG(zlib.crc32(m.name.encode()), "sampling")
        rank = self._order(m, options, rng, seeds)
        rank = np.argsort(np.argsort(np.where(fixed, n + 1, rank), axis=1, kind="stable"), axis=1)
        order_is_known = options.scheme in ("roar", "halton", "raster")
        num_open = (~fixed).sum(1)
        done = tokens_done(options.schedule, options.steps, num_open)
        log_p = np.full((b, n), np.inf)
        limit = n if options.scheme == "entropy" else options.steps
        for step in range(limit):
            if grid.known.all():
                break
            if order_is_known:
                query = (rank >= done[step][:, None]) & (rank < done[step + 1][:, None])
            else:
                query = ~grid.known
            sample, position = np.nonzero(query)
            if not len(sample):
                continue
            uniform = rng.uniform(seeds[sample], _TOKEN, step, position)
            ids, chosen, entropy = self._query(
                state, m, options, guidance, sample, position, uniform, step
            )
            if order_is_known:
                commit = np.ones(len(sample), bool)
            elif options.scheme == "maskgit":
                noise = -np.log(-np.log(rng.uniform(seeds[sample], _NOISE, step, position)))
                left = 1.0 - (step + 1) / options.steps
                commit = _best(
                    chosen + options.confidence_noise * left * noise,
                    sample,
                    b,
                    done[step + 1] - done[step],
                )
            else:
                # the bound may ask for more steps than allowed: then all at once
                last = step == options.steps - 1
                commit = (
                    np.ones(len(sample), bool)
                    if last
                    else _within_bound(entropy, sample, b, options.entropy_bound)
                )
            sample, position = sample[commit], position[commit]
            grid.values[sample, position] = ids[commit]
            grid.known[sample, position] = True
            log_p[sample, position] = chosen[commit]
            if options.remask and options.scheme == "maskgit" and step < options.steps - 1:
                done = _remask(grid, fixed, log_p, options, done, step)
            if progress is not None:
                progress(step + 1, options.steps)
        return grid

    def _order(
        self, m: Modality, options: SamplingOptions, rng: CounterRNG, seeds: np.ndarray
    ) -> np.ndarray:
        if options.scheme == "halton":
            if m.grid is None:
                raise UserError(f"the halton order needs a grid; {m.name} has none")
            return halton_order(rng, seeds, m.grid)
        if options.scheme == "roar":
            return random_order(rng, seeds, m.num_tokens)
        return raster_order(seeds, m.num_tokens)

    def _query(
        self,
        state: SampleState,
        m: Modality,
        options: SamplingOptions,
        guidance: Guidance,
        sample: np.ndarray,
        position: np.ndarray,
        uniform: np.ndarray,
        step: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, log-probabilities and entropies (n,) at the queried positions of the samples."""
        b, index = state.num_samples, self.modalities.index(m.name)
        num_branches = len(guidance.dropped)
        rows = StreamRows(b * num_branches)
        query = np.full(len(sample), MASK_QUERY)
        for branch in range(num_branches):
            rows.add(index, sample + branch * b, position, query, query * 0)
        device = self.model.device
        causal = np.array([x.kind == "sequence" for x in self.modalities])
        inputs = _to_device(encoder_stream(state, self.modalities, guidance.dropped), device)
        hidden = self.model.decode(
            self.model.encode(inputs), _to_device(rows.decoder(causal), device)
        )
        weights = guidance.weights(options.guidance_at(step, options.steps))
        logits = self._combine(hidden, m.name, weights)
        drawn = choose(
            logits,
            torch.from_numpy(uniform).to(device),
            options.temperature_at(step, m.num_tokens),
            options.top_k,
            options.top_p,
        )
        ids, log_p, entropy = (t.cpu().numpy() for t in drawn)
        return ids, log_p.astype(np.float64), entropy.astype(np.float64)

    # ---- sequences -------------------------------------------------------------------------------

    def _sequence(
        self,
        state: SampleState,
        m: Modality,
        options: SamplingOptions,
        seeds: np.ndarray,
        guidance: Guidance,
        progress: Callable[[int, int], None] | None,
    ) -> list[np.ndarray]:
        b, index, device = state.num_samples, self.modalities.index(m.name), self.model.device
        last_sentinel = self._last_sentinel.get(m.name, SENTINEL_ID + 199)
        given = state.sequences.get(m.name) or [np.zeros(0, np.int64)] * b
        gaps = np.array([count_gaps(ids, last_sentinel) for ids in given])
        whole = np.array(
            [
                len(ids) > 0 and not ((ids >= FIRST_SENTINEL) & (ids <= last_sentinel)).any()
                for ids in given
            ]
        )
        rng = CounterRNG(zlib.crc32(m.name.encode()), "sampling")
        branches = len(guidance.dropped)
        encoded = self.model.encode(
            _to_device(encoder_stream(state, self.modalities, guidance.dropped), device)
        )
        limit = m.num_tokens + int(gaps.max()) + 1
        decoder = self.decoder_type(self.model, encoded, limit)
        banned = forbidden_ids(m.vocab_size, device)
        tokens = np.full(b, FIRST_SENTINEL)
        decoded = [tokens]
        finished = whole.copy()
        for step in range(limit):
            if finished.all():
                break
            rows = decoder.step(index, torch.from_numpy(np.tile(tokens, branches)).to(device))
            logits = self._combine(rows, m.name, guidance.weights(options.guidance_at(step, limit)))
            uniform = torch.from_numpy(rng.uniform(seeds, _TOKEN, step, 0)).to(device)
            ids, _, _ = choose(
                logits.masked_fill(banned, -torch.inf),
                uniform,
                options.temperature,
                options.top_k,
                options.top_p,
            )
            tokens = np.where(finished, END_ID, ids.cpu().numpy())
            decoded.append(tokens)
            finished |= (tokens == END_ID) | (tokens == FIRST_SENTINEL + gaps)
            if progress is not None:
                progress(step + 1, limit)
        columns = np.stack(decoded, 1)
        return [
            given[i]
            if whole[i]
            else fill_gaps(given[i], _until_end(columns[i]), last_sentinel, m.num_tokens)
            for i in range(b)
        ]


def _until_end(ids: np.ndarray) -> np.ndarray:
    ends = np.flatnonzero(ids == END_ID)
    return ids[: ends[0] + 1] if len(ends) else ids


def _best(score: np.ndarray, sample: np.ndarray, num_samples: int, count: np.ndarray) -> np.ndarray:
    """True for the ``count[s]`` best scores of each sample s; ties by position."""
    order = np.lexsort((np.arange(len(score)), -score, sample))
    first = np.searchsorted(sample[order], np.arange(num_samples))
    place = np.arange(len(score)) - first[sample[order]]
    result = np.zeros(len(score), bool)
    result[order] = place < count[sample[order]]
    return result


def _within_bound(
    entropy: np.ndarray, sample: np.ndarray, num_samples: int, bound: float
) -> np.ndarray:
    """The most certain positions of each sample whose entropies, the largest apart, sum to at most
    ``bound``; at least one.
    """
    order = np.lexsort((np.arange(len(entropy)), entropy, sample))
    ordered, owner = entropy[order], sample[order]
    before = np.cumsum(ordered) - ordered
    first = np.searchsorted(owner, np.arange(num_samples))
    start = before[np.minimum(first, len(before) - 1)][owner]
    result = np.zeros(len(entropy), bool)
    result[order] = before - start <= bound + 1e-9
    return result


def _remask(
    grid: GridState,
    fixed: np.ndarray,
    log_p: np.ndarray,
    options: SamplingOptions,
    done: np.ndarray,
    step: int,
) -> np.ndarray:
    """Give back the least likely of what was committed; the tokens still to come are spread over
    the steps left.
    """
    ours = grid.known & ~fixed
    count = np.floor(options.remask * ours.sum(1)).astype(np.int64)
    score = np.where(ours, log_p, np.inf)
    rank = np.argsort(np.argsort(score, axis=1, kind="stable"), axis=1)
    back = (rank < count[:, None]) & ours
    grid.known[back] = False
    done = done.copy()
    held = (grid.known & ~fixed).sum(1)
    done[step + 1 :] = held + tokens_done(
        options.schedule, options.steps - step - 1, (~grid.known).sum(1)
    )
    return done


def _to_device(stream: StreamT, device: torch.device) -> StreamT:
    return (
        stream
        if device.type == "cpu"
        else map_tensors(stream, lambda t: t.to(device, non_blocking=True))
    )
