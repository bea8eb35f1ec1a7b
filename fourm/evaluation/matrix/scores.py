"""What a model says of whole targets given whole inputs, in one pass: all tokens of the target are
asked at once (grids and sets by mask queries, sequences by teacher forcing), nothing is masked.

``token_matrix`` is the small matrix of reports: cross-entropies of single inputs. Shapes: T target
tokens of all samples, V ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.batches.tokens import Ragged, SampleTokens
from fourm.data.store import Source
from fourm.model.model import FourM

NOTHING = "nothing"
_BATCH = 32  # samples of one pass
_LOGITS = 1 << 24  # logits held at once
_SMOOTHING = 0.5  # added to each id's count: Krichevsky and Trofimov's


@dataclass(frozen=True)
class TokenScores:
    """The model's probabilities of target tokens, as arrays (T,)."""

    sample: np.ndarray
    ids: np.ndarray  # what they should be
    log_p: np.ndarray  # float64, nats
    confidence: np.ndarray  # probability of the likeliest id
    right: np.ndarray  # bool: the likeliest id is the true one

    @property
    def cross_entropy(self) -> float:
        """Nats a token."""
        return float(-self.log_p.mean()) if len(self.log_p) else float("nan")


@torch.inference_mode()
def score_tokens(
    model: FourM, tokens: SampleTokens, given: Sequence[str], wanted: str
) -> TokenScores:
    """Scores of whole targets given whole inputs.

    Args:
        model: in evaluation mode.
        given: input modalities that are shown; none = nothing is.
    """
    masker = Masker(model.modalities, _whole(model, given, wanted), seed=0)
    parts: list[list[np.ndarray]] = []
    for start in range(0, len(tokens), _BATCH):
        numbers = np.arange(start, min(start + _BATCH, len(tokens)))
        part = reordered(tokens, numbers, list(tokens.content))
        part = replace(part, samples=tokens.samples[numbers])
        batch = masker(part, part.samples).to(model.device)
        rows, _ = model.target_rows(batch)
        target = batch.decoder.target.index_select(0, batch.decoder.by_modality)
        answers = _answers(model, rows, target, wanted).double().cpu().numpy()
        log_p, best, right = answers
        sample = numbers.repeat(batch.decoder.lengths)
        parts.append([sample, target.cpu().numpy(), log_p, np.exp(best), right > 0])
    return TokenScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _answers(model: FourM, rows: Tensor, target: Tensor, wanted: str) -> Tensor:
    """(3, T): log-probability of the true id, that of the likeliest, and if these are the same."""
    chunk = max(1, _LOGITS // model.modalities[wanted].vocab_size)
    answers = [rows.new_zeros(3, 0, dtype=torch.float32)]
    for some, ids in zip(rows.split(chunk), target.split(chunk), strict=True):
        log_p = model.logits(some, wanted).float().log_softmax(-1)
        best, at = log_p.max(-1)
        answers.append(
            torch.stack([log_p.gather(1, ids[:, None])[:, 0], best, (at == ids).float()])
        )
    return torch.cat(answers, 1)


def _whole(model: FourM, given: Sequence[str], wanted: str) -> MaskingConfig:
    """All of the inputs is shown and all of the target asked."""
    modalities = model.modalities
    most_in = sum(modalities[name].num_tokens for name in given)
    most_out = 2 * modalities[wanted].num_tokens + 2
    component = MaskingComponent(
        input=dict.fromkeys(given, 1000.0),
        target={wanted: 1000.0},
        keep={name: "all" for name in given if modalities[name].kind == "sequence"},
    )
    return MaskingConfig(
        num_inputs=(most_in, most_in), num_targets=(most_out, most_out), components=(component,)
    )


def reordered(tokens: SampleTokens, numbers: np.ndarray, names: Sequence[str]) -> SampleTokens:
    """Samples whose modalities ``names`` are those of samples ``numbers`` (B,); the others stay."""

    def moved(held: Ragged) -> Ragged:
        part, starts, lengths = (a[numbers] for a in (held.part, held.starts, held.lengths))
        return Ragged(held.parts, part, starts, lengths)

    content = {k: moved(v) if k in names else v for k, v in tokens.content.items()}
    return replace(tokens, content=content)


def counted_cross_entropy(scores: TokenScores, vocab_size: int) -> float:
    """Nats a token of the ids' frequencies in all *other* samples: what is known without a model.

    Counts are smoothed by a half.
    """
    counts = np.bincount(scores.ids, minlength=vocab_size)
    total = 0.0
    for sample in np.unique(scores.sample):
        own = scores.ids[scores.sample == sample]
        others = counts - np.bincount(own, minlength=vocab_size) + _SMOOTHING
        total -= np.log(others[own] / others.sum()).sum()
    return float(total / max(len(scores.ids), 1))


def token_matrix(
    model: FourM, source: Source, num: int = 64, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, float]]:
    """Cross-entropy of whole targets given whole single inputs: what an input tells is what its row
    is below the row "nothing". It needs no metric of its own for a modality.

    Args:
        model: in evaluation mode; source: held-out samples; num: how many of them.

    Returns:
        ``matrix[input][target]`` in nats a token; an input does not predict itself.
    """
    modalities = model.modalities
    tokens = source.gather(np.arange(min(num, source.num_samples)))
    inputs = [NOTHING, *(m.name for m in modalities.inputs if m.name in source.present)]
    targets = [m.name for m in modalities.outputs if m.name in source.present]
    matrix: dict[str, dict[str, float]] = {name: {} for name in inputs}
    pairs = [(a, b) for a in inputs for b in targets if a != b]
    for done, (given, wanted) in enumerate(pairs):
        shown = () if given == NOTHING else (given,)
        matrix[given][wanted] = score_tokens(model, tokens, shown, wanted).cross_entropy
        if progress is not None:
            progress(done + 1, len(pairs))
    return matrix
