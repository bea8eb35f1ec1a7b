"""What exported graphs cost: size, time and quality of float32 and of 8-bit weights in onnxruntime,
on scenes that the shipped model never saw.

    pip install '.[export]'
    python benchmarks/export.py            # writes benchmarks/export.json

Quality is cross-entropy of what is true given the picture (captions by teacher forcing, depth's ids
all at once) and two tasks: depth maps decoded from the likeliest ids (relative error), and the
likeliest caption word by word (share that is exactly right). Time is CPU time of one thread, the
median of several runs. Exit status 0 if float32's captions are as likely as the pipeline says, and
8 bits cost at most 1 % of cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch

from fourm.demo.held_out import held_out_scenes
from fourm.evaluation.metrics import absrel
from fourm.export.int8 import weights_in_8_bits
from fourm.export.parts import Wanted, parts_of
from fourm.export.write import NOTE, OnnxFormat, write_export
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.resources import demo_model_folder

RESULTS = Path(__file__).with_suffix(".json")
RUNS = 5
MOST_WORSE = 0.01  # of cross-entropy that 8 bits may cost


@dataclass(frozen=True)
class Scenes:
    """What is asked of a model: pictures as a backbone takes them, and what is true of them."""

    values: np.ndarray  # (B, C, H, W)
    captions: list[np.ndarray]
    depth_ids: np.ndarray  # (B, n)
    depth: np.ndarray  # (B, H, W)


class Exported:
    """Sessions of a folder, one thread each."""

    def __init__(self, folder: Path) -> None:
        self.note = json.loads((folder / NOTE).read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        files = {name: folder / about["file"] for name, about in self.note["files"].items()}
        self.bytes = {name: path.stat().st_size for name, path in files.items()}
        self.parts = {n: onnxruntime.InferenceSession(p, options) for n, p in files.items()}

    def run(self, part: str, **inputs: np.ndarray) -> list[np.ndarray]:
        return self.parts[part].run(None, inputs)

    def logits(self, seen: dict, name: str, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Of rows (B, M) of one modality, from its first place on -> (B, M, V)."""
        m = self.note["modalities"][name]
        place = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        rows = {"modality": np.full_like(ids, m["number"]), "position": place, "token": ids}
        past = seen["memory"][..., :0, :]
        decoded, _ = self.run("decoder", **seen, past=past, **rows, mask=mask)
        return self.run(m["head"], decoded=decoded)[0]

    def caption(self, seen: dict, most: int) -> list[list[int]]:
        """The likeliest ids of each sample, an id at a time with kept keys and values."""
        m, ids = self.note["modalities"]["caption"], self.note["ids"]
        num = len(seen["memory_mask"])
        token = np.full((num, 1), ids["first_gap"])
        past, said = seen["memory"][..., :0, :], []
        banned = [*m["never"], *range(m["gaps"][0] - 1, m["gaps"][1] + 1)]
        for place in range(most):
            rows = {"modality": np.full_like(token, m["number"]), "token": token}
            rows |= {"position": np.full_like(token, place), "mask": np.ones(token.shape, bool)}
            decoded, past = self.run("decoder", **seen, past=past, **rows)
            logits = self.run(m["head"], decoded=decoded)[0]
            logits[..., banned + [ids["end"]] * (place == 0)] = -np.inf
            token = logits.argmax(-1)
            said.append(token[:, 0])
        lines = np.stack(said, 1).tolist()
        return [line[: line.index(ids["end"])] if ids["end"] in line else line for line in lines]


def log_probability(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Nats (B, M) of ids (B, M) by logits (B, M, V)."""
    found = torch.from_numpy(logits).log_softmax(-1)
    return found.gather(-1, torch.from_numpy(ids)[..., None])[..., 0].numpy()


def padded_captions(captions: list[np.ndarray], first: int) -> tuple[np.ndarray, ...]:
    """What the decoder reads (B, M), what it should say (B, M), and the mask (B, M)."""
    shape = len(captions), max(map(len, captions))
    given, said, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool)
    for row, ids in enumerate(captions):
        said[row, : len(ids)], mask[row, : len(ids)] = ids, True
        given[row, : len(ids)] = [first, *ids[:-1]]
    return given, said, mask


def measured(exported: Exported, scenes: Scenes) -> dict[str, Any]:
    """Figures of one folder."""
    _, _, memory, mask = exported.run("backbone", values=scenes.values)
    seen = {"memory": memory, "memory_mask": mask}
    given, said, there = padded_captions(scenes.captions, exported.note["ids"]["first_gap"])
    nats = log_probability(exported.logits(seen, "caption", given, there), said)
    asked = np.full_like(scenes.depth_ids, exported.note["ids"]["ask"])
    logits = exported.logits(seen, "depth", asked, np.ones(asked.shape, bool))
    depth = exported.note["modalities"]["depth"]
    (values,) = exported.run(depth["from_ids"], ids=logits.argmax(-1))
    maps = (values[:, 0].clip(-1, 1) - depth["values"]["add"]) / depth["values"]["multiply"]
    spoken = exported.caption(seen, given.shape[1] + 4)
    exact = [line == ids[:-1].tolist() for line, ids in zip(spoken, scenes.captions, strict=True)]
    one = {
        name: value[..., :1, :, :, :] if value.ndim > 2 else value[:1]
        for name, value in seen.items()
    }
    step = {n: np.full((1, 1), 5) for n in ("modality", "position", "token")}
    step |= {"past": one["memory"][..., :8, :], "mask": np.ones((1, 1), bool)}
    return {
        "bytes": exported.bytes,
        "caption_nats": round(float(-nats[there].mean()), 5),
        "depth_nats": round(float(-log_probability(logits, scenes.depth_ids).mean()), 5),
        "depth_absrel": round(absrel(maps.astype(np.float32), scenes.depth), 5),
        "captions_exact": round(float(np.mean(exact)), 4),
        "backbone_ms_a_picture": milliseconds(exported, "backbone", 8, values=scenes.values[:8]),
        "decoder_ms_a_step": milliseconds(exported, "decoder", 1, **one, **step),
    }


def milliseconds(exported: Exported, part: str, num: int, **inputs: np.ndarray) -> float:
    """CPU time of a call for each of ``num`` samples."""
    times = []
    for _ in range(RUNS + 1):
        start = time.process_time()
        exported.run(part, **inputs)
        times.append((time.process_time() - start) / num * 1e3)
    return round(median(times[1:]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=demo_model_folder())
    parser.add_argument("--scenes", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = AnyToAnyPipeline.from_pretrained(options.model)
    m = pipe.modalities
    raw = held_out_scenes(7, options.scenes, m["rgb"].raw.pixels).raw
    rgb, depth = list(raw["rgb"]), list(raw["depth"])
    scenes = Scenes(
        m["rgb"].raw.to_floats(np.stack(rgb)).transpose(0, 3, 1, 2).copy(),
        pipe.codecs["caption"].encode(raw["caption"]),
        np.stack(pipe.codecs["depth"].encode(depth)),
        np.stack(depth),
    )
    figures: dict[str, Any] = {"scenes": options.scenes, "onnxruntime": onnxruntime.__version__}
    with TemporaryDirectory() as folder:
        plain, small = Path(folder, "float32"), Path(folder, "int8")
        wanted = Wanted.of(pipe, "rgb", "caption,depth")
        parts = parts_of(wanted, ["backbone", "decoder", "tokenizers"])
        write_export(wanted, parts, OnnxFormat(), plain)
        shutil.copytree(plain, small)
        for path in small.glob("*.onnx"):
            weights_in_8_bits(path)
        figures |= {f.name: measured(Exported(f), scenes) for f in (plain, small)}
    scores = pipe.score({"rgb": rgb}, {"caption": list(raw["caption"])})["caption"]
    told = float(-scores.sum() / sum(map(len, scenes.captions)))
    figures["pipeline"] = {"caption_nats": round(told, 5)}
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    plain, small = figures["float32"], figures["int8"]
    same = abs(plain["caption_nats"] - told) < 1e-3 * told
    worse = max(small[k] / plain[k] - 1 for k in ("caption_nats", "depth_nats"))
    sys.exit(0 if same and worse <= MOST_WORSE else 1)


if __name__ == "__main__":
    main()
