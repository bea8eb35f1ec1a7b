"""Missing parts of pictures, filled in by the demo's model.

python examples/inpaint.py OUT [--small]
"""

# %% [markdown]
# # In-paint
# `Partial` gives a part of a value: of a picture those tokens whose pixels are all kept. The rest
# is generated, and pixels that were given stay as they are. What else is known may be given too: a
# caption says what is to be where.

# %%
import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from fourm import AnyToAnyPipeline, Partial
from fourm.demo.held_out import held_out_scenes
from fourm.resources import demo_model_folder

# %%
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true")
options = parser.parse_args()

# %%
SIZE, NUM_SCENES, STEPS = 64, *((2, 2) if options.small else (6, 12))
options.out.mkdir(parents=True, exist_ok=True)
pipe = AnyToAnyPipeline.from_pretrained(demo_model_folder())
scenes = held_out_scenes(3, NUM_SCENES, SIZE).raw

# %% [markdown]
# The right half of each picture is missing: once with nothing else known, once with the caption of
# the whole scene, once with that of another.

# %%
keep = np.ones((SIZE, SIZE), bool)
keep[:, SIZE // 2 :] = False
halves = {"rgb": [Partial(picture, keep) for picture in scenes["rgb"]]}
others = scenes["caption"][1:] + scenes["caption"][:1]
rows = [scenes["rgb"], [np.where(keep[..., None], p, 255).astype(np.uint8) for p in scenes["rgb"]]]
for more in ({}, {"caption": scenes["caption"]}, {"caption": others}):
    rows.append(pipe({**halves, **more}, "rgb", steps=STEPS, seed=0)["rgb"].values)
kept = all((made[keep] == p[keep]).all() for made, p in zip(rows[-1], rows[0], strict=True))
print(f"pixels that were given stay: {kept}")

# %% Rows: true picture, what is given, filled in; with its caption; with another scene's
sheet = Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows]))
sheet = sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST)
sheet.save(options.out / "inpaint.png")
print("other captions:", *others, sep="\n  ")
sheet
