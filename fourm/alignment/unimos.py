"""UniMoS, "Split to Merge" (2403.06946): the network that adapts contrastive latents, and its loss.

Each picture's vector z is separated into a language-associated part L(z) and a vision-associated
part V(z). The first is read by the class prompts, the second by a small classifier; a learned
weight w merges their opinions. A discriminator, trained on the source to tell the two kinds of
parts from each other, tells the target's parts where to lie.

Differences from the paper: squares of the parts' product are averaged instead of summed, and
logits are at the contrastive model's own temperature. The two phases of the published step (all
parts on both domains; then the separators alone against the discriminator) are two steps here:
even ones and odd ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.alignment.domains import UNKNOWN, DomainBatch
from fourm.alignment.unimos_losses import divergence, information, overlap, told_apart
from fourm.errors import UserError
from fourm.model.roles import TABLE, VECTOR, state_roles
from fourm.training.loop_config import LoopConfig

_HIDDEN = 256
# weights of the two small losses beside the cross-entropies
_APART, _ORTHOGONAL = 0.01, 0.01
# share of the vision head in the test-time ensemble, by epoch
_FIRST_SHARE, _SHARE_STEP, _LAST_SHARE = 0.8, 0.05, 0.3
# how much of the text head's mean opinion is taken from its logits; momentum of that mean
_DEBIAS, _DEBIAS_MOMENTUM = 0.5, 0.99
_RESET = 0.5  # probability that a tensor of the weight network starts anew in an epoch


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Everything an adaptation is made of."""

    out: str
    source: str  # latents of labelled pictures, in the contrastive model's space
    target: str  # latents of unlabelled pictures
    prompts: str  # latents of the class prompts, one for each class; keys are the class names
    labels: str  # CSV with columns file (or key) and class; rows of the source are used
    loop: LoopConfig
    temperature: float = 0.05  # of the contrastive model
    labels_per_class: int = 0  # 0 = all
    method: Literal["unimos", "source_only"] = "unimos"
    learn_weight: bool = True  # False: both opinions count half
    discriminator: bool = True
    orthogonality: bool = True
    pseudo_labels: bool = True
    # which epoch: no choice here sees the target's labels
    select: Literal["last", "information"] = "last"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"temperature {self.temperature} must be above 0")

    @property
    def num_phases(self) -> int:
        """Steps that make one step of the paper."""
        return 2 if self.method == "unimos" and self.discriminator else 1


class UniMoS(nn.Module):
    """Separators, two heads, their weight, and the discriminator, over vectors of length 1
    (B, d).
    """

    prompts: Tensor
    pseudo: Tensor
    bias: Tensor

    def __init__(self, prompts: Tensor, config: AdaptConfig, num_target: int) -> None:
        super().__init__()
        self.config = config
        num_classes, d = prompts.shape
        self.register_buffer("prompts", F.normalize(prompts, dim=-1))
        # of each sample of the target, renewed each epoch
        self.register_buffer("pseudo", torch.full((num_target,), UNKNOWN))
        # mean opinion of the text head on the target
        self.register_buffer("bias", torch.full((num_classes,), 1.0 / num_classes))
        self.vision = _identity(d)
        self.language = _identity(d)
        self.bottleneck = nn.Linear(d, _HIDDEN)
        nn.init.xavier_normal_(self.bottleneck.weight)
        self.norm = nn.BatchNorm1d(_HIDDEN)
        self.classify = nn.utils.parametrizations.weight_norm(nn.Linear(_HIDDEN, num_classes))
        # lengths and directions of its weight's rows, which are no longer a Linear's own
        rows = self.classify.get_submodule("parametrizations.weight")
        state_roles(rows, original0=VECTOR, original1=TABLE)
        self.weigh = nn.Sequential(nn.Linear(d, _HIDDEN), nn.Linear(_HIDDEN, 1))
        self.discriminate = nn.Sequential(
            nn.Linear(d, _HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(_HIDDEN, 1),
        )

    # ---- opinions --------------------------------------------------------------------------------

    def features(self, z: Tensor) -> Tensor:
        """Vectors (B, d) -> what the vision head classifies (B, 256)."""
        return self.norm(self.bottleneck(self.vision(z)))

    def vision_logits(self, z: Tensor) -> Tensor:
        """Vectors (B, d) -> the vision head's opinion (B, classes)."""
        return self.classify(self.features(z))

    def text_logits(self, z: Tensor) -> Tensor:
        """Vectors (B, d) -> the text head's opinion (B, classes)."""
        return self.language(z) @ self.prompts.T / self.config.temperature

    def zero_shot_logits(self, z: Tensor) -> Tensor:
        """Vectors (B, d) -> what the contrastive model says unadapted (B, classes)."""
        return z @ self.prompts.T / self.config.temperature

    def weight(self, z: Tensor) -> Tensor:
        """Share of the vision head, one number for the batch."""
        if not self.config.learn_weight:
            return z.new_tensor(0.5)
        return self.weigh(self.vision(z)).sigmoid().mean()

    def ensemble(self, z: Tensor, epoch: int) -> Tensor:
        """Probabilities at test time (B, classes): the text head's opinion freed of its bias, the
        vision head's fading in share.
        """
        if self.config.method == "source_only":
            return self.vision_logits(z).softmax(-1)
        share = max(_LAST_SHARE, _FIRST_SHARE - _SHARE_STEP * epoch)
        text = self.text_logits(z) - _DEBIAS * self.bias.clamp_min(1e-6).log()
        return (share * self.vision_logits(z) + (1 - share) * text).softmax(-1)

    # ---- training --------------------------------------------------------------------------------

    def forward(self, batch: DomainBatch) -> Tensor:
        """Sum over its rows of the loss of this step's phase: (1,)."""
        if self.config.method == "source_only":
            loss = F.cross_entropy(self.vision_logits(batch.source), batch.labels)
        elif batch.step % self.config.num_phases == 1:
            loss = _APART * self._tell_apart(batch.target, frozen=True)
        else:
            loss = self._all_parts(batch)
        return (loss * len(batch.source))[None]

    def _all_parts(self, batch: DomainBatch) -> Tensor:
        """Mean loss of phase one:

            CE(source) + CE(merged, pseudo-labels) + KL(text || zero-shot) - I(merged)
            + 0.01 d (V . L)^2 + 0.01 BCE(discriminator)

        where merged = w vision + (1 - w) text on the target.
        """
        c, num = self.config, len(batch.source)
        both = torch.cat([batch.source, batch.target])  # one batch norm over both domains
        vision = self.vision_logits(both)
        text = self.text_logits(both)
        loss = F.cross_entropy(vision[:num], batch.labels)
        loss = loss + F.cross_entropy(text[:num], batch.labels)
        weight = self.weight(batch.target)
        # the text head learns of the target from its teacher alone
        merged = weight * vision[num:] + (1 - weight) * text[num:].detach()
        if c.pseudo_labels:
            known = self.pseudo[torch.as_tensor(batch.target_samples)]
            loss = loss + F.cross_entropy(merged, known)
        student = text[num:].log_softmax(-1)
        loss = loss + divergence(student, self._teacher(batch.target))
        loss = loss - information(merged.softmax(-1))
        if c.orthogonality:
            # times d: the squared product of random unit vectors is 1 / d on average
            crossing = overlap(self.vision(both), self.language(both))
            loss = loss + _ORTHOGONAL * crossing * both.shape[1]
        if c.discriminator:
            loss = loss + _APART * self._tell_apart(batch.source, frozen=False)
        if self.training:
            self.bias.lerp_(student.exp().detach().mean(0), 1 - _DEBIAS_MOMENTUM)
        return loss

    def _teacher(self, z: Tensor) -> Tensor:
        """Log-probabilities (B, classes) of the unadapted model."""
        logits = self.zero_shot_logits(z)
        # softmax does not see the shift: it keeps large logits of low temperatures in range
        return (logits - logits.mean(1, keepdim=True)).log_softmax(-1)

    def _tell_apart(self, z: Tensor, frozen: bool) -> Tensor:
        """Cross-entropy of telling vision parts (0) from language parts (1); ``frozen`` moves the
        separators alone.
        """
        parts = torch.cat([self.vision(z), self.language(z)])
        is_language = torch.cat([torch.zeros(len(z)), torch.ones(len(z))]).to(z)
        if frozen:
            # the same network on detached weights: gradients reach the parts and stop there
            weights = {name: p.detach() for name, p in self.discriminate.named_parameters()}
            logits = torch.func.functional_call(self.discriminate, weights, (parts,))
        else:
            logits = self.discriminate(parts)
        return told_apart(logits, is_language)

    def reset_weight(self, generator: torch.Generator) -> None:
        """Start anew, tensor by tensor, by a coin: the weight must not settle on one head."""
        for layer in self.weigh:
            assert isinstance(layer, nn.Linear)
            bound = layer.in_features**-0.5  # as nn.Linear begins
            for tensor in (layer.weight, layer.bias):
                if torch.rand((), generator=generator) < _RESET:
                    fresh = (torch.rand(tensor.shape, generator=generator) * 2 - 1) * bound
                    with torch.no_grad():
                        tensor.copy_(fresh)


def _identity(dim: int) -> nn.Linear:
    """A separator, which begins as no separation: both parts are the whole vector."""
    layer = nn.Linear(dim, dim)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
