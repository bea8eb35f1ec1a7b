"""Samples of four modalities as files on disk, taken by an import: for tests of files and columns
that exist already.
"""

import io
import json
from collections.abc import Sequence

import numpy as np
import pytest
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import Taking, import_pictures
from PIL import Image

from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.modalities import ModalitySet

SIZE, NUM = 16, 40
YAML = f"""
tokenizers:
  text: {{type: text, vocab_size: 300, num_axes: 4, num_bins: 32}}
modalities:
  rgb: {{kind: grid, raw: {{type: image, size: {SIZE}}}, vocab_size: 8, grid: [2, 2]}}
  height: {{kind: grid, raw: {{type: array, size: {SIZE}}}, vocab_size: 8, grid: [2, 2]}}
  caption: {{kind: sequence, raw: {{type: text}}, tokenizer: text, max_tokens: 20}}
  boxes: {{kind: sequence, raw: {{type: boxes}}, tokenizer: text, max_tokens: 20}}
"""
BOXES = [{"box": [0.1, 0.2, 0.5, 0.6], "label": "cube"}]


def value_of(i):
    """rgb, height, caption, boxes of sample i: all tell its number."""
    height = np.full((SIZE, SIZE, 1), i / 100, np.float32)
    return np.full((SIZE, SIZE, 3), 5 * i % 256, np.uint8), height, f"number {i}", BOXES


def write_files(folder, place, numbers: Sequence[int] = range(NUM)):
    """Files of each sample where ``place(modality, name, extension)`` says; every fourth sample
    has no height.
    """
    for i in numbers:
        rgb, height, caption, boxes = value_of(i)
        png, npy = io.BytesIO(), io.BytesIO()
        Image.fromarray(rgb).save(png, "PNG")
        np.save(npy, height)
        files = {
            ("rgb", "png"): png.getvalue(),
            ("height", "npy"): npy.getvalue(),
            ("caption", "txt"): caption.encode(),
            ("boxes", "json"): json.dumps(boxes).encode(),
        }
        for (modality, extension), data in files.items():
            if modality == "height" and i % 4 == 0:
                continue
            path = folder / place(modality, f"room{i % 5}/{i:02d}", extension)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def by_folder(modality, name, extension):
    return f"{modality}/{name}.{extension}"


def take(source, config, out, workers=1, max_damage=0.05, shard_range=None, **taking):
    engine = EngineConfig(workers=workers, shard_range=shard_range)
    import_pictures(source, config, out, max_damage, engine, taking=Taking(**taking))
    return out


def stored(out, config, split, name):
    """Key -> value of what training reads."""
    raw, found = ModalitySet.load(config)[name].raw, {}
    for path in shard_paths(out, split, name):
        report = DamageReport()
        found |= dict(read_shard(path, raw.read, raw.extensions, report))
        assert not report.entries
    return found


def everything(out, config):
    """Split -> modality -> key -> value."""
    return {
        split: {name: stored(out, config, split, name) for name in ("rgb", "height", "caption")}
        for split in sorted(p.name for p in out.iterdir() if p.is_dir() and p.name != "manifests")
    }


def files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.tar"))}


def damage(out):
    return json.loads((out / "damage-import.json").read_text())["entries"]


COLUMNS = "rgb=picture,caption=text,boxes=things,height=elev_file"


def rows_of(folder):
    """Rows of a table: files, values, empty cells, ids that are none."""
    rows = []
    for i in range(NUM):
        name = f"room{i % 5}/{i:02d}"
        row = {"picture": f"rgb/{name}.png", "text": f"number {i}", "things": json.dumps(BOXES)}
        height = f"height/{name}.npy" if i % 4 else ""
        rows.append(
            {"id": str(i // 2), **row, "elev_file": height, "part": ["train", "dev"][i % 2]}
        )
    return rows


def write_table(path, rows):
    import csv

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as stream:
            dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
            writer = csv.DictWriter(stream, rows[0], dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
