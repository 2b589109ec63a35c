"""Search, similar items, reranking of given candidates, lists that are short, and items that came after the fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrieval.update import add_items
from tests.world import TOPICS, USERS_PER_TOPIC, item_id, new_item_id, user_id, walk_of

EVERYBODY = [user_id(topic, number) for topic in TOPICS for number in range(USERS_PER_TOPIC)]


def history_of(topic: str, number: int) -> list[str]:
    return [item_id(topic, place) for place in walk_of(number)]


def test_search_finds_the_item_whose_text_was_given_first(recommender, items):
    text = recommender.model.catalogue.texts[20]
    found = recommender.search(text, k=5)
    assert found[0].item_id == items.ids.ids[20]
    assert found[0].score == pytest.approx(1, abs=1e-5)
    assert [one.rank for one in found] == [1, 2, 3, 4, 5]
    assert all(one.rerank_score is None for one in found)


@pytest.mark.parametrize("text", ["red\x00 cat", "red \ud83d cat", "red cat " * 100_000, "[SEP]", "🐈"])
def test_any_text_can_be_searched(recommender, text):
    assert len(recommender.search(text, k=3)) == 3


@pytest.mark.parametrize("text", ["", "  ", "\x00\x01", None, 7])
def test_a_search_for_nothing_is_refused(recommender, text):
    with pytest.raises(ValueError, match="search: expected some text, got"):
        recommender.search(text)


def test_similar_items_leave_the_item_itself_out(recommender):
    found = recommender.similar("toy-03", k=60)
    assert "toy-03" not in found.item_ids
    assert len(found) == len(recommender.item_ids) - 1
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert all(-1.001 <= score <= 1.001 for score in scores)
    assert len(recommender.similar("toy-03", k=4)) == 4


def test_a_list_says_that_fewer_items_fit_than_were_asked_for(recommender):
    few, none = "colour = 'new'", "colour = 'pink'"
    narrow = "no item fits; is the filter too narrow?"
    asks = {
        "recommend": lambda **asked: recommender.recommend("toy-fan-00", **asked),
        "search": lambda **asked: recommender.search("cat", **asked),
        "similar": lambda **asked: recommender.similar("toy-00", **asked),
    }
    for ask in asks.values():
        assert not ask(k=4, filters=few).note
        assert ask(k=5, filters=few).note == "only 4 of the 5 items asked for fit"
        assert (ask(k=5, filters=none).note, ask(k=5, filters=none).items) == (narrow, ())
    stranger = recommender.recommend("stranger", k=5, filters=few).note
    assert stranger == "unknown user 'stranger': the most popular items; only 4 of the 5 items asked for fit"


def test_k_may_be_a_number_of_numpy(recommender):
    for found in (
        recommender.recommend("toy-fan-00", k=np.int64(3)),
        recommender.search("red cat", k=np.int64(3)),
        recommender.similar("toy-01", k=np.int64(3)),
    ):
        assert (len(found), found.note) == (3, "")


def test_similar_to_an_unknown_item_is_refused(recommender):
    with pytest.raises(KeyError, match="no such item"):
        recommender.similar("no such item")


def test_reranking_gives_the_candidates_in_the_order_of_their_scores(recommender):
    history = history_of("toy", 0)
    candidates = [item_id("film", 3), item_id("toy", 5), item_id("kitchen", 7), new_item_id("toy"), item_id("toy", 9)]
    found = recommender.rerank(history, candidates)
    assert sorted(found.item_ids) == sorted(candidates)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert found[0].item_id == item_id("toy", 5)


def test_reranking_does_not_depend_on_the_order_of_the_candidates(recommender):
    history, candidates = history_of("toy", 0), [item_id("toy", place) for place in (5, 7, 9, 11)]
    assert recommender.rerank(history, candidates) == recommender.rerank(history, candidates[::-1])


def test_seen_candidates_are_reranked_too(recommender):
    history = history_of("toy", 0)
    assert sorted(recommender.rerank(history, history[:2]).item_ids) == sorted(history[:2])


def test_candidates_from_elsewhere_score_as_in_a_list(recommender):
    history = history_of("toy", 0)
    listed = {item.item_id: item.score for item in recommender.recommend(history=history, k=20)}
    some = list(listed)[::3]
    found = recommender.rerank(history, some[::-1])
    assert found.item_ids == some
    assert {item.item_id: item.score for item in found} == pytest.approx(
        {name: listed[name] for name in some}, rel=1e-5
    )


def test_one_candidate_can_be_reranked(recommender):
    assert recommender.rerank(history_of("toy", 0), ["film-01"]).item_ids == ["film-01"]


def test_reranking_without_a_history_is_the_popular_order_and_says_so(recommender):
    found = recommender.rerank([], ["film-01", "toy-07"])
    assert found.note == "no usable history: the most popular items"


def test_candidates_are_reranked_for_a_known_user_as_in_the_users_list(recommender):
    own = recommender.recommend("toy-fan-00", k=20)
    found = recommender.rerank(None, own.item_ids[::-2], user_id="toy-fan-00")
    assert found.user_id == "toy-fan-00"
    scores = {item.item_id: item.score for item in own}
    assert found.item_ids == [name for name in own.item_ids if name in found.item_ids]
    assert [item.score for item in found] == pytest.approx([scores[name] for name in found.item_ids], rel=1e-5)


def test_a_given_history_counts_before_the_users_own(recommender):
    candidates = ["film-01", "toy-07"]
    found = recommender.rerank(["film-02"], candidates, user_id="toy-fan-00")
    assert found.items == recommender.rerank(["film-02"], candidates).items
    assert found.note == "by the history given, not by that of user 'toy-fan-00'"


def test_reranking_for_nobody_is_refused(recommender):
    with pytest.raises(ValueError, match="expected a user_id or a history, got neither"):
        recommender.rerank(None, ["film-01"])


@pytest.mark.parametrize("candidates", [[], ["toy-01", "toy-01"]])
def test_no_candidate_or_one_twice_is_refused(recommender, candidates):
    with pytest.raises(ValueError, match="rerank: expected distinct candidates, at least one"):
        recommender.rerank(["toy-02"], candidates)


def test_an_unknown_candidate_is_refused(recommender):
    with pytest.raises(KeyError, match="no such item"):
        recommender.rerank(["toy-02"], ["no such item"])


def test_an_item_that_nobody_took_can_be_recommended(recommender):
    assert new_item_id("toy") in recommender.recommend("toy-fan-00", k=20).item_ids


def test_a_new_item_is_recommended_by_its_text_alone(recommender):
    frame = pd.DataFrame({"item_id": ["late"], "title": ["blue dog"], "category": ["toy"], "brand": ["acme"]})
    larger = add_items(recommender, frame)
    assert "late" in larger.recommend("toy-fan-00", k=20).item_ids
    assert larger.similar("late", k=1)[0].item_id.startswith("toy")
    assert larger.search(larger.model.catalogue.texts[-1], k=1)[0].item_id == "late"
    assert "late" not in recommender.item_ids


def test_adding_items_leaves_the_lists_of_the_others_in_order(recommender):
    frame = pd.DataFrame({"item_id": ["late"], "title": ["a ship of war"], "category": ["navy"]})
    larger = add_items(recommender, frame)
    for name in EVERYBODY[::9]:
        assert larger.recommend(name, k=1).item_ids == recommender.recommend(name, k=1).item_ids


def test_an_item_that_is_there_is_not_new(recommender):
    with pytest.raises(ValueError, match=r"expected new items, got known ones: \['toy-01'\]"):
        add_items(recommender, pd.DataFrame({"item_id": ["toy-01"], "title": ["red cat"]}))
