"""Gaps by choice: of several fillings the one stays whose whole the model finds likeliest."""

import numpy as np
import pytest

from fourm import AnyToAnyPipeline
from fourm.demo.held_out import held_out_scenes
from fourm.demo.words import with_gap
from fourm.errors import UserError
from fourm.evaluation.metrics import box_f1
from fourm.pipeline.candidates import WIDE
from fourm.pipeline.given import Tokens
from fourm.resources import demo_model_folder
from fourm.sampling.options import SamplingOptions

GREEDY = {"temperature": 0.0, "candidates": 12}


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(77, 48, 64)


def gapped(scenes, num: int) -> dict[str, list]:
    captions = [with_gap(text, i)[0] for i, text in enumerate(scenes.raw["caption"][:num])]
    return {"rgb": list(scenes.raw["rgb"][:num]), "caption": captions}


def test_the_likeliest_whole_of_the_fillings_stays(pipe, scenes):
    num, seeds = 8, list(range(5, 13))
    given = gapped(scenes, num)
    chosen = pipe(given, "caption", seed=seeds, **GREEDY)["caption"]
    changed = 0
    for i in range(num):
        one = {name: values[i] for name, values in given.items()}
        fillings = [pipe(one, "caption", seed=seeds[i], temperature=0.0, candidates=1)["caption"]]
        for k in range(1, GREEDY["candidates"]):
            other = {"seed": seeds[i] ^ (k << 50), "temperature": WIDE, "candidates": 1}
            fillings.append(pipe(one, "caption", **other)["caption"])
        ids = [filling.ids[0] for filling in fillings]
        whole = {"caption": [Tokens(found) for found in ids]}
        scores = pipe.score({"rgb": one["rgb"]}, whole)["caption"]
        assert np.array_equal(chosen.ids[i], ids[int(scores.argmax())])
        changed += scores.argmax() > 0
    assert changed


def test_a_batch_is_its_singles_and_one_candidate_changes_nothing(pipe, scenes):
    given, seeds = gapped(scenes, 5), np.arange(11, 16)
    given["caption"][2] = "[S_1]"  # nothing of it is given: no choice of a gap
    batch = pipe(given, "caption", seed=seeds, **GREEDY)["caption"].ids
    plain = pipe(given, "caption", seed=seeds, temperature=0.0, candidates=1)["caption"].ids
    for i in range(5):
        one = {name: values[i] for name, values in given.items()}
        single = pipe(one, "caption", seed=int(seeds[i]), **GREEDY)["caption"].ids[0]
        assert np.array_equal(batch[i], single)
    assert np.array_equal(batch[2], plain[2])
    steps = list(pipe.stream(given, "caption", seed=seeds, **GREEDY))
    assert len(steps) > 3


def test_missing_words_and_boxes_are_found_that_the_answer_alone_misses(pipe, scenes):
    given, truth = gapped(scenes, 32), scenes.raw["caption"][:32]

    def right(candidates: int) -> float:
        options = {"temperature": 0.0, "candidates": candidates}
        made = pipe(given, "caption", **options)["caption"].values
        return float(np.mean([a == b for a, b in zip(made, truth, strict=True)]))

    assert right(32) >= max(0.8, right(1) + 0.05)
    pairs = [i for i, boxes in enumerate(scenes.raw["boxes"]) if len(boxes) == 2]
    whole = [scenes.raw["boxes"][i] for i in pairs]
    lists = [[b[0], "[S_1]"] if n % 2 else ["[S_1]", b[1]] for n, b in enumerate(whole)]
    pictures = [scenes.raw["rgb"][i] for i in pairs]

    def found(candidates: int) -> float:
        options = {"temperature": 0.0, "candidates": candidates}
        made = pipe({"rgb": pictures, "boxes": lists}, "boxes", **options)["boxes"].values
        missing = [[boxes[n % 2]] for n, boxes in enumerate(whole)]
        return float(np.mean([box_f1([a], [b]) > 0.6 for a, b in zip(made, missing, strict=True)]))

    assert len(pairs) > 15 and found(32) >= max(0.9, found(1) + 0.1)


def test_the_shipped_model_chooses_among_fillings_of_captions_and_boxes(pipe):
    assert pipe.options["caption"].candidates == pipe.options["boxes"].candidates == 32


@pytest.mark.parametrize("candidates, message", [(0, "at least 1"), (10**6, "at most")])
def test_absurd_numbers_are_refused(candidates, message):
    with pytest.raises(UserError, match=message):
        SamplingOptions(candidates=candidates)
