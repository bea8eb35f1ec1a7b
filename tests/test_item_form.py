"""Gaps among given words and boxes: what a gap may be told leaves what is given as it was. Against
all answers written out, and through the pipeline.
"""

import re
from itertools import product

import numpy as np
import pytest
from test_gaps import BOX, LAST, S1, S2, S3

from fourm import AnyToAnyPipeline
from fourm.errors import UserError
from fourm.item_form import PIECE, WORD, ItemForm
from fourm.modalities import END_ID
from fourm.resources import demo_model_folder
from fourm.sampling.answers import Answer

C, W, P = range(LAST + 1, LAST + 4)  # a coordinate, a word's beginning, its going on
KINDS = np.full(P + 1, WORD)
KINDS[[C, P]] = 0, PIECE
NEVER = np.zeros(P + 1, bool)
NEVER[:END_ID] = True
LISTS, TEXTS = ItemForm(KINDS, 1), ItemForm(KINDS, 0)


@pytest.fixture(scope="module")
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(demo_model_folder())


def spelled(ids) -> str:
    return "".join({C: "c", W: "w", P: "p", S1: "1", S2: "2", S3: "3", END_ID: "."}[i] for i in ids)


def filled(given: list[int], most: int, form: ItemForm) -> set[str]:
    """Every filled sequence that ``Answer`` lets come about."""
    found, begun = set(), [()]
    while begun:
        longer = []
        for ids in begun:
            answer = Answer([np.array(given)], LAST, most, 0, form)
            for i in ids:
                answer.add(np.array([i]))
            if answer.finished[0]:
                text = spelled(given)
                spans = re.split("[23.]", spelled(ids))
                for mark, span in zip("12", spans, strict=False):
                    text = text.replace(mark, f"[{span}]")
                found.add(text)
                continue
            allowed = np.flatnonzero(~answer.banned(NEVER)[0])
            assert len(allowed), (given, ids)  # never a dead end
            longer += [(*ids, int(i)) for i in allowed]
        begun = longer
    return found


def expected(given: list[int], most: int, whole: str, rule: str) -> set[str]:
    """The same from its description: ``whole`` is the pattern of a filled sequence, ``rule`` of one
    with its gaps in brackets.
    """
    text = spelled(given)
    num_gaps = sum(mark in text for mark in "12")
    room = most - len(text.rstrip(".")) + num_gaps - text.endswith(".")
    spans = ["".join(s) for n in range(room + 1) for s in product("cwp", repeat=n)]
    found = set()
    for told in product(spans, repeat=num_gaps):
        if sum(map(len, told)) <= room:
            shown = text
            for mark, span in zip("12", told, strict=False):
                shown = shown.replace(mark, f"[{span}]")
            if re.fullmatch(whole, re.sub(r"[\[\].]", "", shown)) and re.fullmatch(rule, shown):
                found.add(shown)
    return found


CASES = {
    # a gap behind a whole item is for whole items
    "between": ([C, W, S1, C, W, END_ID], 8, r"cw\[(cw[wp]*)+\]cw\."),
    "first": ([S1, C, W, END_ID], 7, r"\[(cw[wp]*)+\]cw\."),
    # one within an item ends with it
    "a label": ([C, S1, C, W, END_ID], 7, r"c\[w[wp]*\]cw\."),
    "a coordinate": ([C, W, S1, W, END_ID], 7, r"cw\[(cw[wp]*)*c(w[wp]*)?\]w\."),
    "two": ([S1, C, S2, C, W, END_ID], 8, r"\[(cw[wp]*)+\]c\[w[wp]*\]cw\."),
    "two behind one another": ([C, W, S1, S2, C, W, END_ID], 10, r"cw(\[(cw[wp]*)+\]){2}cw\."),
}


@pytest.mark.parametrize("name", CASES)
def test_gaps_in_lists_are_told_whole_items_or_the_rest_of_one(name, monkeypatch):
    monkeypatch.setattr("fourm.item_form._LABEL", 0)  # so that all of it is short
    given, most, rule = CASES[name]
    legal = expected(given, most, "(cw[wp]*)*", rule)
    assert len(legal) >= 2
    assert filled(given, most, LISTS) == legal


def test_gaps_in_texts_begin_with_a_word_of_their_own():
    given = [W, S1, W, P, END_ID]
    legal = expected(given, 7, "[cwp]*", r"w\[[cw][cwp]*\]wp\.")
    assert filled(given, 7, TEXTS) == legal and len(legal) > 10


def test_another_item_is_begun_only_where_most_labels_have_room(monkeypatch):
    for label, num in ((4, 0), (2, 1)):
        monkeypatch.setattr("fourm.item_form._LABEL", label)
        # 2 of 5 ids for a first item, 3 for another
        told = filled([C, W, S1, C, W, END_ID], 10, LISTS)
        assert max(text.count("c") for text in told) == 3 + num


def test_ids_that_are_no_items_have_no_form_and_gaps_without_room_are_refused():
    answer = Answer([np.array([W, W, S1, END_ID])], LAST, 8, 0, LISTS)
    assert not answer.banned(NEVER)[0, [C, W, P]].any()
    with pytest.raises(UserError, match="leaves 1 ids of 6 for its gaps, which need 2"):
        Answer([np.array([C, W, S1, C, W, END_ID])], LAST, 6, 0, LISTS)


def test_an_answer_ends_its_item_even_where_a_gap_may_hold_no_more():
    answer = Answer([np.array([C, W, S1, C, W, END_ID])], LAST, 12, 1, LISTS)
    answer.add(np.array([C]))
    assert np.flatnonzero(~answer.banned(NEVER)[0]).tolist() == [W]
    answer.add(np.array([W]))
    assert np.flatnonzero(~answer.banned(NEVER)[0]).tolist() == [S2]


def test_given_boxes_come_back_as_they_were_given_beside_whole_ones(pipe):
    """A model that saw no list in part in its training writes ``red cubed cube`` otherwise."""
    first, last = BOX, {"box": [0.6, 0.3, 0.9, 0.6], "label": "blue sphere"}
    for given, where in (
        ([first, "[S_1]"], lambda made: made[0]),
        (["[S_1]", last], lambda made: made[-1]),
        ([{**first, "label": "[S_1]"}, last], lambda made: made[1]),
    ):
        kept = last if last in given else first
        (whole,) = pipe.codecs["boxes"].decode(pipe.codecs["boxes"].encode([[kept]]))
        for made in pipe({"boxes": given}, "boxes", seed=3, num_samples=6)["boxes"].values:
            assert where(made) == whole[0], (given, made)
            assert "label" not in given[0] or given[0]["label"] != "[S_1]" or len(made) == 2
