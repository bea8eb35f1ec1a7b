"""All targets, by name."""

from __future__ import annotations

from fuzz import differential, engines, files, folders, network, settings, values
from fuzz.target import Target

TARGETS: tuple[Target, ...] = tuple(
    target
    for module in (files, values, settings, folders, network, differential, engines)
    for target in module.targets()
)
