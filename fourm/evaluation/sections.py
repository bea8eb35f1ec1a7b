"""Sections that every project's report has: what it is, what its tokenizers lose, how it was
trained.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fourm
from fourm.config import read_yaml
from fourm.modalities import Modality, ModalitySet
from fourm.model.model import FourM
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.project.project import (
    Project,
    pretrain_command,
    shown,
    tokenize_command,
    tokenizer_commands,
)
from fourm.report import Gallery, Report
from fourm.report.curves import read_curves

_CPU_INFO = Path("/proc/cpuinfo")


def hardware() -> str:
    """The processor, or the accelerator, that this runs on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [
        line.partition(":")[2].strip()
        for line in (_CPU_INFO.read_text().splitlines() if _CPU_INFO.is_file() else ())
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def facts(project: Project, model: FourM) -> dict[str, str]:
    """What a reader asks first."""
    config = read_yaml(project.pretrain_config)
    known = model.provenance
    told = {
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M",
        "steps": f"{known.steps:,}" if known and known.steps else "",
        "samples": f"{known.num_samples:,}" if known and known.num_samples else "",
        "seed": str(config.get("seed", 0)),
        "seconds": f"{sum(project.seconds().values()):,.0f}",
        "date": date.today().isoformat(),
        "version": fourm.__version__,
        "hardware": hardware(),
    }
    return {name: text for name, text in told.items() if text}


def add_reconstructions(
    report: Report, pipe: AnyToAnyPipeline, raw: Mapping[str, Sequence[Any]], num: int = 6
) -> None:
    """What is left of the truth when it has been tokens: a row of pictures and the figures of each
    modality that a tokenizer was trained for.
    """
    shown_modalities = [m for m in pipe.modalities if _is_shown(m, pipe.modalities, raw)]
    if not shown_modalities:
        return
    report.heading(
        "Tokenizers",
        "Truth (above or left) and the same after it has been tokens: nothing generated is better.",
    )
    for m in shown_modalities:
        codec = pipe.codecs[m.name]
        ids = codec.encode(raw[m.name])
        back = codec.decode(ids)
        figures = m.raw.figures(np.stack(back), np.stack(list(raw[m.name])))
        told = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        per = f"{len(ids[0])} tokens of {codec.codebook_size:,}"
        report.part(m.name, f"{per}; {told}; {len(raw[m.name])} samples")
        gallery = Gallery(m.name, [c for _ in range(num) for c in ("truth", "decoded")][: 2 * num])
        pairs = zip(raw[m.name][:num], back[:num], strict=True)
        gallery.rows.append([(value, m.raw) for pair in pairs for value in pair])
        report.parts.append(gallery.html())


def _is_shown(m: Modality, modalities: ModalitySet, raw: Mapping[str, Sequence[Any]]) -> bool:
    learned = m.tokenizer is not None and m.raw.has_picture and m.kind == "grid"
    return learned and bool(len(raw.get(m.name, ())))


def add_token_matrix(report: Report, matrix: Mapping[str, Mapping[str, float]]) -> None:
    """The any-to-any matrix of cross-entropies."""
    report.heading(
        "Any to any",
        "Cross-entropy in nats a token of each target given one whole input; shaded by what the"
        " input tells over nothing.",
    )
    report.matrix(matrix)


def add_training(report: Report, project: Project, modalities: ModalitySet) -> None:
    """Curves of the pretraining and of the tokenizers, seconds, commands."""
    report.heading("Training", "Loss in nats a token; dashed on held-out samples.")
    report.curves("pretraining", read_curves(project.pretrain / "log.jsonl"))
    for name in modalities.tokenizers:
        log = project.tokenizers / name / "training" / "log.jsonl"
        if log.is_file():
            report.curves(f"tokenizer of {name}", read_curves(log).only("loss"))
    report.heading("Commands", "What was run, and the seconds of each stage.")
    commands = [
        *tokenizer_commands(project, modalities, lambda _: (), missing_only=False),
        tokenize_command(project),
        pretrain_command(project),
    ]
    report.lines("\n".join(map(shown, commands)))
    rows = [[name, f"{seconds:.0f}"] for name, seconds in project.seconds().items()]
    report.table(["stage", "seconds"], rows)
