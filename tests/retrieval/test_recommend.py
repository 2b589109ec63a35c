"""The front door on a world whose right answers are known: who took item n of a ring takes item n + 1."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest

from retrieval.recommend import Recommender
from tests.world import RING, TOPICS, USERS_PER_TOPIC, item_id, new_item_id, user_id, walk_of

EVERYBODY = [user_id(topic, number) for topic in TOPICS for number in range(USERS_PER_TOPIC)]
MANY = [*EVERYBODY, "stranger", *EVERYBODY[:40]]  # more than one batch, with somebody unknown and people twice


def next_of(topic: str, number: int) -> str:
    return item_id(topic, walk_of(number)[-1] + 1)


def history_of(topic: str, number: int) -> list[str]:
    return [item_id(topic, place) for place in walk_of(number)]


def test_the_next_item_of_the_ring_comes_first_for_everybody(recommender):
    first = {name: recommender.recommend(name, k=1)[0].item_id for name in EVERYBODY}
    right = [first[user_id(t, n)] == next_of(t, n) for t in TOPICS for n in range(USERS_PER_TOPIC)]
    assert np.mean(right) >= 0.95


def test_lists_stay_within_the_topic_as_far_as_it_goes(recommender):
    for topic in TOPICS:
        found = recommender.recommend(user_id(topic, 0), k=3).item_ids
        assert all(name.startswith(topic) for name in found)


def test_a_list_tells_ranks_titles_and_falling_scores(recommender):
    found = recommender.recommend("toy-fan-00", k=8)
    assert [one.rank for one in found] == list(range(1, 9))
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert found[0].title == "blue dog"
    assert all(one.recall_score is not None and one.rerank_score is not None for one in found)
    assert (found.user_id, found.note, found.ignored_history, len(found)) == ("toy-fan-00", "", 0, 8)


def test_reasons_name_the_sources_that_found_an_item(recommender):
    reasons = recommender.recommend("toy-fan-00", k=1)[0].reasons
    assert {"neighbours", "ease"} <= set(reasons) <= set(recommender.model.source_names)


def test_explained_reasons_are_sentences(recommender):
    sentences = recommender.recommend("toy-fan-00", k=1, explain=True)[0].reasons
    assert any("taken together with “" in sentence for sentence in sentences)


def test_explaining_changes_neither_order_nor_scores(recommender):
    plain, explained = (recommender.recommend("toy-fan-03", k=10, explain=flag) for flag in (False, True))
    assert [replace(one, reasons=()) for one in plain] == [replace(one, reasons=()) for one in explained]


def test_seen_items_are_never_recommended(recommender):
    for topic in TOPICS:
        for number in range(4):
            found = recommender.recommend(user_id(topic, number), k=60).item_ids
            assert not set(found) & set(history_of(topic, number))


def test_seen_items_come_back_where_they_are_kept(recommender):
    keeping = replace(recommender, config=replace(recommender.config, keep_seen=True))
    assert set(keeping.recommend("toy-fan-00", k=60).item_ids) & set(history_of("toy", 0))


def test_a_history_in_the_call_is_the_history_of_the_user(recommender):
    known = recommender.recommend("film-fan-05", k=10)
    given = recommender.recommend(history=history_of("film", 5), k=10)
    assert given.items == known.items
    assert given.user_id is None


def test_a_history_in_the_call_wins_over_the_stored_one(recommender):
    found = recommender.recommend("toy-fan-00", history=history_of("film", 5), k=10)
    assert found.items == recommender.recommend("film-fan-05", k=10).items
    assert found.user_id == "toy-fan-00"
    assert found.note == "by the history given, not by that of user 'toy-fan-00'"
    assert not recommender.recommend("nobody", history=history_of("film", 5), k=10).note
    unknown = recommender.recommend("toy-fan-00", history=["no such item"], k=10)
    assert unknown.note == "no usable history of user 'toy-fan-00': the most popular items"


def test_unknown_items_of_a_history_are_named_and_left_out(recommender):
    history = history_of("film", 5)
    found = recommender.recommend(history=["no such item", *history, "nor this"], k=10)
    assert found.items == recommender.recommend(history=history, k=10).items
    assert found.ignored_history == 2
    assert found.ignored_ids == ("no such item", "nor this")


def test_what_is_no_id_is_named_as_what_it_is(recommender):
    found = recommender.recommend(history=[None, 12, 10**5000, "film-01"], k=5)
    assert found.ignored_ids == ("None", "12", "a very long whole number")


def test_an_unknown_user_gets_the_popular_items_and_is_told(recommender, interactions):
    found = recommender.recommend("stranger", k=10)
    assert found.note == "unknown user 'stranger': the most popular items"
    counts = interactions.item_counts()[recommender.item_ids.to_rows(found.item_ids)]
    assert counts.tolist() == sorted(interactions.item_counts(), reverse=True)[:10]
    assert found.user_id == "stranger"


@pytest.mark.parametrize("history", [[], ["no such item"]])
def test_a_history_without_a_known_item_gets_the_popular_items_and_is_told(recommender, history):
    found = recommender.recommend(history=history, k=5)
    assert found.note == "no usable history: the most popular items"
    assert found.item_ids == recommender.recommend("stranger", k=5).item_ids
    assert found.ignored_history == len(history)


def test_neither_user_nor_history_is_refused(recommender):
    with pytest.raises(ValueError, match="expected a user_id or a history, got neither"):
        recommender.recommend()


def test_one_text_is_not_a_history(recommender):
    with pytest.raises(ValueError, match="expected a sequence of item ids, got the single str 'toy-01'"):
        recommender.recommend(history="toy-01")


@pytest.mark.parametrize("one", ["toy-01", b"toy-01", 5])
def test_one_thing_is_not_several_at_any_door(recommender, one):
    for name, ask in {
        "history": lambda: recommender.recommend(history=one),
        "user_ids": lambda: recommender.recommend_many(one),
        "histories": lambda: recommender.recommend_many(histories=one),
        "item_ids": lambda: recommender.rerank(["toy-00"], one),
    }.items():
        with pytest.raises(
            ValueError, match=f"{name}: expected a sequence of .*, got the single {type(one).__name__} "
        ):
            ask()
    with pytest.raises(ValueError, match="history: expected a sequence of item ids, got the single"):
        recommender.recommend_many(["anna"], histories=[one])


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", " toy-fan-00"])
def test_a_malformed_user_id_is_refused(recommender, name):
    with pytest.raises(ValueError, match=r"id (is empty|holds|begins)"):
        recommender.recommend(name)


def test_a_whole_number_is_an_id(recommender):
    assert recommender.recommend(12).user_id == "12"


@pytest.mark.parametrize("k", [0, -1, 1_001, 10**9, 2.0, True, "5", None])
def test_k_outside_its_bounds_is_refused(recommender, k):
    for ask in (
        lambda: recommender.recommend("toy-fan-00", k=k),
        lambda: recommender.recommend_many(["toy-fan-00"], k=k),
        lambda: recommender.search("cat", k=k),
        lambda: recommender.similar("toy-00", k=k),
    ):
        with pytest.raises(ValueError, match=r"k: expected a whole number from 1 to 1000, got"):
            ask()


def test_k_above_the_catalogue_gives_what_there_is(recommender):
    found = recommender.recommend("toy-fan-00", k=1_000)
    everything = len(recommender.item_ids) - len(history_of("toy", 0))
    assert len(found) == len(set(found.item_ids)) == everything


@pytest.mark.parametrize("k", [1, 5])
def test_a_shorter_list_is_the_beginning_of_a_longer_one(recommender, k):
    assert recommender.recommend("toy-fan-00", k=k).items == recommender.recommend("toy-fan-00", k=20).items[:k]


@pytest.mark.parametrize("filters", ["category = 'film'", {"category": "film"}])
def test_filters_let_only_their_items_through(recommender, filters):
    found = recommender.recommend("toy-fan-00", k=60, filters=filters)
    assert {name.split("-")[0] for name in found.item_ids} == {"film"}
    assert len(found) == RING + 1


def test_a_filter_takes_items_out_of_a_list_and_changes_nothing_else(recommender):
    for user in EVERYBODY[::7]:
        whole = {item.item_id: item for item in recommender.recommend(user, k=60)}
        film = recommender.recommend(user, k=60, filters="category = 'film'")
        assert film.item_ids == [name for name in whole if name.startswith("film")]
        for item in film:
            assert item.score == pytest.approx(whole[item.item_id].score, rel=1e-5)
            assert item.rerank_score == pytest.approx(whole[item.item_id].rerank_score, abs=1e-4)


def test_a_longer_list_scores_its_items_as_a_shorter_one_does(recommender):
    model = recommender.model
    narrow = replace(recommender, model=replace(model, depths=replace(model.depths, rerank=10, per_source=6)))
    short = {item.item_id: item.score for item in narrow.recommend("toy-fan-00", k=10)}
    long = {item.item_id: item.score for item in narrow.recommend("toy-fan-00", k=40)}
    assert len(long) == 40
    assert {name: long[name] for name in short} == pytest.approx(short, rel=1e-5)


def test_filtered_lists_are_as_long_as_asked_however_rare_the_items(recommender):
    found = recommender.recommend("toy-fan-00", k=4, filters={"colour": "new"})
    assert set(found.item_ids) == {new_item_id(topic) for topic in TOPICS}


def test_everything_filtered_out_gives_an_empty_list(recommender):
    nothing = {"category": "no such category"}
    assert len(recommender.recommend("toy-fan-00", filters=nothing)) == 0
    assert len(recommender.recommend("stranger", filters=nothing)) == 0
    assert len(recommender.recommend_many(["toy-fan-00", "stranger"], filters=nothing)) == 0
    assert len(recommender.search("red cat", filters=nothing)) == 0
    assert len(recommender.similar("toy-00", filters=nothing)) == 0


def test_everything_seen_gives_an_empty_list(recommender):
    assert len(recommender.recommend(history=list(recommender.item_ids.ids), k=5)) == 0


def test_many_lists_are_the_lists_one_by_one(recommender):
    frame = recommender.recommend_many(MANY, k=7)
    assert list(frame.columns) == ["user_id", "item_id", "rank", "score"]
    assert len(frame) == 7 * len(MANY)
    assert frame["user_id"].tolist() == np.repeat(MANY, 7).tolist()
    assert frame["rank"].tolist() == list(range(1, 8)) * len(MANY)
    for place, name in enumerate(MANY):
        mine = frame.iloc[7 * place : 7 * place + 7]
        alone = recommender.recommend(name, k=7)
        assert mine["item_id"].tolist() == alone.item_ids
        np.testing.assert_allclose(mine["score"], [one.score for one in alone], atol=1e-6)


def test_many_histories_are_named_by_their_place_or_by_their_users(recommender):
    histories = [history_of("toy", 1), [], history_of("film", 2)]
    by_place = recommender.recommend_many(histories=histories, k=3)
    assert by_place["user_id"].unique().tolist() == ["0", "1", "2"]
    named = recommender.recommend_many(["a", "b", "c"], histories=histories, k=3)
    assert named["user_id"].unique().tolist() == ["a", "b", "c"]
    pd.testing.assert_frame_equal(named.drop(columns="user_id"), by_place.drop(columns="user_id"))
    assert by_place["item_id"][:3].tolist() == recommender.recommend("toy-fan-01", k=3).item_ids


def test_many_lists_of_nobody_are_an_empty_table(recommender):
    frame = recommender.recommend_many([], k=3)
    assert len(frame) == 0
    assert list(frame.columns) == ["user_id", "item_id", "rank", "score"]


def test_as_many_histories_as_users_are_expected(recommender):
    with pytest.raises(ValueError, match="expected 2 histories, one per user, got 1"):
        recommender.recommend_many(["a", "b"], histories=[[]])
    with pytest.raises(ValueError, match="expected user_ids or histories, got neither"):
        recommender.recommend_many()


def test_answers_are_the_same_every_time(recommender):
    first = recommender.recommend("toy-fan-00", k=10)
    recommender.recommend_many(MANY, k=3)
    recommender.search("red cat")
    assert recommender.recommend("toy-fan-00", k=10) == first


def test_nothing_can_be_changed(recommender):
    with pytest.raises(FrozenInstanceError):
        recommender.users = None
    with pytest.raises(FrozenInstanceError):
        recommender.recommend("toy-fan-00")[0].score = 1.0


def test_a_list_becomes_a_table(recommender):
    found = recommender.recommend("toy-fan-00", k=3)
    frame = found.to_frame()
    assert list(frame.columns) == ["user_id", "item_id", "rank", "score", "title"]
    assert frame["item_id"].tolist() == found.item_ids
    assert frame["user_id"].tolist() == ["toy-fan-00"] * 3


def test_without_a_reranker_lists_are_made_by_stage_one(fitted, unpublished):
    plain = replace(unpublished, model=fitted.model_without_rerank)
    found = plain.recommend("toy-fan-00", k=5)
    assert found[0].item_id == item_id("toy", 5)
    assert all(one.rerank_score is None for one in found)


def test_a_recommender_that_is_loaded_twice_is_one(bundle, recommender):
    again = Recommender.load(str(bundle), device="cpu", precision="float32")
    assert again.recommend("toy-fan-00", k=20) == recommender.recommend("toy-fan-00", k=20)
