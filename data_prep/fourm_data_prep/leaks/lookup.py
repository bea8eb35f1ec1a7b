"""Looking up key points among those of many pictures: near-linear, whatever their number.

Descriptors become 256 bits, the signs of two random rotations about the mean (of square roots:
RootSIFT, Arandjelovic and Zisserman 2012). Equal 16 bits of any of 16 bands are worth a look
(multi-index hashing, Norouzi et al. 2012); bits, direction and size must agree; and a picture is a
candidate if several of its points are found. The hash of the whole is looked up in the same way.

The smaller of two folders is kept here, the larger streams by: memory does not grow with it.
Shapes: P points of all pictures, K of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import rearrange

from fourm.numbers.ragged import rows_of_blocks
from fourm_data_prep.leaks.prints import View

_MAX_BITS = 46  # of 256, by which a point may differ
_MAX_WHOLE_BITS = 10  # of 64
_MAX_TURN = 20.0  # degrees; pictures are cropped and mirrored, not turned
_MAX_SIZE = 2.5  # by which a point may be larger or smaller
_MIN_VOTES = 3
_MAX_CANDIDATES = 16  # of a picture, those with most votes


@dataclass(frozen=True)
class Candidate:
    """A picture that may be another one's, and the places that may be the same."""

    picture: int  # its number in the lookup
    here: np.ndarray  # (n, 2) x and y in the picture that was asked for
    there: np.ndarray  # (n, 2) in the one that was found; n = 0: the whole was found


class Bands:
    """Codes of 16 bits times ``num``: which ones share a band with a given one."""

    def __init__(self, codes: np.ndarray) -> None:
        bands = codes.view(np.uint16)  # (P, bands)
        self._order = np.argsort(bands, axis=0, kind="stable")
        self._sorted = np.take_along_axis(bands, self._order, axis=0)

    def pairs(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (n,) of given codes and of held ones that share a band, some more than once."""
        asked, found = [], []
        for band, wanted in enumerate(codes.view(np.uint16).T):
            held = self._sorted[:, band]
            first = np.searchsorted(held, wanted, "left")
            count = np.searchsorted(held, wanted, "right") - first
            asked.append(np.repeat(np.arange(len(wanted)), count))
            found.append(self._order[rows_of_blocks(first, count), band])
        return np.concatenate(asked), np.concatenate(found)


class Lookup:
    """The views of a folder's pictures, in which those of others are found."""

    def __init__(self, views: list[View]) -> None:
        described = np.concatenate([np.zeros((0, 128), np.float32), *(v.described for v in views)])
        self._mean = _rooted(described).mean(0) if len(described) else np.zeros(128)
        turns = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 128, 128)))[0]
        self._rotation = rearrange(turns, "t i j -> i (t j)")
        self._places = np.concatenate([np.zeros((0, 4)), *(v.places for v in views)])
        self._picture = np.repeat(np.arange(len(views)), [len(v.places) for v in views])
        self._codes = self._bits(described)
        self._points = Bands(self._codes)
        self._whole = np.stack([v.whole for v in views])
        self._wholes = Bands(self._whole)

    def candidates(self, view: View) -> list[Candidate]:
        """Pictures that may be the one of this view, those with most in common first."""
        codes = self._bits(view.described)
        asked, found = self._points.pairs(codes)
        near = _distance(codes[asked], self._codes[found]) <= _MAX_BITS
        near &= self._alike(view.places[asked], self._places[found])
        # a pair that shares several bands is one, and each point has one vote for a picture
        both = np.unique(np.stack([asked[near], found[near]]), axis=1)
        voted = np.unique(np.stack([both[0], self._picture[both[1]]]), axis=1)[1]
        votes = np.bincount(voted, minlength=len(self._whole))
        best = np.argsort(-votes, kind="stable")[:_MAX_CANDIDATES]
        result = []
        for picture in best[votes[best] >= _MIN_VOTES]:
            asked, found = both[:, self._picture[both[1]] == picture]
            here, there = view.places[asked, :2], self._places[found, :2]
            result.append(Candidate(int(picture), here, there))
        return result + [Candidate(int(i), _NONE, _NONE) for i in self._like_whole(view)]

    def _like_whole(self, view: View) -> np.ndarray:
        _, found = self._wholes.pairs(view.whole[None])
        found = np.unique(found)
        distance = _distance(view.whole, self._whole[found])
        near = distance <= _MAX_WHOLE_BITS
        return found[near][np.argsort(distance[near], kind="stable")][:_MAX_CANDIDATES]

    def _alike(self, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        """(n,) True where direction and size of places (n, 4) agree."""
        turn = np.abs((here[:, 3] - there[:, 3] + 180) % 360 - 180)
        return (turn <= _MAX_TURN) & (np.abs(np.log(here[:, 2] / there[:, 2])) <= np.log(_MAX_SIZE))

    def _bits(self, described: np.ndarray) -> np.ndarray:
        """(K, 128) -> (K, 4) uint64."""
        signs = (_rooted(described) - self._mean) @ self._rotation > 0
        return np.ascontiguousarray(np.packbits(signs, axis=1)).view(np.uint64)


_NONE = np.zeros((0, 2))


def _rooted(described: np.ndarray) -> np.ndarray:
    return np.sqrt(described / np.maximum(described.sum(1, keepdims=True), 1e-9))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits by which codes (n, words) differ -> (n,)."""
    return _NUM_BITS[(a ^ b).view(np.uint16)].sum(1, dtype=np.int64)


# of every number of 16 bits
_NUM_BITS = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), 1).sum(
    1, dtype=np.uint8
)
