"""Sounds: wav files <-> mono float32 at the rate that a modality declares, and log-mel frames of
them.

Raw type ``audio`` holds waveforms (n,) in [-1, 1]; shards hold 16-bit wav. Files at other rates are
resampled when they are read (in the frequency domain, so that nothing aliases), several channels
become their mean.
"""

from __future__ import annotations

import io
import wave

import numpy as np

from fourm.errors import UserError

MAX_SECONDS = 600.0  # longer sounds are refused before they are decoded
_FRAME, _HOP = 0.025, 0.010  # seconds


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
            if stored.getnframes() > MAX_SECONDS * given:
                raise UserError(
                    f"sound of {stored.getnframes() / given:.0f} s is longer than"
                    f" {MAX_SECONDS:.0f} s"
                )
            frames = stored.readframes(stored.getnframes())
    except (wave.Error, EOFError) as error:
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


def check_sound(value: np.ndarray) -> np.ndarray:
    """A waveform as float32 (n,); UserError for another shape or numbers that are not finite."""
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind != "f" or not len(array):
        raise UserError(
            f"audio has shape {array.shape} and type {array.dtype}, expected floats (samples,)"
        )
    if not np.isfinite(array).all():
        raise UserError("audio holds numbers that are not finite")
    return array.astype(np.float32)


def resample(values: np.ndarray, given: int, wanted: int) -> np.ndarray:
    """(n,) at ``given`` samples a second -> at ``wanted``."""
    if given == wanted:
        return values.astype(np.float32)
    num = max(1, round(len(values) * wanted / given))
    spectrum = np.fft.rfft(values)[: num // 2 + 1]
    return (np.fft.irfft(spectrum, num) * (num / len(values))).astype(np.float32)


def log_mel(values: np.ndarray, rate: int, num_bands: int) -> np.ndarray:
    """(n,) -> (frames, num_bands) float32: logarithm of the energy in bands of equal width on the
    mel scale, 25 ms every 10 ms.
    """
    size, hop = round(_FRAME * rate), round(_HOP * rate)
    padded = np.pad(values, (0, max(0, size - len(values))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    return np.log(power @ _mel_bands(size, rate, num_bands) + 1e-6).astype(np.float32)


def _mel_bands(size: int, rate: int, num_bands: int) -> np.ndarray:
    """Triangles (size // 2 + 1, num_bands) over the frequencies of a frame."""
    edges = np.linspace(0.0, 2595.0 * np.log10(1 + rate / 2 / 700.0), num_bands + 2)
    low, middle, high = (
        700.0 * (10 ** (part / 2595.0) - 1) for part in (edges[:-2], edges[1:-1], edges[2:])
    )
    at = np.fft.rfftfreq(size, 1 / rate)[:, None]
    return np.clip(
        np.minimum((at - low) / (middle - low), (high - at) / (high - middle)), 0.0, None
    )
