"""A tokenizer for depth maps: trained, used, judged.

python examples/train_tokenizer.py OUT [--small]
"""

# %% [markdown]
# # Train a tokenizer
# A tokenizer turns a value into a few whole numbers and back. Its settings are part of a modality's
# entry; nothing in it knows that these are depth maps. Here 64 tokens of 240 codes stand for
# 4,096 numbers.

# %%
import argparse
from pathlib import Path

import numpy as np
from fourm_tokenizers.picture import PictureCodec
from PIL import Image

from fourm import ModalitySet
from fourm.cli import main as fourm
from fourm.demo.held_out import held_out_scenes
from fourm.demo.scenes_to_shards import DEPTH_RANGE, VALIDATION_SEED, write_scene_shard

# %%
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true")
options = parser.parse_args()

# %% Raw shards of both splits
OUT, NUM_SCENES, STEPS = options.out, *((32, 4) if options.small else (512, 400))
for split, seed, num in (("train", 0, NUM_SCENES), ("val", VALIDATION_SEED, NUM_SCENES // 4)):
    write_scene_shard(OUT / "raw", split, seed, 0, num, 64)

# %% The modality
(OUT / "modalities.yaml").write_text(f"""
modalities:
  depth:
    kind: grid
    raw: {{type: depth, size: 64, range: {list(DEPTH_RANGE)}}}
    tokenizer:
      type: autoencoder
      levels: [8, 6, 5]  # few for maps: then all are used
      patch_size: 8
      dim: 96
      detail_weight: 4.0
      train:
        steps: {STEPS}
        batch_size: 8
        optimizer: {{name: muon, lr: 2.0e-3, muon_lr: 0.012, weight_decay: 0.01}}
        schedule: {{name: wsd, warmup: 20, decay: 0.6}}
        num_workers: 0
""")

# %% Train; the held-out figures are printed at its end
config, raw, out, cache = (str(OUT / n) for n in ("modalities.yaml", "raw", "tokenizers", "cache"))
fourm(["train-tokenizer", config, "--raw", raw, "--out", out, "--cache", cache])

# %% Ids of maps that it has not seen, and maps of ids
codec = PictureCodec(OUT / "tokenizers" / "depth", ModalitySet.load(config)["depth"])
maps = np.stack(held_out_scenes(5, 6, 64).raw["depth"])
ids = codec.encode(list(maps))
made = np.stack(codec.decode(ids))
print(f"{maps[0].size} numbers as {len(ids[0])} tokens, the first {ids[0][:4].tolist()}")
plain = np.abs(maps - maps.mean()).mean()
print(f"mean error {np.abs(made - maps).mean():.3f}; of one number for all {plain:.3f}")

# %% Rows: true maps, their reconstructions
sheet = np.concatenate([np.concatenate(list(row), 1) for row in (maps, made)])
picture = Image.fromarray((255 * (1 - sheet / DEPTH_RANGE[1])).clip(0, 255).astype(np.uint8))
picture.save(OUT / "depth.png")
picture
