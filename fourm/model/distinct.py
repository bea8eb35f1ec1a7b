"""Samples that the encoder would see alike are encoded once, and share what comes out.

Several samples of one input are alike until their first tokens differ, in sequences throughout; so
are the branches of guidance that leave out all that differs. A sample's rows see no others, so
sharing changes results by rounding alone, as batch sizes do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fourm.batches.batch import EncoderStream, Vectors
from fourm.model.encoder import Encoded
from fourm.model.model import FourM
from fourm.numbers.ragged import rows_of_blocks, starts


def encode_distinct(
    model: FourM, stream: EncoderStream, on_device: Callable[[EncoderStream], EncoderStream]
) -> Encoded:
    """``model.encode`` of a stream on the host, each different sample once."""
    first_alike = _first_alike(stream)
    kept, source = np.unique(first_alike, return_inverse=True)
    if len(kept) == len(first_alike):
        return model.encode(on_device(stream))
    return _repeated(model.encode(on_device(_samples(stream, kept))), source)


def _first_alike(stream: EncoderStream) -> np.ndarray:
    """For each sample the first one (B,) that has the same rows."""
    table = np.stack([stream.kinds, stream.places, stream.token.numpy()], axis=1)
    ends = np.cumsum(stream.lengths)
    parts = [[rows.tobytes() for rows in np.split(table, ends[:-1])]]
    for vectors in stream.vectors.values():
        cuts = np.searchsorted(vectors.rows.numpy(), ends[:-1])
        parts.append([rows.tobytes() for rows in np.split(vectors.values.numpy(), cuts)])
    seen: dict[tuple[bytes, ...], int] = {}
    return np.array([seen.setdefault(key, i) for i, key in enumerate(zip(*parts, strict=True))])


def _samples(stream: EncoderStream, kept: np.ndarray) -> EncoderStream:
    """Some samples of a stream, ascending."""
    rows = rows_of_blocks(starts(stream.lengths)[kept], stream.lengths[kept])
    place = np.full(len(stream.kinds), -1)
    place[rows] = np.arange(len(rows))
    index, vectors = torch.from_numpy(rows), {}
    for name, given in stream.vectors.items():
        moved = torch.from_numpy(place)[given.rows]
        vectors[name] = Vectors(moved[moved >= 0], given.values[moved >= 0], given.scale)
    return replace(
        stream,
        modality=stream.modality[index],
        position=stream.position[index],
        token=stream.token[index],
        lengths=stream.lengths[kept],
        kinds=stream.kinds[rows],
        places=stream.places[rows],
        vectors=vectors,
    )


def _repeated(encoded: Encoded, source: np.ndarray) -> Encoded:
    """What each sample shares with the sample ``source`` (B,) of ``encoded``."""

    def taken(lengths: np.ndarray) -> Callable[[Tensor], Tensor]:
        rows = torch.from_numpy(rows_of_blocks(starts(lengths)[source], lengths[source]))
        return lambda values: values.index_select(0, rows.to(values.device))

    of_context, of_features = taken(encoded.lengths), taken(encoded.num_features)
    return Encoded(
        of_features(encoded.features),
        of_context(encoded.context),
        encoded.lengths[source],
        encoded.num_features[source],
        None if encoded.turn is None else encoded.turn.each(of_context),
    )
