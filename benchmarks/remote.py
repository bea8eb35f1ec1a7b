"""What reading over a network costs: a million samples on a web server that answers after 30 ms.

    python benchmarks/remote.py OUT [--samples 1000000]

Prints, for batches of 256 from step 10,100 on, how long steps wait for their batches (mean and
longest, which is where a new window of the order begins) from the disk, over the network with
nothing fetched ahead, and with 16 steps ahead where a step takes 50 ms beside its batch; CPU of a
batch; and the bytes that were fetched. Then how random the order of blocks is beside the full
shuffle, on the mean over 20 epochs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from remote_servers import http_server

from fourm.batches.masking import Masker, MaskingConfig
from fourm.config import from_mapping
from fourm.data.chunks import ChunkWriter
from fourm.data.masked_batches import MaskedBatches
from fourm.data.order import BlockOrder, SampleOrder, epoch_order
from fourm.data.remote.published import publish
from fourm.data.store import DataConfig, SourceConfig, open_sources
from fourm.modalities import ModalitySet
from fourm.numbers.rng import CounterRNG

BATCH, FIRST, STEPS, STEP_SECONDS = 256, 10_100, 60, 0.05
ORDER = BlockOrder(window=2)
GRID = {
    "kind": "grid",
    "raw": {"type": "image", "size": 224},
    "vocab_size": 16384,
    "grid": [14, 14],
}
MODALITIES = ModalitySet.from_mapping({"modalities": {"rgb": GRID}})
MASKING = {
    "num_inputs": [64, 64],
    "num_targets": [64, 64],
    "components": [{"input_default": 1.0, "target_default": 1.0}],
}


def write(folder: Path, num: int) -> None:
    """Chunks of 2^18 samples of 196 ids."""
    rng = CounterRNG(0, "ids")
    for part, first in enumerate(range(0, num, 2**18)):
        chunk = folder / "train" / "rgb" / f"{part:05d}.chunk"
        chunk.mkdir(parents=True)
        with ChunkWriter(chunk, {}) as writer:
            for start in range(first, min(first + 2**18, num), 4096):
                samples = np.arange(start, min(start + 4096, first + 2**18, num))
                bits = rng.bits(samples[:, None], np.arange(49))
                ids = bits.view(np.uint16).reshape(len(samples), 196) % 16384
                for sample, row in zip(samples.tolist(), ids, strict=True):
                    writer.add(f"{part:05d}/{sample:09d}", row)
    publish(folder)


def measure(address: str, cache: Path, ahead: int) -> dict[str, float]:
    """Seconds that steps waited for their batches, the first apart."""
    shutil.rmtree(cache, ignore_errors=True)
    config = DataConfig(sources=(SourceConfig(tokens=address, order=ORDER),), cache=str(cache))
    began = time.perf_counter()
    sources = open_sources(config, "train", MODALITIES)
    order = SampleOrder([sources[0].num_samples], [1.0], 0, blocks=[sources[0].blocks])
    masker = Masker(MODALITIES, from_mapping(MaskingConfig, MASKING, "masking"), 0)
    batches = MaskedBatches(sources, order, masker, BATCH, 1, 0, 1, ahead)
    batches[FIRST]
    first, waits, cpu = time.perf_counter() - began, [], time.process_time()
    for step in range(FIRST + 1, FIRST + STEPS):
        began = time.perf_counter()
        batches[step]
        waits.append(1e3 * (time.perf_counter() - began))
        time.sleep(STEP_SECONDS)
    cpu = 1e3 * (time.process_time() - cpu) / len(waits)
    return {
        "open_and_first_batch_s": round(first, 2),
        "wait_ms": round(float(np.median(waits)), 1),
        "longest_wait_ms": round(max(waits), 1),
        "cpu_ms": round(cpu, 2),
    }


def randomness(num: int, blocks: BlockOrder | None, num_epochs: int = 20) -> dict[str, float]:
    """Mean distance of a sample from its place, in lengths of the data set (a third if it is at
    random), correlation of neighbours (0 if at random), and spread of the means of batches of 4,096
    (1 if at random), all on a data set whose samples are their own numbers.
    """
    order, num_seen, found = epoch_order(num, 0, blocks), min(num, 400 * 4096), []
    start = np.arange(0, num - 4095, num // (num_seen // 4096))
    places = (start[:, None] + np.arange(4096)).reshape(-1)
    for epoch in range(num_epochs):
        samples = order(np.full(len(places), epoch), places).astype(float)
        far = np.abs(samples - places).mean() / num
        batches = samples.reshape(-1, 4096)
        next_to = np.corrcoef(batches[:, :-1].reshape(-1), batches[:, 1:].reshape(-1))[0, 1]
        found.append((far, next_to, batches.mean(1).std() / (num / np.sqrt(12 * 4096))))
    far, next_to, spread = np.mean(found, axis=0).round(4).tolist()
    return {"displacement": far, "neighbours": next_to, "batch_spread": spread}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=1_000_000)
    given = parser.parse_args()
    data = given.out / "data"
    if not data.exists():
        write(data, given.samples)
    print(json.dumps({"disk": measure(str(data), given.out / "cache", 0)}), flush=True)
    for ahead in (0, 16):
        with http_server(data, delay=0.03) as server:
            found = measure(server.url, given.out / "cache", ahead)
            found["fetched_MB"] = round(server.num_bytes / 1e6, 1)
            found["requests"] = server.asked
        print(json.dumps({f"{ahead} steps ahead": found}), flush=True)
    for blocks in (None, BlockOrder(window=16), BlockOrder(), BlockOrder(window=128)):
        print(json.dumps({"order": str(blocks)} | randomness(12_000_000, blocks)))
