"""Sampling options of earlier releases: their files are read.

Up to 0.4.0 settings of schemes stood beside the scheme; ``pipe(..., confidence_noise=3.0)`` is
understood too. Settings that did not pay are gone: passed over where they are off, else refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fourm.config import choose
from fourm.errors import UserError
from fourm.sampling.schemes import Entropy, MaskGIT, Scheme

# whose they are, and which
EARLIER_KEYS: dict[str, tuple[type[Scheme], str]] = {
    "confidence_noise": (MaskGIT, "noise"),
    "entropy_bound": (Entropy, "bound"),
}
# what it was when it was off, and what was found instead
_GONE: dict[str, tuple[Any, str]] = {
    "remask": (0, "sweeps ask committed tokens again and give better pictures, e.g. sweeps: 1"),
    "least_entropy": (0, "a sweep asks all tokens, which gives better pictures"),
    "guidance_schedule": ("constant", "guidance that rises gives worse pictures; leave it out"),
}


def _without_gone(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings``, and those of their scheme and sweep, without what is gone. Raises UserError."""
    kept = {}
    for key, value in settings.items():
        if key in _GONE:
            off, instead = _GONE[key]
            if value != off:
                raise UserError(f"there is no {key} any more: {instead}")
        else:
            kept[key] = _without_gone(value) if isinstance(value, dict) else value
    return kept


def upgraded(settings: dict[str, Any], scheme: Scheme) -> dict[str, Any]:
    """``settings`` with earlier names put into their scheme, which is ``scheme`` if they name none.

    Files of those releases hold the settings of all schemes, so another scheme's are passed over
    where they are its defaults, and refused (UserError) where they contradict the choice.
    """
    settings = _without_gone(settings)
    earlier = {key: settings[key] for key in EARLIER_KEYS if key in settings}
    if not earlier:
        return settings
    now = {key: value for key, value in settings.items() if key not in earlier}
    chosen = now.get("scheme", scheme)
    if isinstance(chosen, dict):  # it has settings of its own: which would hold?
        key = next(iter(earlier))
        raise UserError(
            f"{key} stands beside a scheme that has settings of its own; give"
            f" {EARLIER_KEYS[key][1]} there"
        )
    chosen = choose(Scheme, chosen, "scheme")
    for key, value in earlier.items():
        owner, name = EARLIER_KEYS[key]
        if isinstance(chosen, owner):
            chosen = replace(chosen, **{name: value})
        elif value != getattr(owner(), name):
            raise UserError(
                f"{key} is a setting of the scheme {owner.type_name}, and the scheme is"
                f" {chosen.type_name}; choose scheme: {{type: {owner.type_name}, {name}: {value}}}"
                f" or leave {key} out"
            )
    return {**now, "scheme": chosen}
