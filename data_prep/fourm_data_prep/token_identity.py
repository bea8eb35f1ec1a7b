"""What the ids of a modality depend on, and nothing else: its raw form, its sizes, its tokenizer's
weights, the raw shard, the crops.

How a modality is used (roles, weight in the loss, what is masked together) and how its raw shards
came to be change no id, so an edit of these tokenizes nothing. What releases up to 0.7 noted is
recognised: their identities held every setting, those at their defaults too.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from fourm.config import to_mapping
from fourm.modalities import Modality, ModalitySet
from fourm_data_prep.shard_steps import fingerprint

# all that a modality and the raw types of the package had to say in 0.7
_SETTINGS_OF_0_7 = re.findall(
    r"\w+",
    "name kind raw tokenizer source labeller labeller_size vocab vocab_size levels grid places"
    " max_tokens patch_size width chunk_size input output loss_weight",
)
_RAW_SETTINGS_OF_0_7 = ("type", "size", "mean", "std", "range", "classes", "channels", "rate")


def identity(m: Modality) -> dict[str, Any]:
    """Settings of a modality on which its ids depend, without those at their defaults, so that a
    setting that is new in a release changes no identity.
    """
    alone = replace(
        m,
        raw=m.raw.data_form,
        input=True,
        output=True,
        loss_weight=1.0,
        chunk_size=1,
        labeller="",
        labeller_size=0,
        places=None,
    )
    described = ModalitySet((alone,)).to_mapping()["modalities"][m.name]
    names = ("tokenizer", "vocab", "source")  # what they name is told by its own fingerprint
    return {key: value for key, value in described.items() if key not in names}


def identities(m: Modality, source: Any, codec: str, crops: int, flip: bool) -> tuple[str, ...]:
    """What a piece of tokens may be noted to be made from: as it is noted now, and as releases up
    to 0.7 did.

    Args:
        source: stamp of the raw shard; codec: fingerprint of the tokenizer.
    """
    described = (identity(m), _identity_of_0_7(m))
    return tuple(fingerprint([source, codec, [d, crops, flip]]) for d in described)


def _identity_of_0_7(m: Modality) -> dict[str, Any]:
    alone = replace(m, input=True, output=True, loss_weight=1.0, chunk_size=1)
    found = {k: v for k, v in to_mapping(alone).items() if k in _SETTINGS_OF_0_7}
    if type(m.raw).__module__.startswith("fourm.raw."):
        found["raw"] = {k: v for k, v in found["raw"].items() if k in _RAW_SETTINGS_OF_0_7}
    return found
