"""Optional losses of colour pictures: a patch discriminator (as in VQGAN, 2012.09841) and a
pretrained perceptual network.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.errors import UserError
from fourm_tokenizers.autoencoder import Autoencoder
from fourm_tokenizers.settings import AdversarialConfig, TokenizerConfig

_RECENT_BATCHES = 50  # that the use of the codebook is counted over in training


class PatchDiscriminator(nn.Module):
    """Pictures (B, 3, H, W) -> a score for each of many overlapping patches; real ones score
    high.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        widths = [3, *(config.channels * min(2**i, 8) for i in range(config.layers))]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(a, b, 4, stride=2, padding=1),
                nn.GroupNorm(1, b),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> scores (B, 1, h, w)."""
        return self.layers(pictures)


class PerceptualDistance(nn.Module):
    """Distance of features of a pretrained network: ``lpips``, ``timm:<model>``, or a
    ``transformers`` model in a folder (``hf:``).
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        kind, _, which = name.partition(":")
        try:
            if kind == "lpips":
                import lpips  # pyright: ignore[reportMissingImports]

                self.network: nn.Module = lpips.LPIPS(net="vgg")
            elif kind == "timm" and which:
                import timm  # pyright: ignore[reportMissingImports]

                self.network = timm.create_model(which, pretrained=True, features_only=True)
            elif kind == "hf" and which:
                from transformers import AutoModel  # pyright: ignore[reportMissingImports]

                self.network = AutoModel.from_pretrained(which, local_files_only=True)
            else:
                raise UserError(
                    f"perceptual network {name!r} is not lpips, timm:<model> or hf:<folder>"
                )
        except (ImportError, OSError) as error:
            raise UserError(
                f"perceptual network {name!r} is not at hand ({error}): install it, or leave"
                " 'perceptual' out"
            ) from None
        self.kind = kind
        self.network.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures in [-1, 1] (B, 3, H, W) -> mean distance."""
        if self.kind == "lpips":
            return self.network(a, b).mean()
        distances = [
            (F.normalize(x, dim=1) - F.normalize(y, dim=1)).pow(2).mean()
            for x, y in zip(self._of(a), self._of(b), strict=True)
        ]
        return torch.stack(distances).mean()

    def _of(self, pictures: Tensor) -> list[Tensor]:
        if self.kind == "timm":
            return list(self.network(pictures))
        output = self.network(pixel_values=pictures, output_hidden_states=True)
        return list(output.hidden_states)


@dataclass(frozen=True)
class TrainingLoss:
    """Terms of one batch; their sum is minimised."""

    reconstruction: Tensor  # with the codebook's and the perceptual loss
    adversarial: Tensor  # of tokenizer and discriminator


class TrainedTokenizer(nn.Module):
    """A tokenizer with what only its training needs.

    ``step`` is set by the task before each batch.
    """

    def __init__(self, tokenizer: Autoencoder, config: TokenizerConfig) -> None:
        super().__init__()
        self.tokenizer, self.settings = tokenizer, config
        self.discriminator = (
            PatchDiscriminator(config.adversarial) if config.adversarial is not None else None
        )
        # held in a list, so that frozen weights are neither trained nor saved
        self._perceptual = [PerceptualDistance(config.perceptual)] if config.perceptual else []
        self.recent_ids: deque[Tensor] = deque(maxlen=_RECENT_BATCHES)

    def forward(self, values: Tensor, step: int) -> TrainingLoss:
        """Values of a batch at a step -> the terms of its loss."""
        made = self.tokenizer(values)
        self.recent_ids.append(made.ids.detach())
        reconstruction, adversarial = made.loss, made.loss.new_zeros(())
        if made.output is None:
            return TrainingLoss(reconstruction, adversarial)
        for network in self._perceptual:
            reconstruction = reconstruction + self.settings.perceptual_weight * network.to(
                values.device
            )(made.output, values)
        if self.discriminator is not None and self.settings.adversarial is not None:
            frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            fooled = torch.func.functional_call(self.discriminator, frozen, (made.output,))
            weight = (
                self.settings.adversarial.weight if step >= self.settings.adversarial.start else 0.0
            )
            real, fake = self.discriminator(values), self.discriminator(made.output.detach())
            hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            adversarial = -weight * fooled.mean() + 0.5 * hinge
        return TrainingLoss(reconstruction, adversarial)
