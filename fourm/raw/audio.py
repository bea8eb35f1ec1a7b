"""Sounds: mono waveforms float32 (n,) in [-1, 1] at the rate that a modality declares.

Shards hold 16-bit wav. Files at other rates are resampled when they are read (in the frequency
domain, so that nothing aliases), several channels become their mean.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fourm.data.npy import as_array
from fourm.errors import UserError
from fourm.raw._protocol import Raw

MAX_SECONDS = 600.0  # longer sounds are refused before they are decoded
_MIN_RATE = 1000


@dataclass(frozen=True, kw_only=True)
class Audio(Raw, name="audio"):
    """Waveforms at ``rate`` samples a second."""

    rate: int = 0

    extensions: ClassVar[tuple[str, ...]] = ("wav",)

    def __post_init__(self) -> None:
        if self.rate < _MIN_RATE:
            raise UserError("raw type audio needs a rate (samples a second), e.g. 16000")

    def read(self, data: bytes, extension: str, native: bool = False) -> np.ndarray:
        return read_wav(data, self.rate)

    def write(self, value: Any) -> bytes:
        return write_wav(self.check(value), self.rate)

    def check(self, value: Any) -> np.ndarray:
        array = as_array(value, "audio")
        if array.ndim != 1 or array.dtype.kind != "f" or not len(array):
            raise UserError(
                f"audio has shape {array.shape} and type {array.dtype}, expected floats (samples,)"
            )
        if not np.isfinite(array).all():
            raise UserError("audio holds numbers that are not finite")
        return array.astype(np.float32)

    def remark(self, value: Any) -> str | None:
        loudest = np.abs(value).max()
        if loudest > 1 + 1e-3:
            return "samples outside of [-1, 1], which are clipped"
        return None if loudest else "silence"

    def measured(self, value: Any) -> Mapping[str, np.ndarray]:
        return {"seconds": np.array([len(value) / self.rate]), "samples": value}


def read_wav(data: bytes, rate: int) -> np.ndarray:
    """A wav file of 8 to 32 bits -> float32 (n,) at ``rate`` samples a second.

    Raises UserError for anything else.
    """
    try:
        with wave.open(io.BytesIO(data)) as stored:
            width, channels, given = (
                stored.getsampwidth(),
                stored.getnchannels(),
                stored.getframerate(),
            )
            if not given or width > 4:
                raise UserError(f"a wav file of {8 * width} bits at {given} Hz is no sound")
            if stored.getnframes() > MAX_SECONDS * given:
                raise UserError(
                    f"sound of {stored.getnframes() / given:.0f} s is longer than"
                    f" {MAX_SECONDS:.0f} s"
                )
            frames = stored.readframes(stored.getnframes())
    except UserError:
        raise
    except Exception as error:  # the parser of chunks raises what their sizes lead to
        raise UserError(f"no readable wav file: {error or 'it ends early'}") from None
    frames = frames[: len(frames) // (width * channels) * width * channels]
    if not frames:
        raise UserError("the sound is empty")
    if width == 1:
        values = np.frombuffer(frames, np.uint8).astype(np.float32) / 128.0 - 1.0
    elif width == 3:
        wide = np.zeros((len(frames) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(frames, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0].astype(np.float32) / 2.0**31
    else:
        values = np.frombuffer(frames, {2: "<i2", 4: "<i4"}[width]).astype(np.float32) / 2.0 ** (
            8 * width - 1
        )
    return resample(values.reshape(-1, channels).mean(1), given, rate)


def write_wav(values: np.ndarray, rate: int) -> bytes:
    """float (n,) in [-1, 1] -> 16-bit wav."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stored:
        stored.setnchannels(1)
        stored.setsampwidth(2)
        stored.setframerate(rate)
        stored.writeframes((np.clip(values, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes())
    return buffer.getvalue()


def resample(values: np.ndarray, given: int, wanted: int) -> np.ndarray:
    """(n,) at ``given`` samples a second -> at ``wanted``."""
    if given == wanted:
        return values.astype(np.float32)
    num = max(1, round(len(values) * wanted / given))
    spectrum = np.fft.rfft(values)[: num // 2 + 1]
    return (np.fft.irfft(spectrum, num) * (num / len(values))).astype(np.float32)
