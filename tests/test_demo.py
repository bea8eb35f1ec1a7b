"""The demo world: exact geometry, varied scenes, a judge that sees real renders right and shuffled
ones wrong.
"""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from fourm.demo.goals import goals_of
from fourm.demo.judge import PixelJudge
from fourm.demo.pairs import COMBINATIONS, all_pairs, shape_f1
from fourm.demo.render import FAR, FLOOR, SKY, _rays, render
from fourm.demo.scenes_to_shards import annotate
from fourm.demo.words import attribute_f1, exact_share, filled_share, label_f1, with_gap
from fourm.demo.world import MAX_OBJECTS, SHAPES, caption, describe, make_scenes


@pytest.fixture(scope="module")
def world():
    scenes = make_scenes(3, np.arange(48))
    return scenes, render(scenes, 48)


def inside(scenes, i, k, point):
    """How far a point is from the surface of solid k of scene i, by the solid's own equation."""
    x, y, z = point - np.array([scenes.x[i, k], scenes.y[i, k], 0.0])
    w, h = scenes.half_width[i, k], scenes.height[i, k]
    shape = SHAPES[scenes.shape[i, k]]
    if shape == "sphere":
        return abs(np.sqrt(x * x + y * y + (z - w) ** 2) - w)
    if shape == "cube":
        c, s = np.cos(-scenes.yaw[i, k]), np.sin(-scenes.yaw[i, k])
        return abs(max(abs(c * x - s * y) / w, abs(s * x + c * y) / w, abs(2 * z / h - 1)) - 1) * w
    radius = np.hypot(x, y)
    if shape == "cylinder":
        return min(abs(radius - w), abs(z - h))
    return abs(radius - w * (1 - z / h))


def test_depth_points_lie_on_the_surfaces_that_the_masks_name(world):
    scenes, renders = world
    origin, direction, along = _rays(scenes, 48)
    rng = np.random.default_rng(0)
    for i in range(len(scenes)):
        number, depth = renders.object[i].reshape(-1), renders.depth[i].reshape(-1)
        for p in rng.choice(48 * 48, 40):
            point = origin[i, 0] + direction[i, p] * depth[p] / along[i, p]
            if number[p] == SKY:
                assert depth[p] == FAR
            elif number[p] == FLOOR:
                assert abs(point[2]) < 1e-3
            else:
                assert inside(scenes, i, int(number[p]), point) < 5e-3


def test_normals_are_the_slopes_of_depth(world):
    """On smooth surfaces the cross product of neighbouring points is the normal."""
    scenes, renders = world
    origin, direction, along = _rays(scenes, 48)
    agreed = total = 0
    for i in range(12):
        points = (
            origin[i, 0] + direction[i] * (renders.depth[i].reshape(-1) / along[i])[:, None]
        ).reshape(48, 48, 3)
        elevation = scenes.camera_elevation[i]
        up, back = (
            np.array([0, np.sin(elevation), np.cos(elevation)]),
            np.array([0, -np.cos(elevation), np.sin(elevation)]),
        )
        slope = np.cross(points[1:-1, 2:] - points[1:-1, :-2], points[:-2, 1:-1] - points[2:, 1:-1])
        slope /= np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-9)
        seen = np.stack([slope[..., 0], slope @ up, slope @ back], -1)
        number = renders.object[i]
        same = (
            (number[1:-1, 2:] == number[1:-1, :-2])
            & (number[:-2, 1:-1] == number[2:, 1:-1])
            & (number[1:-1, 1:-1] == number[1:-1, 2:])
        )
        same &= (number[1:-1, 1:-1] != SKY) & (number[:-2, 1:-1] == number[1:-1, 1:-1])
        cosine = (seen * renders.normal[i][1:-1, 1:-1]).sum(-1)[same]
        agreed, total = agreed + (cosine > 0.9).sum(), total + len(cosine)
    assert agreed / total > 0.93  # all but creases


def test_a_scene_is_a_function_of_seed_and_index_and_no_two_are_alike():
    a, b = make_scenes(0, np.arange(2000)), make_scenes(0, np.arange(1990, 2000))
    assert np.array_equal(a.x[1990:], b.x) and np.array_equal(a.albedo[1990:], b.albedo)
    assert not np.array_equal(make_scenes(1, np.arange(10)).x, b.x)
    for values in (
        a.camera_distance,
        a.camera_elevation,
        a.camera_zoom,
        a.light[:, 0],
        a.floor[:, 0],
        a.x[:, 0],
        a.half_width[:, 0],
        a.yaw[:, 0],
    ):
        assert len(np.unique(np.round(values, 9))) > 1950
    assert len({caption(a, i) for i in range(2000)}) > 800
    both = a.present.all(1)
    assert (
        both.mean() > 0.5
        and (a.color[both, 0] != a.color[both, 1]).all()
        and (a.x[both, 0] < a.x[both, 1]).all()
    )


def test_annotations_agree_with_each_other(world):
    scenes, renders = world
    raw = annotate(scenes, renders)
    for i in range(len(scenes)):
        named = [f"{color} {shape}" for _, color, shape in describe(scenes, i)]
        assert [b["label"] for b in raw["boxes"][i]] == named
        assert all(words in raw["caption"][i] for words in named)
        for slot, box in enumerate(raw["boxes"][i]):
            x0, y0, x1, y1 = (round(c * 48) for c in box["box"])
            mask = renders.object[i] == slot
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            assert (raw["semseg"][i][mask] == 2 + scenes.shape[i, slot]).all()
    visible = [
        (renders.object[i] == k).sum()
        for i in range(len(scenes))
        for k in range(MAX_OBJECTS)
        if scenes.present[i, k]
    ]
    assert min(visible) > 20


def test_the_judge_sees_real_renders_and_is_not_fooled_by_other_captions():
    scenes = make_scenes(11, np.arange(150))
    pictures = render(scenes, 64).rgb
    solids = [[(color, shape) for _, color, shape in describe(scenes, i)] for i in range(150)]
    judge = PixelJudge(64)
    assert judge.attribute_accuracy(pictures, solids) >= 0.95
    assert judge.attribute_accuracy(pictures, solids[1:] + solids[:1]) < 0.15
    grey = np.repeat(pictures.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    assert judge.attribute_accuracy(grey, solids) == 0.0
    torn = pictures.copy()
    torn[:, 28:36] = 128  # a grey bar through the middle: solids in two pieces are not whole
    assert judge.attribute_accuracy(torn, solids) < 0.6
    halves = pictures.copy()
    halves[:, :, ::2] = 128
    assert judge.attribute_accuracy(halves, solids) < 0.1


def test_labels_of_boxes_are_counted_as_the_words_of_captions_are():
    solids = [[("red", "cube"), ("blue", "cone")], [("red", "cube")]]
    boxes = [[{"label": "red cube"}, {"label": "blue cone"}], []]
    assert label_f1(boxes, solids) == pytest.approx(0.8)
    assert label_f1([[{"label": "cube"}], []], solids) == 0.0


def test_a_gap_takes_turns_and_only_the_missing_word_itself_fills_it():
    text = "a small red cube left of a large blue cone"
    prompts = [with_gap(text, i) for i in range(6)]
    missing = [text.split()[place] for _, place in prompts]
    assert missing == ["small", "large", "red", "blue", "cube", "cone"]
    assert prompts[2][0] == "a small [S_1] cube left of a large blue cone"
    assert with_gap("a large red cube", 1)[1] == 2
    assert filled_share([text, text.replace("red", "green")], [text, text], [2, 2]) == 0.5
    assert exact_share(["a small red cube"], ["a large red cube"]) == 0.0


def test_attribute_f1_counts_pairs():
    solids = [[("red", "cube"), ("blue", "cone")]]
    assert attribute_f1(["a red cube left of a blue cone"], solids) == 1.0
    assert attribute_f1(["a red cone left of a blue cube"], solids) == 0.0
    assert attribute_f1(["a large red cube"], solids) == pytest.approx(2 / 3)


def _figures(pixels):
    """A ``metrics.json`` in which every bound is 0.9, every baseline 0.1."""
    figure = {"value": 0.5, "baseline": 0.1, "bound": 0.9}
    tasks = ["caption->rgb", "caption->depth->rgb", "boxes->rgb"]
    found = {task: {"attribute_accuracy": figure, "solid_accuracy": figure} for task in tasks}
    found |= {f"{'+'.join(given)}->{target}": {"figure": figure} for given, target in all_pairs()}
    return {**found, "rgb": {"psnr": figure, "pixels": {"value": pixels}}, "seconds": {"raw": 1.0}}


@pytest.mark.parametrize(("pixels", "solid"), [(48, 0.72), (64, 0.81)])
def test_every_pair_and_every_combination_has_a_goal_at_both_sizes(pixels, solid):
    goals = goals_of(_figures(pixels))
    asked = {task for task, _ in goals}
    kinds = ("rgb", "depth", "normal", "semseg", "caption", "boxes")
    assert {f"{a}->{b}" for a, b in permutations(kinds, 2)} <= asked
    assert {f"{'+'.join(given)}->{target}" for given, target in COMBINATIONS} <= asked
    assert goals["caption->rgb", "solid_accuracy"] == (">=", pytest.approx(solid))
    assert goals["depth->caption", "figure"] == (">=", pytest.approx(0.5))
    for task in ("rgb->caption", "boxes->caption", "rgb+gap->caption"):  # size and order too
        assert goals[task, "exact"][1] >= 0.7


def test_a_pair_whose_bound_is_below_its_baseline_wants_less_error():
    figures = _figures(48)
    figures["depth->normal"] = {"angle_object": {"value": 1, "baseline": 50.0, "bound": 10.0}}
    figures["caption->depth"] = {"read_back": {"value": 1, "baseline": 0.2, "bound": None}}
    goals = goals_of(figures)
    assert goals["depth->normal", "angle_object"] == ("<=", 30.0)
    assert goals["caption->depth", "read_back"] == (">=", pytest.approx(0.6))


def test_shapes_are_counted_as_often_as_they_are_there():
    two_cubes = [Counter(cube=2)]
    assert shape_f1(two_cubes, two_cubes) == 1.0
    assert shape_f1([Counter(cube=1)], two_cubes) == pytest.approx(2 / 3)
    assert shape_f1([Counter(cone=1)], two_cubes) == shape_f1([Counter()], two_cubes) == 0.0
