"""A small project with raw shards and modalities, run in this process."""

import json
from pathlib import Path

import numpy as np
import yaml

from fourm.cli import main
from fourm.data.shards import shard_path, write_shard
from fourm.project.project import Project
from fourm.project.run import Wishes, run_project
from fourm.raw.array import Array
from fourm.raw.image import Image

SIZE, NUM = 8, 12
LEARNED = {
    "type": "autoencoder",
    "levels": [4, 4],
    "patch_size": 4,
    "dim": 16,
    "num_heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "train": {"steps": 2, "batch_size": 4, "threads": 1, "num_workers": 0},
}
TEXT = {"type": "text", "vocab_size": 60, "num_sentinels": 4, "num_axes": 0, "num_bins": 0}
MODALITIES = {
    "tokenizers": {"text": TEXT},
    "modalities": {
        "rgb": {"kind": "grid", "raw": {"type": "image", "size": SIZE}, "tokenizer": LEARNED},
        "night": {"kind": "grid", "raw": {"type": "array", "size": SIZE}, "tokenizer": LEARNED},
        "caption": {"kind": "sequence", "raw": "text", "tokenizer": "text", "max_tokens": 8},
    },
}


def write_raw(raw: Path, shard: int = 0) -> None:
    """Three modalities of pictures whose brightness the other two tell."""
    for split in ("train", "val"):
        rng = np.random.default_rng(shard)
        light = rng.integers(0, 255, NUM)
        pictures = [np.full((SIZE, SIZE, 3), v, np.uint8) for v in light]
        values = {
            "rgb": ("png", [Image(size=SIZE).write(p) for p in pictures]),
            "night": (
                "npy",
                [Array(size=SIZE).write(p[..., :1] / np.float32(255)) for p in pictures],
            ),
            "caption": ("txt", [f"light {v // 64}".encode() for v in light]),
        }
        for name, (extension, data) in values.items():
            members = ((f"{i:03d}", extension, d) for i, d in enumerate(data))
            write_shard(shard_path(raw, split, name, shard), members)


def write(path: Path, data: dict) -> None:
    plain = json.loads(json.dumps(data))  # without anchors, by which an edit of one is one of all
    path.write_text(yaml.safe_dump(plain, sort_keys=False))


class World:
    """A project with raw shards and modalities, run in this process."""

    def __init__(self, root: Path) -> None:
        self.project, self.ran = Project(root), []
        write_raw(self.project.raw)
        write(self.project.modalities, MODALITIES)
        self.cut = ""  # verb that fails or is interrupted
        self.how: BaseException = KeyboardInterrupt()

    def edit(self, path: Path, change) -> None:
        data = yaml.safe_load(path.read_text())
        change(data)
        write(path, data)

    def run_all(self, commands: list[list[str]], **options) -> None:
        for command in commands:
            if command[3] == self.cut:
                self.cut = ""
                raise self.how
            name = f"train {command[-1]}" if command[3] == "train-tokenizer" else command[3]
            self.ran.append(name)
            if command[3] == "report":  # slow, and the same for any project
                self.project.report.write_text("report")
            else:
                main(command[3:])

    def run(self, *overrides: str, **wishes) -> list[str]:
        """Run the project, and the verbs that ran, tokenizers by name."""
        self.ran.clear()
        run_project(self.project.root, Wishes(overrides=overrides, **wishes))
        return list(self.ran)

    def chunks(self) -> dict[str, int]:
        """When the tokens of each modality were written."""
        found = self.project.tokens.glob("train/*/*.chunk")
        return {path.parent.name: path.stat().st_mtime_ns for path in found}
