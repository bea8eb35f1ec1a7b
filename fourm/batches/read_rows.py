"""Reading what masking chose, and nothing else, out of flat memory-mapped arrays."""

from __future__ import annotations

import numpy as np

from fourm.batches.spans import literal
from fourm.numbers.compiled import compiled


@compiled
def read_ids(
    values: np.ndarray,
    in_part: np.ndarray,
    first: np.ndarray,
    counts: np.ndarray,
    contents: np.ndarray,
) -> None:
    """Replace contents by ids, in place, for the rows of one modality.

    Args:
        values: (total,) ids of one part of the data.
        in_part: (B,) True for samples of this part; of others nothing is touched.
        first: (B,) first row of each sample; counts: (B,) rows of it.
        contents: (T,) numbers of elements of ``values``, or literal ids (see
        ``fourm.batches.spans``).
    """
    for b in range(len(counts)):
        if in_part[b]:
            for row in range(first[b], first[b] + counts[b]):
                content = contents[row]
                contents[row] = values[content] if content >= 0 else literal(content)
