"""A model's own sampling settings, ``generation.yaml``: by target (``rgb``), or by an input and a
target (``caption->rgb``), which go first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm.config import read_yaml
from fourm.errors import UserError, nearest
from fourm.modalities import ModalitySet
from fourm.resources import configs_folder
from fourm.sampling.options import SamplingOptions

GENERATION_FILE = "generation.yaml"


def options_of(folder: Path, modalities: ModalitySet) -> dict[str, SamplingOptions]:
    """Those of a model folder. Raises UserError for a key that is none of the model's."""
    path = folder / GENERATION_FILE
    if path.is_file():
        options = read_options(path)
    elif is_released(modalities):
        path = configs_folder() / "generate" / "4m.yaml"
        options = read_options(path)
    else:
        return {}
    # those of the released family's settings that this one lacks are for its other models
    if not is_released(modalities):
        check_options(options, modalities, f"{path}")
    return options


def read_options(path: Path) -> dict[str, SamplingOptions]:
    """Sampling settings by target, or by ``condition->target``."""
    return {
        name: SamplingOptions.read(entry, f"{path}: {name}")
        for name, entry in read_yaml(path).items()
    }


def check_options(options: dict[str, Any], modalities: ModalitySet, where: str) -> None:
    """Raise UserError where a key is neither an output nor ``condition->output``."""
    outputs = [m.name for m in modalities.outputs]
    conditions = {name for m in modalities for name in (m.name, m.raw_name)}
    for key in options:
        condition, arrow, target = key.rpartition("->")
        if target not in outputs:
            raise UserError(
                f"{where}: {target!r} is no output of this model; it has"
                f" {', '.join(outputs)}{nearest(target, outputs)}"
            )
        if arrow and condition not in conditions:
            raise UserError(
                f"{where}: {condition!r} in {key!r} is no modality of this model"
                f"{nearest(condition, conditions)}"
            )


def is_released(modalities: ModalitySet) -> bool:
    """True if the set's tokenizers are those of the released 4M family."""
    return any(settings.get("type") == "released" for settings in modalities.tokenizers.values())


def preferred(
    options: Mapping[str, SamplingOptions],
    modalities: ModalitySet,
    conditions: Sequence[str],
    target: str,
) -> SamplingOptions | None:
    """Settings of a target given one of the inputs, else of the target alone, if it has any."""
    for condition in conditions:
        for name in (condition, modalities[condition].raw_name):
            if f"{name}->{target}" in options:
                return options[f"{name}->{target}"]
    return options.get(target)


def weighted_as_given(
    weights: Any, modalities: ModalitySet, conditions: Sequence[str], targets: Sequence[str]
) -> Any:
    """``condition_weights`` that name what the model sees: an input by the name under which it is
    read (rgb as pixels), none of the ``targets`` that are yet to come.
    """
    if not isinstance(weights, Mapping):
        return weights
    seen = {}
    for name, weight in weights.items():
        raw_name = modalities[name].raw_name
        alike = [c for c in conditions if modalities[c].raw_name == raw_name]
        if name in conditions or alike or name not in targets:
            seen[name if name in conditions or not alike else alike[0]] = weight
    return seen
