"""What is known of how a model was trained, as far as its weights do not say it themselves.

It lies beside the weights as ``provenance.json`` and goes with the model wherever it is saved
again, so that a model's card can be made from what happened. What is not known is None, never a
guess.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm.batches.mask_rules import NEVER
from fourm.config import from_mapping, read_yaml, to_mapping
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.files.formats import FORMAT, check_format
from fourm.modalities import Modality, ModalitySet

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """A training, in numbers."""

    steps: int | None = None
    batch_size: int | None = None  # samples a step
    max_inputs: int | None = None  # most tokens of a sample that are shown in one step
    max_targets: int | None = None  # most that are predicted
    num_samples: int | None = None  # of the training split
    num_held_out: int | None = None
    started_from_weights: bool = False  # of another model
    held_out: dict[str, float] = field(default_factory=dict)  # loss, loss/<modality>: nats a token
    figures: dict[str, float] = field(default_factory=dict)  # of what is generated, by name
    # target -> modalities that it was learned from, one beside others or alone
    trained: dict[str, list[str]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """``provenance.json`` of a model folder."""
        write_json_atomic(folder / PROVENANCE_FILE, {"format": FORMAT, **to_mapping(self)})

    @staticmethod
    def read(folder: Path) -> Provenance | None:
        """That file; None where there is none."""
        path = folder / PROVENANCE_FILE
        if not path.is_file():
            return None
        found = _json(path)
        check_format(found, path)
        return from_mapping(
            Provenance, {k: v for k, v in found.items() if k != "format"}, str(path)
        )

    @staticmethod
    def of_run(run: Path, steps: int, modalities: ModalitySet | None = None) -> Provenance:
        """Of the model that the pretraining in folder ``run`` had after ``steps`` steps. Its
        held-out losses are known if that was the end; which ``modalities`` were learned from which
        if it began with nothing.
        """
        config = read_yaml(run / "config.yaml") if (run / "config.yaml").is_file() else {}
        loop = config.get("loop", {})
        sources = config.get("data", {}).get("sources") or [{}]
        maskings = [s.get("masking") or config.get("masking") or {} for s in sources]
        done = _json(run / "done.json") if (run / "done.json").is_file() else {}
        ended = done.get("step") == steps
        began_with_weights = bool(config.get("init") or config.get("distill"))
        return Provenance(
            steps=steps,
            batch_size=loop.get("batch_size"),
            max_inputs=_most(maskings, "num_inputs"),
            max_targets=_most(maskings, "num_targets"),
            num_samples=done.get("num_samples"),
            num_held_out=done.get("num_held_out"),
            started_from_weights=began_with_weights,
            held_out={k: v for k, v in done.items() if k.startswith("loss")} if ended else {},
            trained={} if began_with_weights else _trained(maskings, modalities or ()),
        )


def flat_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """``metrics.json`` of a project, {task: {figure: {value: number}}}, as numbers by name."""
    found = {}
    for task, figures in metrics.items():
        if not isinstance(figures, Mapping) or task == "seconds":
            continue
        for name, figure in figures.items():
            value = figure.get("value") if isinstance(figure, Mapping) else figure
            if isinstance(value, (int, float)):
                found[f"{task} {name}"] = float(value)
    return found


def _trained(
    maskings: Sequence[Mapping[str, Any]], modalities: Iterable[Modality]
) -> dict[str, list[str]]:
    """Which targets some component of some data set predicts from which inputs."""
    parts = [p for m in maskings for p in m.get("components", ()) if p.get("weight", 1.0) > 0]

    def drawn(role: str, part: Mapping[str, Any], m: Modality) -> bool:
        alpha = (part.get(role) or {}).get(m.name, part.get(f"{role}_default", 0.0))
        return getattr(m, "output" if role == "target" else role) and alpha > NEVER

    every = list(modalities)
    return {
        target.name: [
            m.name
            for m in every
            if any(drawn("input", p, m) and drawn("target", p, target) for p in parts)
        ]
        for target in every
        if any(drawn("target", p, target) for p in parts)
    }


def _most(maskings: Sequence[Mapping[str, Any]], key: str) -> int | None:
    """The upper end of a range of tokens, over all components of all data sets."""
    parts = [part for masking in maskings for part in (masking, *masking.get("components", ()))]
    ranges = [part.get(key) for part in parts]
    return max((r[1] for r in ranges if r), default=None)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except ValueError:
        raise UserError(f"{path} is not valid JSON: the file is damaged") from None
