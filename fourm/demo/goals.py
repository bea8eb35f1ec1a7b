"""What a model of the demo world has to reach, and the figures that its page opens with."""

from __future__ import annotations

from typing import Any

from fourm.demo.pairs import all_pairs

GOALS = {
    ("rgb", "psnr"): (">=", 25.0),
    ("rgb->depth", "absrel_object"): ("<=", 0.085),
    ("rgb->depth", "absrel"): ("<=", 0.045),
    ("rgb->depth", "delta1"): (">=", 0.96),
    ("rgb->normal", "angle_object"): ("<=", 18.5),
    ("rgb->normal", "angle"): ("<=", 6.5),
    ("rgb->semseg", "miou"): (">=", 0.75),
    ("rgb->caption", "attribute_f1"): (">=", 0.82),
    ("rgb->boxes", "f1_50"): (">=", 0.85),
    ("rgb->caption", "exact"): (">=", 0.8),
    ("boxes->caption", "attribute_f1"): (">=", 0.9),
    ("boxes->caption", "exact"): (">=", 0.7),  # perspective hides some sizes from boxes
    ("caption->boxes", "label_f1"): (">=", 0.85),
    ("rgb+gap->caption", "exact"): (">=", 0.8),
    ("caption->rgb", "empty"): ("<=", 0.0),
    ("caption->depth->rgb", "empty"): ("<=", 0.0),
    ("boxes->rgb", "empty"): ("<=", 0.0),
}
BOUND_SHARES = {
    "caption->rgb": 0.85,
    "caption->depth->rgb": 0.65,
    "boxes->rgb": 0.65,
}  # of the judge's score on reconstructions
SOLID_SHARES = {48: 0.8, 64: 0.9}  # the second judge's, of caption->rgb, by pixels of a side
PAIR_SHARE = 0.5  # of the way from baseline to bound, for all other pairs and combinations
HEADLINES = (
    ("rgb->depth", "absrel_object"),
    ("rgb->semseg", "miou"),
    ("rgb->caption", "attribute_f1"),
    ("rgb->boxes", "f1_50"),
    ("caption->rgb", "attribute_accuracy"),
    ("boxes->rgb", "attribute_accuracy"),
)


def goals_of(metrics: dict[str, Any]) -> dict[tuple[str, str], tuple[str, float]]:
    """Goals of every figure; those of generated pictures are shares of the judge's bound, and at
    least 4 x shuffled.
    """
    goals = dict(GOALS)
    for task, share in BOUND_SHARES.items():
        if task in metrics:
            figure = metrics[task]["attribute_accuracy"]
            goals[(task, "attribute_accuracy")] = (
                ">=",
                max(share * figure["bound"], 4 * figure["baseline"]),
            )
    for given, target in all_pairs():
        task = f"{'+'.join(given)}->{target}"
        for metric, figure in metrics.get(task, {}).items():
            goals[(task, metric)] = _pair_goal(figure)
    solid = metrics.get("caption->rgb", {}).get("solid_accuracy")
    pixels = metrics.get("rgb", {}).get("pixels")
    if solid and pixels:
        share = SOLID_SHARES.get(int(pixels["value"]), min(SOLID_SHARES.values()))
        goals[("caption->rgb", "solid_accuracy")] = (">=", share * solid["bound"])
    return goals


def _pair_goal(figure: dict[str, Any]) -> tuple[str, float]:
    baseline = figure["baseline"]
    bound = 1.0 if figure["bound"] is None else figure["bound"]  # words that are all right
    sign = ">=" if bound > baseline else "<="
    return sign, baseline + PAIR_SHARE * (bound - baseline)
