"""Log-mel frames of sounds."""

from __future__ import annotations

import numpy as np

_FRAME, _HOP = 0.025, 0.010  # seconds


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
