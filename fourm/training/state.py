"""What a run must not lose: weights, their average, the optimizers' state and the step.

A checkpoint's model file holds what is evaluated and exported: the average where there is one, with
the weights themselves beside the optimizers' state. Of a sharded model each rank has, writes and
reads its own rows, so that a run goes on with any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.files.weights import WeightFiles, new_name
from fourm.training.checkpoints import TENSORS
from fourm.training.gradients import Gradients
from fourm.training.sharding import like, local, reshard, rows_of

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
        self.gradients = Gradients(model)
        self._keep = average
        self._average: dict[str, Tensor] = self._copies() if average else {}

    def _copies(self) -> dict[str, Tensor]:
        trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        return {name: p.detach().clone() for name, p in trained}

    def _load(self, weights: dict[str, Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                local(parameters[name]).copy_(local(value))

    def update(self, broken: Tensor | None, scale: Tensor | None = None) -> None:
        """Move the weights along their gradients, which are then gone, and the average after them.

        Args:
            broken: scalar on the device: where it is 1, all stays as it is. None = it is 0.
            scale: scalar that gradients are divided by, of ``Gradients.clip``. None = 1.
        """
        for optimizer in self.optimizers:
            # as torch's GradScaler does
            optimizer.found_inf, optimizer.grad_scale = broken, scale  # type: ignore[attr-defined]
            optimizer.step()
        self.gradients.forget()
        if self._average:
            self._follow(broken)

    def _follow(self, broken: Tensor | None) -> None:
        parameters = dict(self.model.named_parameters())
        latest = [local(parameters[name].detach()) for name in self._average]
        averages = [local(average) for average in self._average.values()]
        if broken is None:
            torch._foreach_lerp_(averages, latest, 1 - self._keep)  # pyright: ignore[reportPrivateImportUsage]
            return
        share = (1 - self._keep) * (1 - broken)
        for average, weights in zip(averages, latest, strict=True):
            average.lerp_(weights, share)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model in evaluation mode, without gradients, for a while."""
        self.model.eval()
        try:
            with torch.no_grad():
                yield self.model
        finally:
            # what a forward pass without a backward pass leaves gathered would be used again as it
            # was after the next update
            reshard(self.model)
            self.model.train()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The same with its average for weights, where there is one."""
        held = self._copies() if self._average else {}
        self._load(self._average)
        try:
            with self.evaluating() as model:
                yield model
        finally:
            self._load(held)

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The model file's tensors and all others of a checkpoint, as this rank has them: memory
        that the next update changes.
        """
        weights = {name: t.detach() for name, t in self.model.state_dict().items()}
        others = optimizer_tensors(self.optimizers)
        others |= {_WEIGHTS + name: weights[name] for name in self._average}
        return weights | self._average, others

    def take_over(self, path: Path, step: int) -> None:
        """Go on from a whole checkpoint of ``step``."""
        renamed = getattr(self.model, "renamed_weights", {})
        files = WeightFiles.open(path).renamed(renamed)
        others = WeightFiles.open(path, TENSORS)
        expected = self.model.state_dict()
        files.need_all(expected)
        self._read(files, {name: name for name in expected})
        if self._average:
            self._average = self._copies()
            own = {
                new_name(name.removeprefix(_WEIGHTS), renamed): name
                for name in others
                if name.startswith(_WEIGHTS)
            }
            if own:  # else the run had no average: it begins with the weights
                self._read(others, {name: own[name] for name in self._average})
        load_optimizer_tensors(self.optimizers, others, path)
        self.step = step

    @torch.no_grad()
    def _read(self, files: WeightFiles, names: dict[str, str]) -> None:
        """Give tensors of the model, this rank's rows of them, what a file has (own name -> the
        file's).
        """
        own = self.model.state_dict()
        for name, stored in names.items():
            local(own[name]).copy_(_rows_like(files, stored, own[name]))


def _rows_like(files: WeightFiles, name: str, tensor: Tensor) -> Tensor:
    """The rows of a stored tensor that this rank has of ``tensor``."""
    rows = rows_of(tensor)
    return files.read(name) if rows is None else files.read_rows(name, rows.start, rows.stop)


# ---- optimizer state as named tensors ------------------------------------------------------------


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All state tensors, named ``optimizer.<which>.<parameter>.<name>``."""
    tensors: dict[str, Tensor] = {}
    for i, optimizer in enumerate(optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{i}.{key}.{name}"] = (
                    value if isinstance(value, Tensor) else torch.tensor(value)
                )
    return tensors


def load_optimizer_tensors(
    optimizers: list[torch.optim.Optimizer], files: WeightFiles, where: Path
) -> None:
    """Put back what ``optimizer_tensors`` gave. Raises UserError where it belongs to other groups
    of parameters, as those of an earlier release or of another optimizer do.
    """
    for i, optimizer in enumerate(optimizers):
        params = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name in files:
            which, _, rest = name.removeprefix("optimizer.").partition(".")
            if not name.startswith("optimizer.") or which != str(i):
                continue
            key, _, field = rest.partition(".")
            # a number, one for each row of a whole table, or one for each of the parameter's
            shape = tuple(params[int(key)].shape) if int(key) < len(params) else None
            is_whole = files.shapes[name] != shape
            if shape is None or files.shapes[name] not in ((), shape[:1], shape):
                raise UserError(
                    f"{where} holds the optimizer's state of other groups of parameters: it was"
                    " trained with another optimizer or by a release that grouped them otherwise."
                    " Start from its weights in another output folder (init: in a pretraining"
                    " config)"
                )
            parameter = params[int(key)]
            state.setdefault(int(key), {})[field] = (
                files.read(name)
                if is_whole
                else like(_rows_like(files, name, parameter), parameter)
            )
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
