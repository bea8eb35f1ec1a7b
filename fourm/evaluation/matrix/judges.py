"""How generated values of a raw type are judged: its figures, the best answer without a condition,
and what coverage is asked of.

``judge_of`` finds the judge of a raw type. Arrays are judged by the type's own ``figures``; a type
of your own that is no array is compared as a whole, unless it is registered:

    judge_of.register(MyType, lambda raw: MyJudge())
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from fourm.evaluation.average_precision import average_precision
from fourm.evaluation.metrics import box_f1
from fourm.raw import Raw
from fourm.raw._dense import Dense
from fourm.raw.boxes import Boxes
from fourm.raw.image import Image
from fourm.raw.labels import Labels
from fourm.raw.metadata import Metadata
from fourm.raw.numbers import Numbers
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm.raw.words import Words


class Judge:
    """The protocol, for values of which only equality is known: they are right or wrong.

    ``ordered``: places hold numbers, which have a range; otherwise classes.
    ``are_pictures``: their distribution can be compared by the features of a network.
    ``are_boxes``: they are judged by how sure the model is of each, which is asked of it.
    """

    ordered = False
    are_pictures = False
    are_boxes = False

    def figures(self, predicted: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        """Figures of all samples together."""
        same = [_hashable(p) == _hashable(t) for p, t in zip(predicted, truth, strict=True)]
        return {"exact": float(np.mean(same))}

    def constants(self, values: Sequence[Any]) -> list[Any]:
        """For each sample the best answer that knows only the *others*: the commonest."""
        return _commonest_others(values, list(map(_hashable, values)))

    def places(self, value: Any) -> np.ndarray:
        """What of a value is covered or not, (P,): numbers, or anything that can be equal."""
        whole = np.empty(1, object)
        whole[0] = _hashable(value)
        return whole

    def covered(self, truth: Any, others: Sequence[Any]) -> float:
        """Share of the truth's places that are within those of other values."""
        place, several = self.places(truth), [self.places(other) for other in others]
        fitting = [other for other in several if other.shape == place.shape]
        if not fitting or not len(place):
            return float(not len(place) and bool(fitting))
        table = np.stack(fitting)
        if self.ordered:
            return float(((table.min(0) <= place) & (place <= table.max(0))).mean())
        return float((table == place).any(0).mean())

    def spread(self, values: Sequence[Any]) -> float:
        """How far generations of one sample are apart: standard deviation of numbers, mean over
        places; of classes the share of pairs that differ.
        """
        several = [self.places(value) for value in values]
        if len({len(places) for places in several}) > 1 or not len(several[0]):
            return float("nan")  # of different lengths, or empty
        table = np.stack(several)
        if self.ordered:
            return float(table.std(0, ddof=1).mean())
        pairs = [(table[i] != table[j]).mean() for i in range(len(table)) for j in range(i)]
        return float(np.mean(pairs))


class ArrayJudge(Judge):
    """Arrays of one shape: the type's own figures, the others' mean, a range at each place."""

    ordered = True

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    def figures(self, predicted: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        return self.raw.figures(np.stack(predicted), np.stack(truth))

    def constants(self, values: Sequence[Any]) -> list[Any]:
        table = np.stack(values)
        total = table.sum(0, dtype=np.float64)
        means = [(total - value) / max(len(table) - 1, 1) for value in table]
        if table.dtype.kind in "iu":
            means = [mean.round() for mean in means]
        return [mean.astype(table.dtype) for mean in means]

    def places(self, value: Any) -> np.ndarray:
        return np.asarray(value, np.float32).reshape(-1)


class PictureJudge(ArrayJudge):
    """Pictures in colour."""

    are_pictures = True


class ClassesJudge(ArrayJudge):
    """Class maps: also the share of pixels that are right; the commonest class of the others."""

    ordered = False

    def figures(self, predicted: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        right = float((np.stack(predicted) == np.stack(truth)).mean())
        return {"accuracy": right, **super().figures(predicted, truth)}

    def constants(self, values: Sequence[Any]) -> list[Any]:
        table = np.stack(values)
        counts = np.stack([(table == c).sum(0) for c in range(int(table.max()) + 1)])
        result = []
        for value in table:
            own = np.arange(len(counts)).reshape(-1, *[1] * value.ndim) == value
            result.append((counts - own).argmax(0).astype(table.dtype))
        return result

    def places(self, value: Any) -> np.ndarray:
        return np.asarray(value).reshape(-1)


class BoxesJudge(Judge):
    """Labelled boxes: F1 at two overlaps, COCO's average precision over ten and at a half; places
    are the labels in the picture.
    """

    are_boxes = True

    def figures(self, predicted: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        pairs = list(predicted), list(truth)
        return {
            "f1_50": box_f1(*pairs, 0.5),
            "f1_75": box_f1(*pairs, 0.75),
            "ap": average_precision(*pairs),
            "ap_50": average_precision(*pairs, (0.5,)),
        }

    def places(self, value: Any) -> np.ndarray:
        return super().places(sorted(str(item["label"]) for item in value))


class BagJudge(Judge):
    """Values that are bags of things, such as texts of words: mean F1 of those that both have, each
    as often as it is there; and equal ones.
    """

    def __init__(self, name: str, things: Callable[[Any], Iterable[Any]]) -> None:
        self.name, self.things = name, things

    def figures(self, predicted: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        scores = [
            bag_f1(self.things(p), self.things(t)) for p, t in zip(predicted, truth, strict=True)
        ]
        return {self.name: float(np.mean(scores)), **super().figures(predicted, truth)}


class TextJudge(BagJudge):
    """Texts by their words, case aside as in SQuAD: tokenizers of small letters say all of them."""

    def __init__(self) -> None:
        super().__init__("word_f1", str.split)

    def figures(self, predicted: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        small = [[text.lower() for text in texts] for texts in (predicted, truth)]
        return super().figures(*small)

    def places(self, value: Any) -> np.ndarray:
        return super().places(value.lower())


class NumbersJudge(Judge):
    """Lists of numbers: mean absolute error, where a number that is missing counts as the middle of
    the range.
    """

    ordered = True

    def __init__(self, raw: Numbers) -> None:
        self.raw = raw

    def figures(self, predicted: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
        errors = []
        for p, t in zip(predicted, truth, strict=True):
            middles = self.raw.middles(len(t))[len(p) :]
            errors += [abs(a - b) for a, b in zip([*p, *middles], t, strict=False)]
        return {"mae": float(np.mean(errors)) if errors else float("nan")}

    def constants(self, values: Sequence[Any]) -> list[Any]:
        longest = max(map(len, values))
        table = np.full((len(values), longest), np.nan)
        for row, value in zip(table, values, strict=True):
            row[: len(value)] = value
        others = [np.delete(table, i, 0) for i in range(len(table))]
        middles = self.raw.middles(longest)
        return [
            [
                float(np.mean(column[~np.isnan(column)])) if (~np.isnan(column)).any() else middle
                for column, middle in zip(other.T, middles, strict=True)
            ]
            for other in others
        ]

    def places(self, value: Any) -> np.ndarray:
        return np.asarray(value, np.float64)


@singledispatch
def judge_of(raw: Raw) -> Judge:
    """The judge of a raw type's values."""
    return Judge()


judge_of.register(Dense, ArrayJudge)
judge_of.register(Vectors, ArrayJudge)
judge_of.register(Image, PictureJudge)
judge_of.register(Labels, ClassesJudge)
judge_of.register(Boxes, lambda raw: BoxesJudge())
judge_of.register(Text, lambda raw: TextJudge())
judge_of.register(Words, lambda raw: BagJudge("word_f1", list))
judge_of.register(Metadata, lambda raw: BagJudge("entry_f1", lambda value: value.items()))
judge_of.register(Numbers, NumbersJudge)


def bag_f1(predicted: Iterable[Any], truth: Iterable[Any]) -> float:
    """F1 of two bags of things that can be counted."""
    a, b = Counter(predicted), Counter(truth)
    both = (a & b).total()
    return 2 * both / (a.total() + b.total()) if a or b else 1.0


def _commonest_others(values: Sequence[Any], names: list[Any]) -> list[Any]:
    """For each value the one that is most often among the others, the first of several."""
    counts = Counter(names)
    first = {name: values[i] for i, name in reversed(list(enumerate(names)))}
    result = []
    for own in names:
        left = counts - Counter([own])
        result.append(first[max(left, key=lambda name: left[name])] if left else first[own])
    return result


def _hashable(value: Any) -> Any:
    """A value of JSON or an array as something that can be compared and counted."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    return value
