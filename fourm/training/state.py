"""What a run must not lose: weights, their average, the optimizers' state and the step.

A checkpoint's model file holds what is evaluated and exported: the average where there is one, with
the weights themselves beside the optimizers' state. Sharded tensors (FSDP2) are gathered to be
written and sharded again when they are read, so that a run goes on with any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fourm.training.checkpoints import (
    gather_full,
    load_optimizer_tensors,
    optimizer_tensors,
    shard_like,
)
from fourm.weights import WEIGHTS_FILE, load_weights, new_name

_WEIGHTS = "weights."  # of the model itself, where its file holds the average


class TrainingState:
    """A model while it is trained.

    Args:
        average: > 0: share of an exponential moving average that a step keeps.
    """

    def __init__(
        self, model: nn.Module, optimizers: list[torch.optim.Optimizer], average: float
    ) -> None:
        self.model, self.optimizers, self.step = model, optimizers, 0
        self._keep = average
        self._average: dict[str, Tensor] = self._copies() if average else {}

    def _copies(self) -> dict[str, Tensor]:
        trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        return {name: p.detach().clone() for name, p in trained}

    def _load(self, weights: dict[str, Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(shard_like(value, parameters[name]))

    def update(self, broken: Tensor | None) -> None:
        """Move the weights along their gradients, which are then gone, and the average after them.

        Args:
            broken: scalar on the device: where it is 1, all stays as it is. None = it is 0.
        """
        for optimizer in self.optimizers:
            optimizer.found_inf = broken  # type: ignore[attr-defined]  # as torch's GradScaler does
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self._average:
            self._follow(broken)

    def _follow(self, broken: Tensor | None) -> None:
        parameters = dict(self.model.named_parameters())
        latest = [parameters[name].detach() for name in self._average]
        averages = list(self._average.values())
        if broken is None:
            torch._foreach_lerp_(averages, latest, 1 - self._keep)  # pyright: ignore[reportPrivateImportUsage]
            return
        share = (1 - self._keep) * (1 - broken)
        for average, weights in zip(averages, latest, strict=True):
            average.lerp_(weights, share)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its average for weights, in evaluation mode, for a while."""
        held = self._copies() if self._average else {}
        self._load(self._average)
        self.model.eval()
        try:
            with torch.no_grad():
                yield self.model
        finally:
            self.model.train()
            self._load(held)

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The model file's tensors and all others of a checkpoint, gathered (all ranks must
        call).
        """
        weights = {name: gather_full(t) for name, t in self.model.state_dict().items()}
        others = optimizer_tensors(self.optimizers)
        others |= {_WEIGHTS + name: weights[name] for name in self._average}
        averages = {name: gather_full(t) for name, t in self._average.items()}
        return weights | averages, others

    def take_over(self, path: Path, tensors: dict[str, Tensor], step: int) -> None:
        """Go on from a whole checkpoint of ``step``, whose tensors beside the model's are these."""
        renamed = getattr(self.model, "renamed_weights", {})
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        if any(hasattr(p, "device_mesh") for p in self.model.parameters()):
            stored = load_file(path / WEIGHTS_FILE)
            loaded = {new_name(name, renamed): value for name, value in stored.items()}
            self._load({name: loaded[name] for name in names})
        else:
            load_weights(self.model, path / WEIGHTS_FILE)
        if self._average:
            self._average = self._copies()
            own = {
                new_name(name.removeprefix(_WEIGHTS), renamed): value
                for name, value in tensors.items()
                if name.startswith(_WEIGHTS)
            }
            if own:  # else the run had no average: it begins with the weights
                self._load({name: own[name] for name in names})
        load_optimizer_tensors(self.optimizers, tensors, path)
        self.step = step
