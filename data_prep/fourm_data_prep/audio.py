"""Sounds as labellers and as latents.

* ``speech`` -> audio: the caption read aloud by espeak-ng (the program; ``apt install espeak-ng``)
* ``logmel`` -> vectors: log-mel frames of the sound, ``channels`` bands
* ``audio:<network>`` (wav2vec 2.0, HuBERT, Whisper ...; through ``transformers``) -> vectors: one
  for each frame of the network

``logmel`` and ``audio:`` read the sounds of raw type audio, or, where a sample has none, its
caption read aloud.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from fourm.errors import UserError
from fourm.raw import Raw
from fourm.raw.audio import Audio, read_wav
from fourm_data_prep.mel import log_mel
from fourm_data_prep.networks import open_network, read_settings
from fourm_data_prep.samples import Labeller, NetworkLabeller, Samples

_RATE = 16000  # samples a second that networks for speech are trained on
_VOICE = "en"


@cache
def _speaker() -> str:
    program = shutil.which("espeak-ng") or shutil.which("espeak")
    if program is None:
        raise UserError(
            "reading captions aloud needs the program espeak-ng: apt install espeak-ng (brew"
            " install espeak-ng)"
        )
    return program


def say(text: str, rate: int) -> np.ndarray:
    """Text -> speech (n,) at ``rate`` samples a second; a moment of silence for no text."""
    if not text.strip():
        return np.zeros(rate // 10, np.float32)
    made = subprocess.run(
        [_speaker(), "-v", _VOICE, "--stdin", "--stdout"],
        input=text.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    if made.returncode or len(made.stdout) <= 44:
        raise UserError(
            f"espeak-ng cannot read {text[:40]!r}:"
            f" {made.stderr.decode(errors='replace').strip()[:80]}"
        )
    return read_wav(_with_length(made.stdout), rate)


def _with_length(data: bytes) -> bytes:
    """A wav stream's header says 'endless' where the length belongs."""
    body = len(data) - 44
    return (
        data[:4]
        + (body + 36).to_bytes(4, "little")
        + data[8:40]
        + body.to_bytes(4, "little")
        + data[44:]
    )


def speech(samples: Samples, spec: Raw) -> list[Any]:
    """-> waveforms float32 (n,)."""
    if not isinstance(spec, Audio):
        raise UserError(f"labeller speech makes audio, not {spec.type_name}")
    return [say(text, spec.rate) for text in samples.captions]


def _sounds(samples: Samples, rate: int) -> Sequence[np.ndarray]:
    """The sounds of some samples at ``rate``."""
    return (
        samples.sounds(rate)
        if samples.sounds is not None
        else [say(text, rate) for text in samples.captions]
    )


def logmel(samples: Samples, spec: Raw) -> list[Any]:
    """-> float32 (frames, channels)."""
    return [log_mel(sound, _RATE, spec.num_channels) for sound in _sounds(samples, _RATE)]


def audio(name: str, samples: Samples, spec: Raw) -> list[Any]:
    """-> float32 (frames, C), each sound by itself, so that none depends on its neighbours'
    lengths.
    """
    model = open_network("AutoModel", name)
    extractor = read_settings("AutoFeatureExtractor", name)
    rate, result = extractor.sampling_rate, []
    for sound in _sounds(samples, rate):
        given = extractor(sound, sampling_rate=rate, return_tensors="pt")
        given = {
            key: value.to(model.device) for key, value in given.items() if key != "attention_mask"
        }
        with torch.inference_mode():
            made = (model.encoder if hasattr(model, "decoder") else model)(
                **given
            ).last_hidden_state
        result.append(made[0].float().cpu().numpy())
    return result


LABELLERS: dict[str, Labeller] = {"speech": speech, "logmel": logmel}
NETWORKS: dict[str, NetworkLabeller] = {"audio": audio}
