"""Depth, normals and classes of a picture: in one pass together, or as a chain.

Errors on fresh scenes and CPU milliseconds a picture of both, with the same settings (one pass at
temperature 0, mean codes). Exit status 0 only where together costs less and no error is worse by
more than a twentieth.

    python benchmarks/independent_targets.py [MODEL] [NUMBER OF SCENES]
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from fourm import AnyToAnyPipeline
from fourm.demo.held_out import held_out_scenes
from fourm.evaluation.metrics import absrel, mean_angle, mean_iou
from fourm.pipeline.automatic import ONCE
from fourm.resources import demo_model_folder

ONE_PASS = {"scheme": ONCE.scheme, "steps": 1, "temperature": 0.0, "decode": "mean"}
ERRORS = {
    "depth": absrel,
    "normal": lambda got, truth: mean_angle(got, truth, None),
    "semseg": lambda got, truth: 1 - mean_iou(got, truth, 6),
}
BATCH = 8


def main() -> int:
    torch.set_num_threads(1)
    folder = sys.argv[1] if len(sys.argv) > 1 else demo_model_folder()
    num = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    pipe = AnyToAnyPipeline.from_pretrained(folder)
    scenes = held_out_scenes(903, num, pipe.modalities["rgb"].raw.pixels)
    errors, cost = {}, {}
    for name, chain in (("together", None), ("chain", True)):
        values = {target: [] for target in ERRORS}
        pipe({"rgb": scenes.raw["rgb"][:BATCH]}, list(ERRORS), chain=chain, **ONE_PASS)  # warm
        started = time.process_time()
        for start in range(0, num, BATCH):
            given = {"rgb": scenes.raw["rgb"][start : start + BATCH]}
            out = pipe(given, list(ERRORS), chain=chain, **ONE_PASS)
            for target in ERRORS:
                values[target] += out[target].values
        cost[name] = 1e3 * (time.process_time() - started) / num
        errors[name] = {
            target: float(error(np.stack(values[target]), np.stack(scenes.raw[target])))
            for target, error in ERRORS.items()
        }
        told = ", ".join(f"{target} {error:.4f}" for target, error in errors[name].items())
        print(f"{name}: {told}; {cost[name]:.1f} CPU ms a picture", flush=True)
    no_worse = all(errors["together"][t] <= 1.05 * errors["chain"][t] for t in ERRORS)
    return 0 if cost["together"] < cost["chain"] and no_worse else 1


if __name__ == "__main__":
    sys.exit(main())
