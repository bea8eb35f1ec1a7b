"""A picture's caption and depth map by onnxruntime alone: nothing of this package is imported.

    fourm export MODEL --format onnx --what backbone,decoder,tokenizers --inputs rgb \
        --targets caption,depth --out runs/onnx
    pip install onnxruntime numpy pillow
    python examples/onnx_alone.py runs/onnx picture.png --depth depth.npy
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("folder", type=Path, help="of `fourm export`")
parser.add_argument("picture", type=Path)
parser.add_argument("--depth", type=Path, default=Path("depth.npy"))
options = parser.parse_args()
note = json.loads((options.folder / "export.json").read_text())
names = note["files"]["backbone"]["modality"], "caption", "depth"
rgb, caption, depth = (note["modalities"][name] for name in names)
parts = {
    name: onnxruntime.InferenceSession(options.folder / about["file"])
    for name, about in note["files"].items()
}


def decode(modality: dict, ids: np.ndarray, past: np.ndarray, first: int = 0) -> list[np.ndarray]:
    """Logits of rows (ids of one sample, from place ``first``), and what the next step sees."""
    number, place = np.full_like(ids, modality["number"]), first + np.arange(len(ids))
    rows = {"modality": number, "position": place, "token": ids, "mask": np.ones(len(ids), bool)}
    rows = {name: values[None] for name, values in rows.items()} | {"past": past}
    decoded, past = parts["decoder"].run(None, {"memory": memory, "memory_mask": seen, **rows})
    return [parts[modality["head"]].run(None, {"decoded": decoded})[0][0], past]


picture = Image.open(options.picture).convert("RGB").resize((rgb["raw"]["pixels"],) * 2)
values = np.asarray(picture, np.float32) * rgb["values"]["multiply"] + rgb["values"]["add"]
values = values.transpose(2, 0, 1)[None].astype(np.float32)
_, _, memory, seen = parts["backbone"].run(None, {"values": values})

end, said, past = note["ids"]["end"], [note["ids"]["first_gap"]], memory[..., :0, :]
while said[-1] != end and len(said) <= caption["most_tokens"]:
    logits, past = decode(caption, np.array(said[-1:]), past, len(said) - 1)
    banned = [*caption["never"], *range(caption["gaps"][0] - 1, caption["gaps"][1] + 1)]
    logits[0, banned + [end] * (len(said) == 1)] = -np.inf  # a caption has at least one word
    said.append(int(logits[0].argmax()))
vocabulary = json.loads((options.folder / caption["text"]).read_text())["model"]["vocab"]
pieces = {number: piece for piece, number in vocabulary.items()}
print(" ".join(pieces[i] for i in said[1:] if i != end).replace(" ##", ""))

questions = np.full(depth["most_tokens"], note["ids"]["ask"])
ids = decode(depth, questions, memory[..., :0, :])[0].argmax(-1)
(found,) = parts[depth["from_ids"]].run(None, {"ids": ids[None]})
np.save(
    options.depth, (found[0, 0].clip(-1, 1) - depth["values"]["add"]) / depth["values"]["multiply"]
)
