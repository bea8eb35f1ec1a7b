"""Ranges of remote files through the cache, with threads that fetch what is needed next.

Reading waits only for blocks that are not here; those of later batches are asked for ahead of time
(``ReadAhead.want``), fetched by a few threads of each loader worker.
"""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import Future
from itertools import count, groupby
from operator import itemgetter

import numpy as np

from fourm.data.remote.block_cache import BlockCache
from fourm.data.remote.folder import RemoteFile

NUM_THREADS = 8  # requests of a process at a time
_Job = tuple[str, int, tuple[int, ...]]  # id of a file, stretch, blocks


class RemoteReader:
    """Reads ranges of remote files; may be handed to forked workers, each of which has its own
    threads.
    """

    def __init__(self, cache: BlockCache) -> None:
        self.cache = cache
        self._fetchers: _Fetchers | None = None
        self._owner = 0  # process whose threads they are

    def read(self, file: RemoteFile, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Bytes (sum of sizes,) of ranges that begin at ``starts`` (n,), one after another."""
        result = np.empty(int(sizes.sum()), np.uint8)
        view = result.data
        parts = _parts(file.block_bytes, starts, sizes)
        parts = parts[np.argsort(parts[:, 0], kind="stable")]
        arriving = self._fetch(file, self.cache.lacks(file, np.unique(parts[:, 0])), urgent=True)
        fetched: dict[int, bytes] = {}
        for future in arriving:
            fetched |= future.result()
        for block, of_block in groupby(parts.tolist(), itemgetter(0)):
            pieces = [(start, view[at : at + size]) for _, start, size, at in of_block]
            if block in fetched or not self.cache.read(file, block, pieces):
                # just come, or removed in between
                data = fetched.get(block) or self.cache.fetch(file, [block])[block]
                for start, into in pieces:
                    into[:] = data[start : start + len(into)]
        return result

    def want(self, file: RemoteFile, starts: np.ndarray, sizes: np.ndarray) -> None:
        """Fetch, in the background, what these ranges (n,) need."""
        blocks = np.unique(_parts(file.block_bytes, starts, sizes)[:, 0])
        self._fetch(file, self.cache.lacks(file, blocks), urgent=False)

    def _fetch(
        self, file: RemoteFile, blocks: list[int], urgent: bool
    ) -> list[Future[dict[int, bytes]]]:
        if not blocks:
            return []
        if self._fetchers is None or self._owner != os.getpid():
            self._fetchers, self._owner = _Fetchers(self.cache), os.getpid()
        stretches = groupby(blocks, lambda block: self.cache.stretch(file, block))
        return [self._fetchers.submit(file, tuple(group), urgent) for _, group in stretches]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_fetchers": None}


def _parts(block_bytes: int, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Ranges (n,) cut at the borders of blocks: rows (block, start within it, size, place in the
    result).
    """
    at = np.cumsum(sizes) - sizes
    starts, sizes, at = (a[sizes > 0] for a in (starts, sizes, at))
    first, last = starts // block_bytes, (starts + sizes - 1) // block_bytes
    num = last - first + 1
    of_range = np.repeat(np.arange(len(starts)), num)
    block = first[of_range] + np.arange(len(of_range)) - (np.cumsum(num) - num)[of_range]
    low = np.maximum(starts[of_range], block * block_bytes)
    high = np.minimum((starts + sizes)[of_range], (block + 1) * block_bytes)
    place = at[of_range] + low - starts[of_range]
    return np.stack([block, low - block * block_bytes, high - low, place], axis=1)


class _Fetchers:
    """Threads of one process that fetch blocks; the same blocks are not asked for twice."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache, self._order, self._lock = cache, count(), threading.Lock()
        self._jobs: queue.PriorityQueue = queue.PriorityQueue()
        self._pending: dict[_Job, Future[dict[int, bytes]]] = {}
        for _ in range(NUM_THREADS):
            # daemons: an ending process waits for nothing that only might have been needed
            threading.Thread(target=self._work, daemon=True).start()

    def submit(
        self, file: RemoteFile, blocks: tuple[int, ...], urgent: bool
    ) -> Future[dict[int, bytes]]:
        """Blocks of one stretch of a file, the urgent ones first."""
        name = (file.id, self._cache.stretch(file, blocks[0]), blocks)
        with self._lock:
            known = self._pending.get(name)
            if known is not None and not urgent:
                return known
            future = self._pending[name] = Future()
        self._jobs.put((not urgent, next(self._order), name, file, future))
        return future

    def _work(self) -> None:
        while True:
            _, _, name, file, future = self._jobs.get()
            try:
                future.set_result(self._cache.fetch(file, list(name[2])))
            except BaseException as error:  # told to whoever waits; the next reader asks again
                future.set_exception(error)
            with self._lock:
                if self._pending.get(name) is future:
                    del self._pending[name]
