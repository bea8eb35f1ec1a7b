"""What a model of the demo world has to reach, and the figures that its page opens with."""

from __future__ import annotations

from typing import Any

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
    ("caption->boxes", "label_f1"): (">=", 0.85),
    ("rgb+gap->caption", "exact"): (">=", 0.8),
    ("caption->rgb", "empty"): ("<=", 0.0),
    ("boxes->rgb", "empty"): ("<=", 0.0),
}
BOUND_SHARES = {
    "caption->rgb": 0.85,
    "caption->depth->rgb": 0.65,
    "boxes->rgb": 0.65,
}  # of the judge's score on reconstructions
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
    return goals
