"""Reasons are true: what is said to be taken together was, what is said to be popular is."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.explain import explain_item, found_by
from retrieval.histories import histories_of
from retrieval.recommend import Recommender
from retrieval.sources import UNKNOWN_VISIT, FreshSource
from tests.world import TOPICS, item_id, new_item_id, user_id, walk_of


def sentences(recommender: Recommender, history: list[str], wanted: str, bits: int = 0) -> tuple[str, ...]:
    ids = recommender.item_ids
    return explain_item(
        int(ids.to_rows([wanted])[0]),
        ids.to_rows(history),
        bits,
        recommender.model.sources,
        recommender.model.catalogue,
    )


def test_bits_become_names_in_the_order_of_the_sources():
    assert found_by(0b101, ["dense", "ease", "popular"]) == ("dense", "popular")
    assert found_by(0, ["dense"]) == ()


def test_an_item_is_explained_by_the_neighbour_that_speaks_for_it_most(recommender):
    # Everybody who took both toy-04 and toy-05 took them one after the other; toy-00 is five steps away.
    said = sentences(recommender, ["toy-00", "toy-04"], "toy-05")
    title = recommender.model.catalogue.titles[4]
    assert f"taken together with “{title}”" in said


def test_items_nobody_took_are_not_said_to_be_taken_together(recommender):
    for history, wanted in ((["toy-00", "toy-01", "toy-02"], new_item_id("toy")), ([new_item_id("toy")], "toy-01")):
        said = sentences(recommender, history, wanted)
        assert not any(sentence.startswith("taken together") for sentence in said)
        assert any(sentence.startswith("resembles what goes with") for sentence in said)


def test_items_of_other_topics_are_not_said_to_be_taken_together(recommender):
    for topic in list(TOPICS)[1:]:
        said = sentences(recommender, ["toy-00", "toy-01"], item_id(topic, 3))
        assert not any(sentence.startswith("taken together") for sentence in said)


def test_every_pair_said_to_be_taken_together_was(recommender, interactions):
    taken = [set(history.tolist()) for history in histories_of(interactions)]
    titles = recommender.model.catalogue.titles
    checked = 0
    for topic in TOPICS:
        for one in recommender.recommend(user_id(topic, 0), k=20, explain=True):
            row = int(recommender.item_ids.to_rows([one.item_id])[0])
            for sentence in one.reasons:
                if sentence.startswith("taken together with “"):
                    other = titles.index(sentence.removeprefix("taken together with “").removesuffix("”"))
                    assert any({row, other} <= history for history in taken), sentence
                    checked += 1
    assert checked


def test_texts_that_are_alike_are_said_to_read_alike(recommender):
    catalogue = recommender.model.catalogue
    history = [item_id("toy", place) for place in walk_of(0)]
    rows = recommender.item_ids.to_rows(history)
    alike = catalogue.text_vectors[rows] @ catalogue.text_vectors[5]
    assert f"reads like “{catalogue.titles[rows[int(np.argmax(alike))]]}”" in sentences(recommender, history, "toy-05")


def test_somebody_unknown_is_told_how_popular_an_item_is(recommender):
    first = recommender.recommend("stranger", k=3, explain=True)
    for one in first:
        assert any("of the most popular items" in sentence for sentence in one.reasons)
    assert any(sentence.startswith("number 1 ") for sentence in first[0].reasons)


def test_sources_are_named_last(recommender):
    names = recommender.model.source_names
    said = sentences(recommender, ["toy-00"], "toy-01", bits=0b11)
    assert said[-1] == f"found by {names[0]}, {names[1]}"


def test_what_others_took_since_the_last_visit_is_said_to_be_new(recommender):
    shares = np.full((2, recommender.model.catalogue.n_items), 0.4, np.float32)
    shares[0, 5] = 0.6
    fresh = FreshSource(np.array([100.0]), shares, typical=0)

    def said(visit: np.ndarray | None, row: int = 5) -> bool:
        history = np.array([0])
        sentences = explain_item(row, history, 0, (fresh,), recommender.model.catalogue, visit=visit)
        return "mostly taken since the last visit" in sentences

    assert said(np.array([1.0, 50.0]))
    assert not said(np.array([1.0, 50.0]), row=6)
    assert not said(np.array([1.0, 150.0]))  # after the item's interactions
    assert not said(None)
    assert not said(UNKNOWN_VISIT)


@pytest.mark.parametrize("history", [[], ["toy-00"]])
@pytest.mark.parametrize("wanted", ["toy-01", "film-07", "kitchen-new"])
def test_there_is_always_a_reason(recommender, history, wanted):
    said = sentences(recommender, history, wanted)
    assert said
    assert all(isinstance(sentence, str) and sentence for sentence in said)
