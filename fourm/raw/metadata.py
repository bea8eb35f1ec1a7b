"""Picture metadata of 4M-21 (2406.09406): ``{"brightness": 130.5, "n_humans": 2, ...}``.

Spelled ``v1=<kind> v0=<bin>`` for each entry, as the released models know it; ranged kinds have 50
bins. A decoded value encodes to the same ids again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from fourm.errors import UserError, shown
from fourm.raw._json import Json
from fourm.raw._spelling import finite, words

_MAX_COUNT = 999
_RANGED_BINS = 50


@dataclass(frozen=True)
class MetadataKind:
    """How one kind of metadata becomes a bin: a count in units, a range of 50 bins, or
    thresholds.
    """

    name: str
    unit: int = 1  # counts: this many make one
    range: tuple[float, float] | None = None
    thresholds: tuple[float, ...] = ()

    def to_bin(self, value: float) -> int:
        """The bin of a value; what is outside of the range is in the outermost ones."""
        if self.thresholds:
            return sum(value >= t for t in self.thresholds)
        if self.range is not None:
            low, high = self.range
            return int(min(max((value - low) / (high - low), 0.0), 1.0) * (_RANGED_BINS - 1))
        return int(min(max(value, 0), _MAX_COUNT * self.unit) // self.unit)

    def holds(self, value: float) -> bool:
        """False for a value that its outermost bin stands for."""
        low, high = self.range or (0, (_MAX_COUNT + 1) * self.unit)
        return bool(self.thresholds) or low <= value <= high

    def to_value(self, bin_: int) -> float | int:
        """The middle of a bin (of thresholds: half a unit beyond the outer ones)."""
        if self.thresholds:
            edges = [self.thresholds[0] - 1.0, *self.thresholds, self.thresholds[-1] + 1.0]
            bin_ = min(bin_, len(self.thresholds))
            return (edges[bin_] + edges[bin_ + 1]) / 2
        if self.range is not None:
            low, high = self.range
            bin_ = min(bin_, _RANGED_BINS - 1)
            share = 1.0 if bin_ == _RANGED_BINS - 1 else (bin_ + 0.5) / (_RANGED_BINS - 1)
            return low + share * (high - low)
        return min(bin_, _MAX_COUNT) * self.unit


METADATA = (
    MetadataKind("original_width", unit=32),
    MetadataKind("original_height", unit=32),
    MetadataKind("caption_n_chars"),
    MetadataKind("caption_n_words"),
    MetadataKind("caption_n_sentences"),
    MetadataKind("n_humans"),
    MetadataKind("n_sam_instances"),
    MetadataKind("n_coco_instances"),
    MetadataKind("coco_instance_diversity"),
    MetadataKind("colorfulness", range=(0.0, 150.0)),
    MetadataKind("brightness", range=(0.0, 255.0)),
    MetadataKind("contrast", range=(0.0, 127.0)),
    MetadataKind("saturation", range=(0.0, 255.0)),
    MetadataKind("entropy", range=(0.0, 10.0)),
    MetadataKind("walkability", range=(0.0, 1.0)),
    MetadataKind("objectness", range=(0.0, 1.0)),
    MetadataKind("semantic_diversity"),
    MetadataKind("geometric_complexity", range=(0.0, 0.75)),
    MetadataKind("occlusion_score", range=(0.0, 0.25)),
    MetadataKind("watermark_score", thresholds=(0.5,)),
    MetadataKind("aesthetic_score", thresholds=(4.5, 5.5)),
)
_KIND = {kind.name: (number, kind) for number, kind in enumerate(METADATA)}


@dataclass(frozen=True, kw_only=True)
class Metadata(Json, name="metadata"):
    """A number for each kind of ``METADATA`` that is known of a picture."""

    form: ClassVar[type] = dict
    placeless: ClassVar[bool] = True

    def check(self, value: Any) -> dict[str, float]:
        if not isinstance(value, dict):
            raise UserError(f"metadata must be a mapping, not {type(value).__name__}")
        for name, number in value.items():
            if name not in _KIND:
                raise UserError(f"unknown metadata {shown(name)}; known are {', '.join(_KIND)}")
            finite(number, name)
        return value

    def remark(self, value: dict[str, float]) -> str | None:
        numbers = {name: finite(number, name) for name, number in value.items()}
        outside = [name for name, number in numbers.items() if not _KIND[name][1].holds(number)]
        return f"{', '.join(outside)} outside of the range" if outside else None

    def measured(self, value: dict[str, Any]) -> Mapping[str, np.ndarray]:
        return {name: np.array([finite(number, name)]) for name, number in value.items()}

    def to_text(self, value: Any, num_bins: int) -> str:
        spelled = []
        for name, number in self.check(value).items():
            index, kind = _KIND[name]
            spelled.append(f"v1={index} v0={kind.to_bin(finite(number, name))}")
        return " ".join(spelled)

    def from_text(self, line: str, num_bins: int) -> dict[str, float | int]:
        result: dict[str, float | int] = {}
        for (axis, number), (next_axis, bin_) in pairwise(words(line)):
            if axis == 1 and next_axis == 0 and int(number) < len(METADATA):
                kind = METADATA[int(number)]
                result.setdefault(kind.name, kind.to_value(int(bin_)))
        return result
