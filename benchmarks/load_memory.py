"""Peak memory of loading a released checkpoint of the size of 4M-21 XL (4.5 B parameters, bfloat16,
random, sharded).

    python benchmarks/load_memory.py [--folder DIR] [--out benchmarks/load_memory.json]

Writes the checkpoint (9 GB), loads it in a process of its own under ``/usr/bin/time -v`` (or
getrusage where that is missing), and compares the peak with the size of the files; beside it, a
load that reads all tensors first (``safetensors.torch.load_file``). Needs 10 GB of disk and memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file

from fourm.interop.links import model_links
from fourm.interop.released import ReleasedConfig, released_modalities
from fourm.modalities import ModalitySet
from fourm.model.model import FourM
from fourm.resources import configs_folder

SHARD_BYTES = 4_500_000_000
OURS = (
    "from fourm.model.model import FourM; m = FourM.from_pretrained({folder!r});"
    " print(sum(p.numel() for p in m.parameters()))"
)
WHOLE = (
    "import glob; from safetensors.torch import load_file; w = [load_file(f) for f in"
    " sorted(glob.glob({folder!r} + '/*.safetensors'))];"
    "c = [{{k: v.clone() for k, v in part.items()}} for part in w]; print(sum(v.numel() for part"
    " in c for v in part.values()))"
)
RUN = (
    "import resource, sys; exec(sys.argv[1]);"
    " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


def write_checkpoint(folder: Path) -> int:
    """A sharded released checkpoint with random weights; returns its bytes."""
    names = [m.name for m in ModalitySet.load(configs_folder() / "modalities" / "4m_21.yaml")]
    config = ReleasedConfig(
        domains_in=tuple(names),
        domains_out=tuple(n for n in names if n != "rgb@224"),
        dim=2048,
        encoder_depth=24,
        decoder_depth=24,
        num_heads=32,
        norm_bias=False,
        act_layer="SiLU",
        image_size=224,
        patch_size=16,
        gated_mlp=True,
        qkv_bias=False,
        proj_bias=False,
        mlp_bias=False,
        share_modality_embeddings=False,
    )
    with init_empty_weights(include_buffers=False):
        model = FourM(config.model(), released_modalities(config, "benchmark"))
    shapes = {link.released: link.shape for link in model_links(model)}
    for m in model.modalities.outputs:  # stored but never used
        if m.kind != "sequence":
            shapes[f"decoder_embeddings.{m.name}.token_emb.weight"] = (m.vocab_size, config.dim)
    generator = torch.Generator().manual_seed(0)
    described = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()}
    (folder / "config.json").write_text(json.dumps(described))
    part: dict[str, torch.Tensor] = {}
    held, total, number, where = 0, 0, 0, {}

    def flush() -> None:
        nonlocal part, held, number
        if part:
            number += 1
            file = f"model-{number:05d}.safetensors"
            save_file(part, folder / file)
            where.update(dict.fromkeys(part, file))
            part, held = {}, 0

    for name, shape in shapes.items():
        part[name] = torch.empty(shape, dtype=torch.bfloat16).uniform_(
            -0.05, 0.05, generator=generator
        )
        size = part[name].numel() * 2
        held, total = held + size, total + size
        if held > SHARD_BYTES:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return total


def peak(code: str, folder: Path) -> tuple[int, float]:
    """Peak resident bytes and seconds of a process that runs ``code``."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, code.format(folder=str(folder))],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.split()[-1]) * 1024, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--folder", type=Path, help="where to write the checkpoint (default: a temporary folder)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument(
        "--limit",
        type=float,
        default=1.3,
        help="largest allowed peak over file size; beyond it the exit status is 1",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        size = write_checkpoint(Path(scratch))
        ours, seconds = peak(OURS, Path(scratch))
        whole, whole_seconds = peak(WHOLE, Path(scratch))
    figures = {
        "file_gb": round(size / 1e9, 3),
        "peak_gb": round(ours / 1e9, 3),
        "peak_over_file": round(ours / size, 3),
        "seconds": round(seconds, 1),
        "all_tensors_first_peak_over_file": round(whole / size, 3),
        "all_tensors_first_seconds": round(whole_seconds, 1),
    }
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    sys.exit(0 if ours <= options.limit * size else 1)


if __name__ == "__main__":
    main()
