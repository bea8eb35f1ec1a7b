"""Pictures found by captions and by depth maps, in an index of features of the demo's model.

python examples/retrieve.py OUT [--small]
"""

# %% [markdown]
# # Retrieve
# `fourm index` encodes one modality of a split, and fits a space that another kind of query shares
# with it on the training split. `fourm search` finds the nearest; with `--rerank` it puts them in
# order by the model's likelihood of the query given each.

# %%
import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from fourm.cli import main as fourm
from fourm.demo.held_out import held_out_scenes
from fourm.demo.scenes_to_shards import VALIDATION_SEED, write_scene_shard
from fourm.features.index import open_index
from fourm.features.search import search
from fourm.resources import demo_model_folder

# %%
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true")
options = parser.parse_args()

# %% A gallery, and scenes to fit on, of a world that the model has not seen
SEED, NUM_TRAIN, NUM_VAL = 11, *((24, 12) if options.small else (512, 256))
for split, seed, num in (("train", SEED, NUM_TRAIN), ("val", VALIDATION_SEED + SEED, NUM_VAL)):
    write_scene_shard(options.out / "raw", split, seed, 0, num, 64)

# %% The index; how often the right picture is the first, and among the first ten, is told
place = str(options.out / "index")
judged = ["--judge", str(min(NUM_VAL, 128)), "--queries", "caption,depth"]
fourm(["index", str(demo_model_folder()), str(options.out), "--out", place, *judged])

# %% One query by the command: it writes a page
fourm(["search", place, "--caption", "a large red cube left of a small blue sphere", "--top", "5"])

# %% The same in Python, for captions and depth maps of scenes that are in the gallery
index, queries = open_index(options.out / "index"), held_out_scenes(SEED, 4, 64).raw
sheet = []
for number, caption in enumerate(queries["caption"]):
    found = [
        *search(index, {"caption": caption}, top=3, rerank=12),
        *search(index, {"depth": queries["depth"][number]}, top=3),
    ]
    rows = np.array([hit.row for hit in found])
    pictures = [queries["rgb"][number], *index.samples(rows, index.modality).of("rgb")]
    sheet.append(np.concatenate(list(pictures), 1))
    right = [hit.key.endswith(f"{number:08d}") for hit in found]
    print(f"{caption}: by caption {right[:3]}, by depth {right[3:]}")

# %% Columns: the scene, three found by its caption, three by its depth
picture = Image.fromarray(np.concatenate(sheet))
picture.save(options.out / "retrieve.png")
picture
