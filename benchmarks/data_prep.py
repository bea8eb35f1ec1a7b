"""Throughput of data preparation for each core, and how it grows from one worker to two. Whole
runs, start of the workers included.

    python examples/fluent_emoji.py runs/emoji/pictures          (or any folder of pictures)
    python benchmarks/data_prep.py runs/emoji/pictures [--copies 3]

``import`` decodes and resizes 256 px pictures to 64 px and writes captions; ``label`` is Canny,
palette and statistics; ``tokenize`` runs the demo's ViT tokenizer. Run it on an idle machine.
Writes ``data_prep.json``; exit status 0 if two workers do at least 1.7 times the work of one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import import_pictures
from fourm_data_prep.label import label
from fourm_data_prep.tokenize import tokenize

from fourm.resources import demo_model_folder

CONFIG = """
tokenizers: {{}}
modalities:
  rgb: {{kind: grid, raw: {{type: image, size: 64}}, tokenizer: {tokenizer}}}
  canny: {{kind: grid, raw: {{type: array, size: 64}}, labeller: canny,
          vocab_size: 8, grid: [2, 2]}}
  palette: {{kind: sequence, raw: {{type: palette}}, labeller: palette,
            vocab_size: 300, max_tokens: 20}}
  statistics: {{kind: sequence, raw: {{type: metadata}}, labeller: statistics,
               vocab_size: 300, max_tokens: 20}}
  caption: {{kind: sequence, raw: {{type: text}}, vocab_size: 300, max_tokens: 20}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--copies", type=int, default=3, help="of the folder, so that a run lasts")
    parser.add_argument(
        "--repeats",
        type=int,
        default=2,
        help="of which the fastest counts: other tenants of the machine do not",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    o = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    scratch = Path(tempfile.mkdtemp())
    described = json.loads((demo_model_folder() / "config.json").read_text())
    settings = described["tokenizers"]["rgb"]
    config = scratch / "modalities.yaml"
    config.write_text(CONFIG.format(tokenizer=json.dumps(settings)))
    for copy in range(o.copies):
        shutil.copytree(o.pictures, scratch / "pictures" / str(copy))
    figures: dict[str, dict[str, float]] = {}
    seconds: dict[int, dict[str, float]] = {1: {}, 2: {}}
    bytes_made = {}
    try:
        for workers in (1, 2):
            engine, raw, tokens = (
                EngineConfig(workers=workers),
                scratch / f"raw{workers}",
                scratch / f"tokens{workers}",
            )
            plain = scratch / "plain.yaml"
            plain.write_text(
                "\n".join(
                    line for line in config.read_text().splitlines() if "labeller" not in line
                )
                + "\n"
            )
            steps: dict[str, Callable[[], object]] = {
                "import": lambda raw=raw, engine=engine, plain=plain: import_pictures(
                    scratch / "pictures", plain, raw, engine=engine
                ),
                "label": lambda raw=raw, engine=engine: label(raw, config, [], engine=engine),
                "tokenize": lambda raw=raw, tokens=tokens, engine=engine: tokenize(
                    plain_tokens(scratch, settings),
                    raw,
                    demo_model_folder() / "tokenizers",
                    tokens,
                    engine=engine,
                ),
            }
            for name, run in steps.items():
                best = float("inf")
                for _ in range(o.repeats):
                    forget(raw, tokens, name)
                    started = time.perf_counter()
                    run()
                    best = min(best, time.perf_counter() - started)
                seconds[workers][name] = best
            bytes_made[workers] = {
                f"{d.name}/{p.relative_to(d)}": p.read_bytes()
                for d, files in ((raw, "*.tar"), (tokens, "*.chunk/*"))
                for p in d.rglob(files)
            }
        num = len(
            [k for k in (scratch / "pictures").rglob("*") if k.suffix in (".webp", ".png", ".jpg")]
        )
        for name in seconds[1]:
            one, two = seconds[1][name], seconds[2][name]
            figures[name] = {
                "pictures/s of one worker": round(num / one, 1),
                "pictures/s of two": round(num / two, 1),
                "ratio": round(one / two, 2),
            }
        size = {
            n: sum(p.stat().st_size for p in (scratch / "raw1").rglob(f"{n}/*.tar")) / num
            for n in ("rgb", "canny", "caption")
        }
        size["tokens of rgb"] = (
            sum(p.stat().st_size for p in (scratch / "tokens1").rglob("*.chunk/*")) / num
        )
    finally:
        shutil.rmtree(scratch)
    same = [v for _, v in sorted(bytes_made[1].items())] == [
        v for _, v in sorted(bytes_made[2].items())
    ]
    result = {
        "pictures": num,
        "steps": figures,
        "bytes a picture": {k: round(v) for k, v in size.items()},
        "same bytes": same,
    }
    o.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(0 if same and all(f["ratio"] >= 1.7 for f in figures.values()) else 1)


def forget(raw: Path, tokens: Path, step: str) -> None:
    """Remove what a step wrote, so that it runs again."""
    if step == "import":
        shutil.rmtree(raw, ignore_errors=True)
    elif step == "label":
        for path in [
            *raw.glob("*/canny"),
            *raw.glob("*/palette"),
            *raw.glob("*/statistics"),
            *raw.glob("manifests/label-*"),
        ]:
            shutil.rmtree(path)
    else:
        shutil.rmtree(tokens, ignore_errors=True)


def plain_tokens(scratch: Path, settings: dict[str, object]) -> Path:
    """The modality set of what is tokenized: pictures alone."""
    path = scratch / "tokens.yaml"
    path.write_text(
        f"tokenizers: {{}}\nmodalities:\n  rgb: {{kind: grid, raw: {{type: image, size: 64}},"
        f" tokenizer: {json.dumps(settings)}}}\n"
    )
    return path


if __name__ == "__main__":
    main()
