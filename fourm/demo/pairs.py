"""Every pair of modalities that ``tasks.py`` does not examine more closely, and some combinations.

A map has no colours and a caption no places, so a pair is judged by what its input can tell: maps
by their usual metrics on the pixels of solids, words, labels and pictures by the *shapes* that they
show (``shape_f1``). What a caption is to make of depth and normals is told back in words by the
model itself (``read_back``): a weaker witness, since it may misread what it wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fourm.demo.held_out import HeldOut
from fourm.demo.judge import Judge
from fourm.demo.words import attribute_f1, label_f1
from fourm.demo.world import SHAPES
from fourm.evaluation.metrics import absrel, box_f1, mean_angle, mean_iou
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.raw.labels import Labels

NUM_SCENES = 64  # as many are examined
MAPS = ("depth", "normal", "semseg")
READ_BACK = ("depth", "normal")  # of a caption
COMBINATIONS = (
    (("caption", "depth"), "rgb"),
    (("caption", "boxes"), "rgb"),
    (("caption", "semseg"), "rgb"),
    (("boxes", "depth"), "caption"),
    (("rgb", "caption"), "boxes"),
)
_LEAST_SHARE = 0.005  # of a class map's pixels that a solid covers

Shapes = list[Counter[str]]  # of each scene
Figure = Callable[[Any, np.ndarray], float]  # of what was made and numbers of scenes
Note = Callable[..., None]  # task, metric, figure, what was made, baseline, bound


def all_pairs() -> list[tuple[tuple[str, ...], str]]:
    """(inputs, target) of all that this module examines."""
    pairs: list[tuple[tuple[str, ...], str]] = [
        ((given,), target)
        for given in MAPS
        for target in ("rgb", *MAPS, "caption", "boxes")
        if given != target
    ]
    pairs += [((given,), target) for given in ("caption", "boxes") for target in MAPS]
    return [*pairs, *COMBINATIONS]


class Pairs:
    """Examines pairs on the first of some scenes.

    Args:
        judge: of pictures; mean_map: the training set's mean of a map, for as many scenes.
        note: is told each figure.
    """

    def __init__(
        self,
        pipe: AnyToAnyPipeline,
        scenes: HeldOut,
        judge: Judge,
        mean_map: Callable[[str], np.ndarray],
        note: Note,
    ) -> None:
        self._pipe, self._scenes, self._judge = pipe, scenes.first(NUM_SCENES), judge
        self._mean_map, self._note = mean_map, note
        self._shapes = [Counter(shape for _, shape in solids) for solids in self._scenes.solids]

    def run(self) -> None:
        """All pairs."""
        for given, target in all_pairs():
            self._examine(given, target)

    def _examine(self, given: tuple[str, ...], target: str) -> None:
        raw, task = self._scenes.raw, f"{'+'.join(given)}->{target}"
        inputs = {name: raw[name] for name in given}
        made = self._pipe(inputs, [target], seed=self._scenes.seed)[target].values
        if len(given) > 1:
            self._combination(task, target, made)
        elif target in MAPS and given != ("caption",):
            self._map(task, target, np.stack(made))
        elif target in READ_BACK:
            said = self._pipe({target: made}, ["caption"], seed=self._scenes.seed)["caption"]
            self._words(task, "read_back", _shapes_of_captions(said.values), None)
        elif target == "boxes":
            self._places(task, made)
        else:
            found, bound = self._seen(target, made), self._seen(target, self._best(target))
            self._words(task, "shape_f1", found, shape_f1(bound, self._shapes))

    def _best(self, target: str) -> list[Any]:
        codec = self._pipe.codecs[target]
        return list(codec.decode(codec.encode(self._scenes.raw[target])))

    def _seen(self, target: str, made: Sequence[Any]) -> Shapes:
        if target == "caption":
            return _shapes_of_captions(made)
        if target == "semseg":
            return [_shapes_of_map(self._pipe.modalities["semseg"].raw, values) for values in made]
        return [Counter(solid.shape for solid in self._judge.look(picture)) for picture in made]

    def _words(self, task: str, metric: str, found: Shapes, bound: float | None) -> None:
        shuffled = self._shapes[1:] + self._shapes[:1]
        figure = _by_scene(shape_f1, self._shapes)
        self._note(task, metric, figure, found, shape_f1(found, shuffled), bound)

    def _places(self, task: str, made: list[Any]) -> None:
        found, truth = map(_without_colors, (made, self._scenes.raw["boxes"]))
        shuffled = box_f1(found, truth[1:] + truth[:1])
        self._note(task, "shape_f1_50", _by_scene(box_f1, truth), found, shuffled, 1.0)

    def _map(self, task: str, target: str, made: np.ndarray) -> None:
        truth = np.stack(self._scenes.raw[target])
        metric, figure = self._map_figure(target)
        every = np.arange(len(truth))
        mean, best = self._mean_map(target)[: len(truth)], np.stack(self._best(target))
        of = partial(_of_maps, figure, truth)
        self._note(task, metric, of, made, of(mean, every), of(best, every))

    def _map_figure(self, target: str) -> tuple[str, Callable[..., float]]:
        on = self._scenes.on_object
        labels = self._pipe.modalities["semseg"].raw
        assert isinstance(labels, Labels)
        num = len(labels.classes)
        return {
            "depth": ("absrel_object", lambda p, t, i: absrel(p, t, on[i])),
            "normal": ("angle_object", lambda p, t, i: mean_angle(p, t, on[i])),
            "semseg": ("miou", lambda p, t, i: mean_iou(p, t, num)),
        }[target]

    def _combination(self, task: str, target: str, made: list[Any]) -> None:
        """What is asked with several inputs tells colours too."""
        solids = self._scenes.solids
        metric, figure = {
            "rgb": ("attribute_accuracy", self._judge.attribute_accuracy),
            "caption": ("attribute_f1", attribute_f1),
            "boxes": ("label_f1", label_f1),
        }[target]
        shuffled = figure(made, solids[1:] + solids[:1])
        bound = figure(self._best(target), solids)
        self._note(task, metric, _by_scene(figure, solids), made, shuffled, bound)


def shape_f1(found: Shapes, truth: Shapes) -> float:
    """F1 of the shapes of each scene, each as often as it is there."""
    matched = sum((a & b).total() for a, b in zip(found, truth, strict=True))
    total = sum(a.total() for a in found) + sum(b.total() for b in truth)
    return 2 * matched / max(total, 1)


def _shapes_of_captions(captions: Sequence[str]) -> Shapes:
    return [Counter(word for word in text.split() if word in SHAPES) for text in captions]


def _shapes_of_map(labels: Any, values: np.ndarray) -> Counter[str]:
    """Shapes that cover enough of a class map; two of a kind are counted once."""
    least = _LEAST_SHARE * values.size
    return Counter(s for s in SHAPES if (values == labels.classes.index(s)).sum() >= least)


def _without_colors(boxes: Sequence[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    return [[{**box, "label": str(box["label"]).split(" ")[-1]} for box in of] for of in boxes]


def _by_scene(figure: Callable[[Any, Any], float], truth: Sequence[Any]) -> Figure:
    def of(made: Sequence[Any], scenes: np.ndarray) -> float:
        return figure([made[i] for i in scenes], [truth[i] for i in scenes])

    return of


def _of_maps(
    figure: Callable[..., float], truth: np.ndarray, made: np.ndarray, scenes: np.ndarray
) -> float:
    return figure(made[scenes], truth[scenes], scenes)
