"""4M's way of sampling, for comparison: what ``apple/ml-4m`` computes (2312.06647, 2406.09406),
written anew from a description of it, with the weights of one of our models.

At every step the whole state is copied, every position of every modality that is present is
embedded again, the encoder runs over all that is known, with and without the conditions one after
the other. Sequences run the whole prefix through the decoder for each token, and the head over all
of it. MaskGIT keeps the likeliest of what was drawn, ROAR asks random positions; both draw from
torch's global generator.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from reference_inputs import DenseModality
from reference_like import ReferenceLike, _ModalityEmbedding
from torch import Tensor

from fourm.modalities import FIRST_SENTINEL
from fourm.model.model import FourM


@dataclass(frozen=True)
class State:
    """All modalities of B samples, in the order of the set, and which are conditions."""

    given: list[DenseModality]
    conditions: list[int]


class ReferenceSampler:
    """Samples a target from a state of B samples that have equally much of everything."""

    def __init__(self, ours: FourM, scale: float, temperature: float, forbidden: Tensor) -> None:
        """``forbidden`` (V,): mask of ids that a text never gets."""
        self.forbidden = forbidden
        self.network = ReferenceLike(ours, 1, 1).eval()
        self.modalities, self.scale, self.temperature = ours.modalities, scale, temperature
        self.members = list(ours.modalities)

    def empty(self, num: int, known: dict[str, Tensor]) -> State:
        """B samples of which ``known`` ids (B, n) are given."""
        given = []
        for m in self.modalities:
            length = m.num_tokens if m.kind != "sequence" else 2 * (m.num_tokens + 1)
            width = (num, length, m.width) if m.kind == "continuous" else (num, length)
            tokens = torch.zeros(width, dtype=torch.float32 if len(width) == 3 else torch.int64)
            is_input = torch.zeros(num, length, dtype=torch.bool)
            if m.name in known:
                tokens[:, : known[m.name].shape[1]] = known[m.name]
                is_input[:, : known[m.name].shape[1]] = True
            nothing = torch.zeros(num, length, dtype=torch.int64)
            given.append(DenseModality(tokens, is_input, nothing.bool(), nothing))
        return State(given, [self.modalities.index(name) for name in known])

    def _unconditioned(self, state: State) -> State:
        given = deepcopy(state.given)
        for i in state.conditions:
            shown = torch.zeros_like(given[i].is_input)
            if self.members[i].kind == "sequence":
                given[i].tokens[:, 0] = FIRST_SENTINEL
                shown[:, 0] = True
            given[i] = replace(given[i], is_input=shown)
        return State(given, state.conditions)

    def _encoded(self, state: State) -> tuple[Tensor, Tensor]:
        known = torch.cat([m.is_input for m in state.given], 1).sum(1)
        self.network.num_inputs = int(known.max())
        return self.network._encode(state.given)

    def _logits(self, state: State, target: int, encoded: tuple[Tensor, Tensor]) -> Tensor:
        """Logits (B, M, V) of the target's rows."""
        network, given = self.network, state.given
        is_sequence = self.members[target].kind == "sequence"
        network.num_targets = int(given[target].is_target.sum(1).max()) - is_sequence
        rows, _, _, hidden = network._targets(given)
        for block in network.decoder:
            rows = block(rows, hidden, *encoded)
        embedding = network.embeddings[target]
        assert isinstance(embedding, _ModalityEmbedding) and embedding.head is not None
        return F.linear(network.decoder_norm(rows), embedding.head)

    def _guided(self, state: State, target: int) -> Tensor:
        conditioned = self._logits(state, target, self._encoded(state))
        if self.scale == 1.0:
            return conditioned
        other = self._unconditioned(state)
        unconditioned = self._logits(other, target, self._encoded(other))
        return unconditioned + self.scale * (conditioned - unconditioned)

    def _drawn(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and their probabilities (...,)."""
        if self.temperature == 0:
            return logits.argmax(-1), torch.ones(logits.shape[:-1])
        probability = (logits / self.temperature).softmax(-1)
        ids = torch.multinomial(probability.flatten(0, -2), 1).view(logits.shape[:-1])
        return ids, probability.gather(-1, ids[..., None])[..., 0]

    def grid(self, state: State, name: str, per_step: list[int], is_maskgit: bool) -> State:
        """A grid in steps of ``per_step`` tokens."""
        target = self.modalities.index(name)
        for num in per_step:
            state = deepcopy(state)
            m = state.given[target]
            is_open = ~m.is_input
            if not is_maskgit:  # the same random positions in all samples
                places = is_open[0].nonzero()[:, 0]
                chosen = places[torch.randperm(len(places))[:num]]
                is_open = torch.zeros_like(is_open)
                is_open[:, chosen] = True
            reach = torch.zeros_like(m.reach)
            reach.scatter_(1, is_open.int().argmax(1, keepdim=True), is_open.sum(1, keepdim=True))
            state.given[target] = replace(m, is_target=is_open, reach=reach)
            ids, probability = self._drawn(self._guided(state, target))
            place = is_open.nonzero()[:, 1].view(len(ids), -1)
            best = probability.topk(min(num, place.shape[1]), dim=1).indices
            m.tokens.scatter_(1, place.gather(1, best), ids.gather(1, best))
            m.is_input.scatter_(1, place.gather(1, best), True)
        return state

    def sequence(self, state: State, name: str, num: int) -> Tensor:
        """Exactly ``num`` ids (B, num) of a sequence of which nothing is given."""
        target = self.modalities.index(name)
        state = deepcopy(state)
        m = state.given[target]
        m.tokens[:, 0], m.is_input[:, 0] = FIRST_SENTINEL, True
        m.tokens[:, 1] = FIRST_SENTINEL  # the target lies behind the input
        states = [state] if self.scale == 1.0 else [state, self._unconditioned(state)]
        encoded = [self._encoded(s) for s in states]
        for done in range(num):
            for s in states:
                is_target = torch.zeros_like(m.is_target)
                is_target[:, 1 : done + 3] = True
                s.given[target] = replace(
                    s.given[target], is_target=is_target, reach=is_target.long()
                )
            logits = [self._logits(s, target, e) for s, e in zip(states, encoded, strict=True)]
            rows = logits[0][:, -1]
            if len(logits) == 2:
                rows = logits[1][:, -1] + self.scale * (rows - logits[1][:, -1])
            rows[:, self.forbidden] = -torch.inf
            for s in states:
                s.given[target].tokens[:, done + 2] = self._drawn(rows)[0]
        return states[0].given[target].tokens[:, 2 : num + 2]
