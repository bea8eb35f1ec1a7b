"""A modality joins a trained model: palettes, which the demo's model has never seen.

python examples/add_modality.py OUT [--small]
"""

# %% [markdown]
# # Add a modality to a trained model
# A palette, the main colours of a picture, needs one entry and raw values; its tokens are those of
# the model's own text tokenizer. What is new learns alone first (`warm_start`).

# %%
import argparse
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from fourm import AnyToAnyPipeline, ModalitySet
from fourm.cli import main as fourm
from fourm.data.shards import shard_path, write_shard
from fourm.demo.held_out import held_out_scenes
from fourm.resources import demo_model_folder
from fourm.training.checkpoints import newest_checkpoint

# %%
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true")
options = parser.parse_args()

# %% The model's modalities, and one more
OUT, MODEL, USED = options.out, demo_model_folder(), ("rgb", "caption", "palette")
entry = {"kind": "sequence", "raw": {"type": "palette"}, "tokenizer": "text", "max_tokens": 20}
NUM_SCENES, STEPS = (48, 6) if options.small else (1024, 300)
described = AnyToAnyPipeline.from_pretrained(MODEL).modalities.to_mapping()
described["modalities"]["palette"] = entry
modalities = ModalitySet.from_mapping(described)
OUT.mkdir(parents=True, exist_ok=True)
(OUT / "modalities.yaml").write_text(yaml.safe_dump(described, sort_keys=False))

# %% Raw values of both splits, then tokens, by the model's own tokenizers
for split, seed, num in (("train", 0, NUM_SCENES), ("val", 1, NUM_SCENES // 4)):
    scenes = held_out_scenes(seed, num, 64).raw
    few = (Image.fromarray(picture).quantize(4).getpalette() for picture in scenes["rgb"])
    scenes["palette"] = [np.reshape(colours, (-1, 3)).tolist() for colours in few]
    for name, raw in ((name, modalities[name].raw) for name in USED):
        rows = ((f"{i:06d}", raw.extensions[0], raw.write(v)) for i, v in enumerate(scenes[name]))
        write_shard(shard_path(OUT / "raw", split, name, 0), rows)
places = [f"--config={OUT}/modalities.yaml", f"--raw={OUT}/raw", f"--out={OUT}/tokens"]
only = [f"--only={name}" for name in USED]
fourm(["tokenize", *places, f"--tokenizers={MODEL}/tokenizers", *only, "--workers=1"])

# %% Train: pixels to palettes, and a task of before, so that it stays
(OUT / "training.yaml").write_text(f"""
out: {OUT}/run
modalities: {OUT}/modalities.yaml
init: {MODEL}
warm_start: {{steps: {STEPS // 3}, warmup: {STEPS // 6}}}
data: {{sources: [{{tokens: {OUT}/tokens, raw: {OUT}/raw}}], cache: {OUT}/cache}}
masking:
  num_inputs: [24, 24]
  num_targets: [24, 24]
  components:
    - {{weight: 3, input: {{pixels: 1}}, target: {{palette: 1}}, num_inputs: [64, 64]}}
    - {{weight: 1, input: {{caption: 1}}, target: {{rgb: 1}}}}
loop: {{steps: {STEPS}, batch_size: 32, num_workers: 0, optimizer: {{name: muon, muon_lr: 0.01}}}}
""")
fourm(["pretrain", str(OUT / "training.yaml")])

# %% In use, on pictures that it has not seen; rows: pictures, true palettes, what was said
trained = newest_checkpoint(OUT / "run" / "checkpoints")
pipe = AnyToAnyPipeline.from_pretrained(trained, MODEL / "tokenizers")
found = pipe({"rgb": scenes["rgb"][:6]}, "palette", temperature=0.3)["palette"]
print("said:", found.values[0], "true:", scenes["palette"][0])
true = map(modalities["palette"].raw.picture, scenes["palette"][:6])
rows = [map(Image.fromarray, scenes["rgb"][:6]), true, found.images]
sheet = [np.concatenate([np.array(one.resize((96, 96))) for one in row], 1) for row in rows]
(picture := Image.fromarray(np.concatenate(sheet))).save(OUT / "palettes.png")
picture
