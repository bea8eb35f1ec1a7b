"""Columns of 12 million samples of 4M-7: joining, opening, memory of a rank, the first batch.

    python benchmarks/columns_at_size.py [--samples 12000000] [--folder DIR] [--out FILE]

Keys, names, offsets and the table of rows are real, with 0.2 % of the keys missing at random in
each modality; the ids are holes in sparse files (all 0), which cost no disk and, when they are
read, no disk's time. Each figure is of a process of its own: one joins, the next ones open what is
there. Memory beyond that of a process with the same modules loaded: ``own`` cannot be given back,
``mapped`` are pages of files, which all ranks share and the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig  # noqa: E402
from fourm.batches.tokens import SampleTokens  # noqa: E402
from fourm.data.chunks import (  # noqa: E402
    INDEX,
    KEYS,
    NAME_OFFSETS,
    NAMES,
    OFFSETS,
    SUMS,
    VALUES,
    ChunkIndex,
    StoredFile,
)
from fourm.data.keys import keys_of  # noqa: E402
from fourm.data.masked_batches import MaskedBatches  # noqa: E402
from fourm.data.opening import token_dtype  # noqa: E402
from fourm.data.order import SampleOrder  # noqa: E402
from fourm.data.pages import PAGE, PageSums  # noqa: E402
from fourm.data.store import Source, SourceConfig  # noqa: E402
from fourm.modalities import Modality, ModalitySet  # noqa: E402

CHUNK = 1_000_000
SHARD = 10_000
MISSING = 0.002
BATCH, BATCHES = 64, 100


def modalities_of_7() -> ModalitySet:
    """4M-7 without pixels: five grids and two sequences."""
    whole = ModalitySet.load(ROOT / "configs" / "modalities" / "4m_7.yaml")
    kept = tuple(m for m in whole if m.kind != "continuous")
    return ModalitySet(kept, whole.tokenizers)


# ---- making --------------------------------------------------------------------------------------


def write_columns(root: Path, modalities: ModalitySet, num: int) -> None:
    """Chunks of all modalities, a million samples at a time."""
    rng = np.random.default_rng(0)
    for number, first in enumerate(range(0, num, CHUNK)):
        size = min(CHUNK, num - first)
        names = [f"{i // SHARD:05d}/{i:010d}" for i in range(first, first + size)]
        keys, text = keys_of(names), np.array(names, "S16")
        for m in modalities:
            has = rng.random(size) >= MISSING
            folder = root / "train" / m.name / f"{number:05d}.chunk"
            folder.mkdir(parents=True)
            _write_chunk(folder, m, keys[has], text[has], rng)


def _write_chunk(
    folder: Path, m: Modality, keys: np.ndarray, text: np.ndarray, rng: np.random.Generator
) -> None:
    num, dtype = len(keys), token_dtype(m.vocab_size)
    files = {
        KEYS: keys.tobytes(),
        NAMES: text.tobytes(),
        NAME_OFFSETS: (np.arange(num + 1) * text.itemsize).astype("<i8").tobytes(),
    }
    length = m.num_tokens if m.kind != "sequence" else None
    num_elements = num * m.num_tokens
    if length is None:
        offsets = np.concatenate([[0], np.cumsum(rng.integers(5, 60, num))])
        files[OFFSETS], num_elements = offsets.astype("<i8").tobytes(), int(offsets[-1])
    if OFFSETS in files:
        files[SUMS[OFFSETS]] = _page_sums(files[OFFSETS])
    size = num_elements * dtype.itemsize
    rest = size % PAGE  # pages of a hole are alike
    files[SUMS[VALUES]] = _page_sums(bytes(PAGE)) * (size // PAGE) + _page_sums(bytes(rest))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    stored = {n: StoredFile(len(d), hashlib.sha256(d).hexdigest()) for n, d in files.items()}
    with open(folder / VALUES, "wb") as out:  # a hole
        out.truncate(size)
    stored[VALUES] = StoredFile(size, "of a hole")
    index = ChunkIndex(
        dtype=dtype.str,
        shape=(),
        num_samples=num,
        num_elements=num_elements,
        length=length,
        largest=0,
        made_by={"fingerprint": "made up"},
        files=stored,
    )
    (folder / INDEX).write_text(index.to_json())


def _page_sums(data: bytes) -> bytes:
    found = bytearray()
    sums = PageSums(found.extend)
    sums.add(data)
    sums.end()
    return bytes(found)


# ---- a rank --------------------------------------------------------------------------------------


def memory() -> dict[str, float]:
    """Megabytes of this process: its own, and mapped pages of files."""
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, _ = line.split()
        found[name] = int(value) / 1024
    return {"own": found["Anonymous:"], "mapped": found["Rss:"] - found["Anonymous:"]}


def since(before: dict[str, float]) -> dict[str, float]:
    """Megabytes beyond ``before``."""
    return {name: round(value - before[name], 1) for name, value in memory().items()}


def peak() -> float:
    """Most megabytes that this process had resident."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def rank(root: Path, cache: Path) -> dict:
    """Open the source, make batches: seconds and megabytes of this process."""
    modalities = modalities_of_7()
    component = MaskingComponent(input_default=0.5, target_default=0.5)
    config = MaskingConfig(num_inputs=(128, 128), num_targets=(128, 128), components=(component,))
    masker = Masker(modalities, config, 0)
    _warm(masker, modalities)
    before, at_start = memory(), peak()
    started, cpu = time.perf_counter(), time.process_time()
    source = Source(SourceConfig(tokens=str(root)), "train", modalities, cache, 0.0)
    opened, after, cpu_of_opening = time.perf_counter(), since(before), time.process_time() - cpu
    order = SampleOrder([source.num_samples], [1.0], 0)
    batches = MaskedBatches([source], order, masker, BATCH, 1, 0, 1)
    _ = batches[0]
    first, after_first = time.perf_counter(), since(before)
    cpu = time.process_time()
    for step in range(1, BATCHES):
        _ = batches[step]
    return {
        "samples": source.num_samples,
        "complete": source.presence.num_complete,
        "open_s": round(opened - started, 2),
        "open_cpu_s": round(cpu_of_opening, 2),
        "first_batch_s": round(first - opened, 2),
        "samples_per_cpu_s": round(BATCH * (BATCHES - 1) / (time.process_time() - cpu)),
        "MB_opened": after,
        "MB_first_batch": after_first,
        f"MB_after_{BATCHES}_batches": since(before),
        "MB_peak": round(peak() - at_start, 1),
    }


def _warm(masker: Masker, modalities: ModalitySet) -> None:
    """Load compiled code, as every process of a run has it."""
    arrays = {m.name: np.zeros((2, m.num_tokens), token_dtype(m.vocab_size)) for m in modalities}
    for array in arrays.values():
        array.flags.writeable = False
    lengths = {m.name: np.full(2, m.num_tokens) for m in modalities}
    masker(SampleTokens.from_arrays(np.arange(2), arrays, lengths), np.arange(2))


def _run(root: Path, cache: Path, num: int = 1) -> list[dict]:
    command = [sys.executable, __file__, "--rank", str(root), str(cache)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(num)]
    return [json.loads(process.communicate()[0]) for process in ranks]


def _bytes(folder: Path, holes: bool = True) -> int:
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(s.st_size if holes else s.st_blocks * 512 for s in stats)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=12_000_000)
    parser.add_argument("--folder", type=Path, help="on a disk with 1 GB for 2 million samples")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rank", nargs=2, type=Path, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.rank:
        print(json.dumps(rank(*o.rank)))
        return
    scratch = Path(tempfile.mkdtemp(dir=o.folder))
    try:
        root, cache = scratch / "tokens", scratch / "cache"
        started = time.perf_counter()
        write_columns(root, modalities_of_7(), o.samples)
        made = time.perf_counter() - started
        joined = max(_run(root, cache, 2), key=lambda rank: rank["open_s"])  # the other waits
        (again,) = _run(root, cache)
        two = _run(root, cache, 2)
        figures = {
            "samples": o.samples,
            "cores": os.cpu_count(),
            "made_s": round(made, 1),
            "GB_columns": round(_bytes(root) / 1e9, 2),
            "GB_without_ids": round(_bytes(root, holes=False) / 1e9, 2),
            "GB_rows": round(_bytes(cache) / 1e9, 3),
            "joining": joined,
            "opening": again,
            "opening_of_two_at_once": two,
        }
    finally:
        shutil.rmtree(scratch)
    text = json.dumps(figures, indent=1)
    print(text)
    if o.out:
        o.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
