"""Own pictures with a table of labels, and the demo's model fine-tuned to tell them.

python examples/finetune_own.py OUT [--small]
"""

# %% [markdown]
# # Fine-tune on own data
# Own data is a folder of pictures and a table with the columns `key` (the picture's name) and what
# is to be told. The encoder gets a head and learns with it; held-out pictures judge both beside the
# answer that suits the training samples best.

# %%
import argparse
import csv
from pathlib import Path

import yaml
from PIL import Image

from fourm.cli import main as fourm
from fourm.config import from_mapping
from fourm.demo.held_out import held_out_scenes
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.run import finetune
from fourm.finetune.saved import TunedPipeline
from fourm.resources import demo_model_folder

# %%
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true")
options = parser.parse_args()

# %% Stands for own data: pictures as files, and the shape of the solid at the left of each
OUT, NUM_PICTURES, STEPS = options.out, *((64, 3) if options.small else (1200, 120))
scenes, table = held_out_scenes(7, NUM_PICTURES, 64), OUT / "labels.csv"
(OUT / "pictures").mkdir(parents=True, exist_ok=True)
rows = [("key", "shape")]
for number, picture in enumerate(scenes.raw["rgb"]):
    Image.fromarray(picture).save(OUT / "pictures" / f"{number:05d}.png")
    rows.append((f"{number:05d}", scenes.solids[number][0][1]))
with open(table, "w", newline="") as file:
    csv.writer(file).writerows(rows)

# %% Files become shards; a fifth is held out, by a hash of the names
entry = {"kind": "grid", "raw": {"type": "image", "size": 64}, "vocab_size": 2560, "grid": [8, 8]}
config = OUT / "modalities.yaml"
config.write_text(yaml.safe_dump({"modalities": {"rgb": entry}}))
places = ["--config", str(config), "--out", str(OUT / "raw"), "--workers", "1"]
fourm(["import", str(OUT / "pictures"), *places, "--split-by", "val=0.2"])

# %% The same as `fourm finetune CONFIG.yaml`
training = {
    "out": str(OUT / "run"),
    "init": str(demo_model_folder()),
    "data": str(OUT),
    "target": f"{table}:shape",
    "inputs": ["rgb"],
    "head": "attentive",
    "loop": {
        "steps": STEPS,
        "batch_size": 16,
        "num_workers": 0,
        "optimizer": {"lr": 2e-3, "layer_decay": 0.8, "weight_decay": 0.05},
        "schedule": {"name": "cosine", "warmup": 8},
    },
}
judged = finetune(from_mapping(FinetuneConfig, training, "finetune_own"))
print(f"held out: {judged.figures}, the commonest answer: {judged.baseline}")

# %% In use
tuned = TunedPipeline.from_pretrained(OUT / "run" / "model")
new = held_out_scenes(8, 6, 64)
for said, solids in zip(tuned({"rgb": new.raw["rgb"]}), new.solids, strict=True):
    print(f"said {said}, is {solids[0][1]}")
