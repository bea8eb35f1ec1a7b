"""The grammar of gaps: what a sequence's answer may say, against all answers written out; texts and
boxes with gaps through the pipeline.
"""

import re
from itertools import product

import numpy as np
import pytest
from test_sampling import SENTINELS, make_state

from fourm import AnyToAnyPipeline, Partial, Tokens
from fourm.errors import UserError
from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID
from fourm.resources import demo_model_folder
from fourm.sampling.answers import Answer
from fourm.sampling.gaps import fill_gaps
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler

S1, S2, S3, S4 = range(FIRST_SENTINEL, FIRST_SENTINEL + 4)
LAST, A, B = S4, S4 + 1, S4 + 2  # a vocabulary of two words
NEVER = np.zeros(B + 1, bool)
NEVER[:END_ID] = True


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


def said(given: list[int], most: int, most_of_gap: int) -> set[tuple[int, ...]]:
    """Every answer that ``Answer`` lets be said, by going through all its choices."""
    found, begun = set(), [()]
    for _ in range(12):
        longer = []
        for ids in begun:
            answer = Answer([np.array(given, int)], LAST, most, most_of_gap)
            for i in ids:
                answer.add(np.array([i]))
            if answer.finished[0]:
                found.add(ids)
            else:
                longer += [(*ids, int(i)) for i in np.flatnonzero(~answer.banned(NEVER)[0])]
        begun = longer
    assert not begun
    return found


def legal(given: list[int], most: int, most_of_gap: int) -> set[tuple[int, ...]]:
    """The same from its description: spans of words for all gaps, those that fit, each closed."""
    num_gaps = len([i for i in given if S1 <= i <= LAST]) or 1
    room = most - len([i for i in given if not S1 <= i <= LAST])
    is_open = not given or S1 <= given[-1] <= LAST
    words = [w for n in range(room + 1) for w in product((A, B), repeat=n)]
    found = set()
    for spans in product(words, repeat=num_gaps):
        held = sum(map(len, spans))
        must_hold = spans[:-1] if is_open else spans
        if not all(must_hold) or max(map(len, spans)) > (most_of_gap or most) or held > room:
            continue
        ids = [i for n, span in enumerate(spans[:-1]) for i in (*span, FIRST_SENTINEL + n + 1)]
        closing = END_ID if is_open else FIRST_SENTINEL + num_gaps
        is_cut = is_open and held == room and len(spans[-1])  # fills the sequence: without an end
        if not (is_open and held == room) or is_cut:
            found.add((*ids, *spans[-1], *(() if is_cut else (closing,))))
    return found


@pytest.mark.parametrize("most_of_gap", [0, 1, 2])
@pytest.mark.parametrize(
    "given, most",
    [([], 3), ([A, S1], 4), ([S1, A, END_ID], 5), ([A, S1, B, S2, END_ID], 6), ([S1, A, S2], 5)],
    ids=str,
)
def test_what_an_answer_may_say_is_what_the_grammar_allows(given, most, most_of_gap):
    assert said(given, most, most_of_gap) == legal(given, most, most_of_gap)
    assert len(legal(given, most, most_of_gap)) >= 2


def test_a_text_with_gaps_is_the_given_ids_and_what_each_gap_was_told(modalities, model):
    """Of a model with random weights, which would say sentinels and ends anywhere."""
    state = make_state(modalities, 8)
    given = [np.array([50, S1, 60, 61, S2, 62, S3, END_ID]), np.array([S1, 70, S2])] * 4
    state.sequences["boxes"] = given
    sampler = Sampler(model, SENTINELS)
    options = SamplingOptions(most_of_gap=4)
    filled = sampler.generate(state, "boxes", options, np.arange(8), []).sequences["boxes"]
    word = r"(?:\d\d+ )"  # ids from 20 on
    closed = re.compile(f"50 {word}{{1,4}}60 61 {word}{{1,4}}62 {word}{{1,4}}3 ")
    opened = re.compile(f"{word}{{1,4}}70 {word}{{0,4}}3 ")
    for i, ids in enumerate(filled):
        line = "".join(f"{n} " for n in ids)
        assert (opened if i % 2 else closed).fullmatch(line), line
        assert not ((ids >= SENTINEL_ID) & (ids < SENTINEL_ID + 16)).any()


def test_the_progress_of_a_sequence_ends_at_its_end_and_guidance_ignores_the_others_gaps(
    modalities, model
):
    state, told = make_state(modalities, 2), []
    options = SamplingOptions(guidance_scale=3.0, temperature=0.5)
    sampler = Sampler(model, SENTINELS)
    for step in sampler.steps(state, "boxes", options, np.arange(2), ["caption"]):
        told.append((step.done, step.num_steps, step.look()))
    assert told[-1][0] == told[-1][1]
    alone = sampler.generate(state, "boxes", options, np.arange(2), ["caption"])
    assert all(map(np.array_equal, told[-1][2], alone.sequences["boxes"]))
    state.sequences["boxes"] = [np.zeros(0, int), np.array([S1, 50, S2, 60, S3, END_ID])]
    beside = sampler.generate(state, "boxes", options, np.arange(2), ["caption"])
    assert np.array_equal(beside.sequences["boxes"][0], alone.sequences["boxes"][0])


def test_gaps_are_numbered_in_the_order_in_which_they_stand(pipe):
    ordered = pipe({"caption": "a [S_1] cube left of a [S_2] sphere"}, "caption", seed=4)
    for text in (
        "a [S_2] cube left of a [S_1] sphere",
        "a [S_4] cube left of a [S_9] sphere",
        "a [S_0] cube left of a [S_0] sphere",
    ):
        assert np.array_equal(
            pipe({"caption": text}, "caption", seed=4)["caption"].ids[0], ordered["caption"].ids[0]
        )
    words = ordered["caption"].texts[0].split()
    assert words[0] == "a" and words[-1] == "sphere" and " cube left of a " in " ".join(words)


BOX = {"box": [0.1, 0.2, 0.5, 0.6], "label": "red cube"}


def test_boxes_may_have_gaps_between_and_in_them(pipe):
    codec = pipe.codecs["boxes"]
    (plain,) = codec.encode([[BOX]])
    for given, expected in (
        ([BOX, "[S_1]"], [*plain[:-1], S1]),
        (["[S_1]", BOX], [S1, *plain]),
        (["[S_1]"], [S1]),
        ([{**BOX, "label": "[S_3]"}, BOX], [*plain[:4], S1, *plain]),
    ):
        state = pipe.encode({"boxes": given})
        assert state.sequences["boxes"][0].tolist() == expected
    two = pipe({"boxes": [[BOX, "[S_1]"], ["[S_1]", BOX]]}, "boxes", seed=1)["boxes"]
    inner, num = plain[:-1], len(plain)
    assert np.array_equal(two.ids[0][: num - 1], inner) and len(two.ids[0]) >= num
    assert np.array_equal(two.ids[1][-num:], plain) and len(two.ids[1]) > num


TOO_MUCH = [
    ({"caption": "a cube " * 40}, "is longer than the 24 tokens that it holds"),
    ({"boxes": [BOX] * 9}, "is longer than the 24 tokens that it holds"),
    ({"caption": Tokens(np.full(25, 300))}, "25 ids are more than the 24"),
    ({"caption": Partial("a red cube", np.ones(4, bool))}, r"write \[S_1\] where"),
    ({"caption": Tokens(np.full(4, 300), np.ones(4, bool))}, r"write \[S_1\] where"),
    ({"caption": " [S_1] a" * 13}, "is longer"),
]


@pytest.mark.parametrize("given, why", TOO_MUCH, ids=lambda x: str(x)[:40])
def test_what_would_be_cut_or_ignored_is_refused(pipe, given, why):
    with pytest.raises(UserError, match=why):
        pipe(given, "rgb", steps=1)


def test_more_gaps_than_sentinels_are_refused(modalities, model):
    state = make_state(modalities, 1)
    state.sequences["boxes"] = [np.arange(SENTINEL_ID + 1, SENTINEL_ID + 16)]
    with pytest.raises(UserError, match="15 gaps; 14 are the most"):
        Sampler(model, SENTINELS).generate(state, "boxes", SamplingOptions(), np.zeros(1, int), [])


def test_filling_puts_each_span_where_its_sentinel_stands():
    given, decoded = np.array([A, S1, B, S2]), np.array([S1, B, B, S2, A, END_ID])
    assert fill_gaps(given, decoded, LAST).tolist() == [A, B, B, B, A, END_ID]
