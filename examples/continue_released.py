"""A released 4M checkpoint learns on with own data.

python examples/continue_released.py OUT [--small] [--released MODEL]
"""

# %% [markdown]
# # Continue a released checkpoint
# `init:` takes a released model as it is, by name (`--released EPFL-VILAB/4M-21_B`) or folder, and
# keeps what one's own modality set shares with it. Left out: a small stand-in that knows nothing.

# %%
import argparse
from pathlib import Path

import torch
import yaml

from fourm import AnyToAnyPipeline, ModalitySet
from fourm.cli import main as fourm
from fourm.data.shards import shard_path, write_shard
from fourm.demo.held_out import held_out_scenes
from fourm.interop.released import ReleasedConfig, released_modalities, save_released
from fourm.model.model import FourM
from fourm.training.checkpoints import newest_checkpoint

# %%
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true")
parser.add_argument("--released", default="", help="folder or hub id of a released model")
options = parser.parse_args()

# %% The released model; `fourm convert` writes it in this package's format, and back
OUT, NUM_SCENES, STEPS = options.out, *((16, 4) if options.small else (256, 120))
released = options.released or str(OUT / "released")
if not options.released:
    sizes = {"dim": 96, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 4}
    domains = {"domains_in": ("rgb@224", "tok_depth@224"), "domains_out": ("tok_depth@224",)}
    rest = {"act_layer": "SiLU", "gated_mlp": True, "image_size": 224, "patch_size": 16}
    config = ReleasedConfig(**sizes, **domains, **rest, norm_bias=False)
    torch.manual_seed(0)
    save_released(FourM(config.model(), released_modalities(config, "stand-in")), released)
fourm(["convert", released, str(OUT / "converted")])

# %% Pictures of the released set, and captions of one's own with a vocabulary of one's own
known = FourM.from_pretrained(OUT / "converted").modalities.to_mapping()["modalities"]
own = {"kind": "sequence", "raw": {"type": "text"}, "tokenizer": "own", "max_tokens": 20}
text = {"type": "text", "vocab_size": 200, "num_sentinels": 16, "num_axes": 4, "num_bins": 16}
described = {"tokenizers": {"own": text}, "modalities": {"rgb@224": known["rgb@224"], "words": own}}
(OUT / "modalities.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
for split, seed, num in (("train", 0, NUM_SCENES), ("val", 1, 8)):
    scenes = held_out_scenes(seed, num, 224).raw
    for m, own_name in zip(ModalitySet.from_mapping(described), ("rgb", "caption"), strict=True):
        values = enumerate(map(m.raw.write, scenes[own_name]))
        rows = ((f"{i:06d}", m.raw.extensions[0], value) for i, value in values)
        write_shard(shard_path(OUT / "raw", split, m.name, 0), rows)
config, raw, tokenizers = (str(OUT / name) for name in ("modalities.yaml", "raw", "tokenizers"))
fourm(["train-tokenizer", config, "--raw", raw, "--out", tokenizers])
places = ["--config", config, "--raw", raw, "--tokenizers", tokenizers]
fourm(["tokenize", *places, "--out", str(OUT / "tokens"), "--workers", "1"])

# %% Train; the table of what was kept, fresh and left out comes first
(OUT / "training.yaml").write_text(f"""
out: {OUT}/run
modalities: {OUT}/modalities.yaml
init: {released}
warm_start: {{steps: {STEPS // 2}, warmup: {STEPS // 4}}}
data: {{sources: [{{tokens: {OUT}/tokens, raw: {OUT}/raw}}], cache: {OUT}/cache}}
masking:
  num_inputs: [196, 196]
  num_targets: [20, 20]
  components: [{{input: {{rgb@224: 1}}, target: {{words: 1}}}}]
loop: {{steps: {STEPS}, batch_size: 8, num_workers: 0}}
""")
fourm(["pretrain", str(OUT / "training.yaml")])

# %% In use
pipe = AnyToAnyPipeline.from_pretrained(newest_checkpoint(OUT / "run" / "checkpoints"), tokenizers)
print("said:", pipe({"rgb@224": scenes["rgb"][:3]}, "words")["words"].texts)
print("true:", scenes["caption"][:3])
