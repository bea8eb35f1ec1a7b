"""A modality joins a trained model: palettes, which the demo's model has never seen.

python examples/add_modality.py runs/examples/add_modality [--small]
"""

# %% [markdown]
# # Add a modality to a trained model
# A palette is the main colours of a picture, first the commonest. It needs one entry of YAML and
# raw values; its tokens are those of the model's own text tokenizer. What is new learns alone
# first (`warm_start`), so that what the model knows does not move.

# %%
import argparse
from pathlib import Path

import numpy as np
import yaml
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.tokenize import tokenize
from PIL import Image

from fourm import AnyToAnyPipeline, ModalitySet
from fourm.config import from_mapping
from fourm.data.shards import shard_path, write_shard
from fourm.demo.held_out import held_out_scenes
from fourm.resources import demo_model_folder
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.pretrain import PretrainConfig, pretrain

# %% tags=["parameters"]
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true", help="few samples, few steps: for tests")
options = parser.parse_args()

# %%
OUT, MODEL = options.out, demo_model_folder()
NUM_SCENES, STEPS = (48, 6) if options.small else (1024, 300)
USED = "rgb", "caption", "palette"


def palette(picture: np.ndarray, num: int = 4) -> list[list[int]]:
    """The main colours of a picture (H, W, 3), the commonest first."""
    few = Image.fromarray(picture).quantize(num)
    colours = np.array(few.getpalette()).reshape(-1, 3)
    return [colours[i].tolist() for _, i in sorted(few.getcolors(), reverse=True)]


modalities = AnyToAnyPipeline.from_pretrained(MODEL).modalities.to_mapping()
modalities["modalities"]["palette"] = {
    "kind": "sequence",
    "raw": {"type": "palette"},
    "tokenizer": "text",
    "max_tokens": 20,
}
config = OUT / "modalities.yaml"
OUT.mkdir(parents=True, exist_ok=True)
config.write_text(yaml.safe_dump(modalities, sort_keys=False))

# %% Raw values of both splits, then tokens: by the model's own tokenizers
for split, seed, num in (("train", 0, NUM_SCENES), ("val", 1, NUM_SCENES // 4)):
    scenes = held_out_scenes(seed, num, 64).raw
    scenes["palette"] = [palette(picture) for picture in scenes["rgb"]]
    for name in USED:
        raw = ModalitySet.load(config)[name].raw
        rows = ((f"{i:06d}", raw.extensions[0], raw.write(v)) for i, v in enumerate(scenes[name]))
        write_shard(shard_path(OUT / "raw", split, name, 0), rows)
places = OUT / "raw", MODEL / "tokenizers", OUT / "tokens"
tokenize(config, *places, engine=EngineConfig(workers=1), only=USED)

# %% Train: pixels to palettes, palettes to pictures; and one task of before, so that it stays
components = [
    {"weight": 2, "input": {"pixels": 1}, "target": {"palette": 1}, "num_inputs": [64, 64]},
    {"weight": 1, "input": {"palette": 1}, "target": {"rgb": 1}},
    {"weight": 1, "input": {"caption": 1}, "target": {"rgb": 1}},
]
training = {
    "out": str(OUT / "run"),
    "modalities": str(config),
    "init": str(MODEL),
    "warm_start": {"steps": STEPS // 3, "warmup": STEPS // 6},
    "data": {
        "sources": [{"tokens": str(OUT / "tokens"), "raw": str(OUT / "raw")}],
        "cache": str(OUT / "cache"),
    },
    "masking": {"num_inputs": [24, 24], "num_targets": [24, 24], "components": components},
    "loop": {
        "steps": STEPS,
        "batch_size": 32,
        "num_workers": 0,
        "optimizer": {"name": "muon", "lr": 3e-3, "muon_lr": 0.01},
        "schedule": {"name": "wsd", "warmup": 10},
    },
}
pretrain(from_mapping(PretrainConfig, training, "add_modality"))

# %% Palettes of pictures it has not seen
trained = newest_checkpoint(OUT / "run" / "checkpoints")
pipe = AnyToAnyPipeline.from_pretrained(trained, tokenizers=MODEL / "tokenizers")
found = pipe({"rgb": scenes["rgb"]}, "palette", temperature=0.3)["palette"]



def distance(said: list[list[list[int]]]) -> float:
    """Of each true colour to the nearest one that was said (0 to 255 a channel), the mean."""
    apart = [
        np.abs(np.array(true)[:, None] - np.array(colours or [[0, 0, 0]])).mean(-1).min(1).mean()
        for true, colours in zip(scenes["palette"], said, strict=True)
    ]
    return float(np.mean(apart))


others = found.values[1:] + found.values[:1]
print(f"palettes are {distance(found.values):.1f} off, those of other scenes {distance(others):.1f}")

# %% Rows: pictures, their palettes, what was said, pictures drawn from a palette alone
swatches = [pipe.modalities["palette"].raw.picture(p) for p in scenes["palette"][:6]]
drawn = pipe({"palette": scenes["palette"][:6]}, "rgb", seed=0)["rgb"].values
rows = [scenes["rgb"][:6], swatches, found.images[:6], drawn]
sheet = Image.new("RGB", (6 * 128, len(rows) * 128), "white")
for number, row in enumerate(rows):
    for column, one in enumerate(row):
        shown = one if isinstance(one, Image.Image) else Image.fromarray(one)
        sheet.paste(shown.resize((120, 120), 0), (column * 128 + 4, number * 128 + 4))
sheet.save(OUT / "palettes.png")
sheet
