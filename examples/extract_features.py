"""What the encoder knows of any set of modalities: vectors, maps, files of a whole split.

python examples/extract_features.py OUT [--small]
"""

# %% [markdown]
# # Extract features
# `encode_features` takes any of the model's modalities, alone or together. One vector a sample is
# what a classifier or a search needs; a map of vectors is what a dense task needs.

# %%
import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from fourm import AnyToAnyPipeline
from fourm.alignment.latents import open_latents
from fourm.cli import main as fourm
from fourm.demo.held_out import held_out_scenes
from fourm.demo.scenes_to_shards import write_scene_shard
from fourm.resources import demo_model_folder

# %%
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true")
options = parser.parse_args()

# %%
NUM_SCENES = 6 if options.small else 256
options.out.mkdir(parents=True, exist_ok=True)
pipe = AnyToAnyPipeline.from_pretrained(demo_model_folder())
scenes = held_out_scenes(3, NUM_SCENES, 64).raw

# %% One vector a sample; of several modalities, and of several layers side by side
of_pictures = pipe.encode_features({"rgb": scenes["rgb"]})
of_both = pipe.encode_features({"rgb": scenes["rgb"], "caption": scenes["caption"]}, layers=(0, -1))
print("mean of pictures:", tuple(of_pictures.vectors.shape))
print("pictures and captions, two layers:", tuple(of_both.vectors.shape))

# %% [markdown]
# A map of vectors (B, D, h, w). Three main directions of all their places, shown as colours, tell
# solids from floor and sky without any label.

# %%
some = scenes["rgb"][:6]
maps = pipe.encode_features({"rgb": some}, pool="none").maps("pixels")
rows = maps.permute(0, 2, 3, 1).flatten(0, 2).numpy()
rows = rows - rows.mean(0)
shares = rows @ np.linalg.svd(rows, full_matrices=False)[2][:3].T
low, high = np.percentile(shares, (2, 98), axis=0)
colours = (255 * ((shares - low) / (high - low)).clip(0, 1)).astype(np.uint8)
sheet = [
    np.concatenate([np.asarray(Image.fromarray(p).resize((128, 128), 0)) for p in row], 1)
    for row in (some, colours.reshape(len(some), *maps.shape[2:], 3))
]
picture = Image.fromarray(np.concatenate(sheet))
picture.save(options.out / "features.png")
picture

# %% [markdown]
# Of a whole split of shards, the command writes a matrix that is memory-mapped: any number of
# samples in bounded memory, and what was cut short goes on.

# %%
write_scene_shard(options.out / "raw", "val", 5, 0, NUM_SCENES, 64)
folder = options.out / "features"
choice = ["--inputs", "rgb,caption", "--pool", "modality"]
fourm(["features", str(demo_model_folder()), str(options.out), "--out", str(folder), *choice])
written = open_latents(folder)
print(f"{len(written)} samples, {written.vectors.shape} numbers, first {written.keys[0]}")
