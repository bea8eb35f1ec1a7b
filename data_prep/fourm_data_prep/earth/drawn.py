"""Are generated pictures of the Earth as lively as true ones? Drawn with the model's own settings,
from a caption and from maps, beside what the tokenizer makes of the truth.

``variation`` is the spatial deviation of generated pictures over that of reconstructions: below 1
they are flat. ``distance`` is the Fréchet distance of EfficientNet-Lite0 features to the true
pictures over that of reconstructions. Both are of as many pictures and fall with their number, the
first by less: of few pictures the ratio is too near to 1. ``kernel`` is the unbiased kernel
distance x 1,000, of the reconstructions its bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fourm.evaluation.efficientnet import pooled_features
from fourm.evaluation.matrix.distances import frechet_distance, kernel_distance
from fourm.evaluation.metrics import psnr, spatial_deviation
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.sampling.options import SamplingOptions
from fourm_data_prep.earth.tiles import Tiles

FROM = (("caption",), ("land_cover", "height"))
SEEDS = (0, 1, 2)
GOALS = {
    (f"{'+'.join(names)}->rgb, drawn", metric): goal
    for names in FROM
    for metric, goal in (("variation", (">=", 0.85)), ("distance", ("<=", 3.0)))
}
_TARGET, _BATCH = "rgb", 32


@dataclass
class Pictures:
    """Tiles whose pictures are made anew."""

    pipe: AnyToAnyPipeline
    tiles: Tiles

    @cached_property
    def truth(self) -> np.ndarray:
        """True pictures (B, H, W, 3)."""
        return self.tiles.stacked(_TARGET)

    @cached_property
    def reconstructed(self) -> np.ndarray:
        """The truth after it has been tokens."""
        codec = self.pipe.codecs[_TARGET]
        return np.stack(codec.decode(codec.encode(list(self.truth))))

    @cached_property
    def features(self) -> np.ndarray:
        """Of the truth, (B, 1280)."""
        return pooled_features(list(self.truth))

    @cached_property
    def bound(self) -> dict[str, float]:
        """The reconstructions' figures."""
        return self.figures(self.reconstructed)

    def draw(
        self, given: Sequence[str], seed: int, options: SamplingOptions | None = None
    ) -> np.ndarray:
        """A picture of each tile from its values of ``given``; options are the model's own."""
        made: list[Any] = []
        for start in range(0, len(self.tiles), _BATCH):
            inputs = {n: self.tiles.values[n][start : start + _BATCH] for n in given}
            chosen = None if options is None else {_TARGET: options}
            first = seed * 100_003 + start
            made += self.pipe(inputs, [_TARGET], seed=first, options=chosen)[_TARGET].values
        return np.stack(made)

    def figures(self, pictures: np.ndarray) -> dict[str, float]:
        """PSNR, spatial deviation in levels, both distances of pictures of the tiles."""
        features = pooled_features(list(pictures))
        return {
            "psnr": psnr(pictures, self.truth),
            "deviation": spatial_deviation(pictures),
            "frechet": frechet_distance(features, self.features),
            "kernel": 1000 * kernel_distance(features, self.features)[0],
        }


def drawn_figures(pictures: Pictures) -> dict[str, dict[str, Any]]:
    """All three for each of ``FROM``, mean over ``SEEDS``, in the form of ``metrics.json``."""
    bound, found = pictures.bound, {}
    for given in FROM:
        each = [pictures.figures(pictures.draw(given, seed)) for seed in SEEDS]
        told = {
            "variation": ([f["deviation"] / bound["deviation"] for f in each], 1.0),
            "distance": ([f["frechet"] / bound["frechet"] for f in each], 1.0),
            "kernel": ([f["kernel"] for f in each], bound["kernel"]),
        }
        found[f"{'+'.join(given)}->rgb, drawn"] = {
            metric: {
                "value": float(np.mean(values)),
                "deviation": float(np.std(values, ddof=1)),
                "bound": best,
                "n": len(pictures.tiles),
            }
            for metric, (values, best) in told.items()
        }
    return found
