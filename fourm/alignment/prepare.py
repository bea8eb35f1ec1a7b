"""What is done to latents before anything is trained: centred, of length 1, on leading axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Which of it; means and axes are those of the training latents."""

    center: bool = False
    unit: bool = False  # of length 1, after centring
    pca: int = 0  # > 0: leading axes kept


class Prepare(nn.Module):
    """Latents (B, d) -> (B, dim). What was fitted is stored with the weights."""

    mean: Tensor
    axes: Tensor

    def __init__(self, dim: int, config: PrepareConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.pca or dim
        if self.dim > dim:
            raise UserError(f"pca {config.pca} is more than the latents' {dim}")
        axes = torch.eye(dim)[:, : self.dim].contiguous() if config.pca else torch.zeros(0)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("axes", axes)

    def fit(self, rows: Tensor) -> None:
        """Take mean and axes from the training latents (n, d)."""
        if self.config.center:
            self.mean.copy_(rows.mean(0))
        if self.config.pca:
            ready = self._unit(rows - self.mean)
            values, vectors = torch.linalg.eigh(ready.double().T @ ready.double())
            axes = vectors[:, values.argsort(descending=True)[: self.dim]]
            # eigenvectors have no sign of their own: the largest entry of each is made positive
            signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
            self.axes.copy_((axes * signs).float())

    def _unit(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1) if self.config.unit else rows

    def forward(self, rows: Tensor) -> Tensor:
        """Latents (n, d) -> rows (n, dim), centred, scaled and turned as the config says."""
        ready = self._unit(rows - self.mean)
        return ready @ self.axes if self.config.pca else ready
