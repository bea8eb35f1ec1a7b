"""Sampling options by the names of releases up to 0.4.0, which kept settings of schemes beside the
scheme: their files are read, and ``pipe(..., remask=0.3)`` is understood.
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
    "remask": (MaskGIT, "remask"),
    "entropy_bound": (Entropy, "bound"),
}


def upgraded(settings: dict[str, Any], scheme: Scheme) -> dict[str, Any]:
    """``settings`` with earlier names put into their scheme, which is ``scheme`` if they name none.

    Files of those releases hold the settings of all schemes, so another scheme's are passed over
    where they are its defaults, and refused (UserError) where they contradict the choice.
    """
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
