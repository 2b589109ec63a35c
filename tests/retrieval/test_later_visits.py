"""By time a head learns what is taken on later visits, not what follows in the same one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval.encoder import train as training_of_heads
from retrieval.encoder.head_config import HeadConfig, HeadTraining
from retrieval.encoder.seasons import Timing
from retrieval.encoder.steps import later_places, windows, windows_of_places
from retrieval.encoder.train import embed_items, embed_users, train_head
from retrieval.fit import fit
from retrieval.histories import Timeline, first_apart
from tests.retrieval.test_heads import random_rows
from tests.retrieval.test_held_out import table
from tests.world import tiny_config


def test_a_visit_later_is_a_thousandth_of_the_time_the_table_spans():
    """It spans 1,000: at 0.5 and at 1 user 0 is still there, at 1.01 again; user 1 never comes back."""
    some = table((0, 1, 0.0), (0, 2, 0.5), (0, 3, 1.0), (0, 4, 1.01), (0, 5, 900.0), (2, 6, 999.0), (2, 7, 1000.0))
    found = [places.tolist() for places in first_apart(some)]
    assert found == [[3, 4, 4, 4, 5], [], [2, 2]]
    days = replace(some, times=some.times * 86_400 + 1e9)
    assert [places.tolist() for places in first_apart(days)] == found
    assert [places.tolist() for places in Timeline.of(some).apart] == found
    nobody = first_apart(some.take(np.empty(0, dtype=np.int64)))
    assert [len(places) for places in nobody] == [0, 0, 0]


def drawn(first: list[list[int]], *, near: float, rounds: int = 300) -> dict[int, set[int]]:
    """The items at the places drawn for each place of the history 10, 11, 12, 13, behind one place of padding."""
    padded = np.array([[-1, 10, 11, 12, 13]])
    rng, seen = np.random.default_rng(0), dict[int, set[int]]()
    for _ in range(rounds):
        places = later_places(padded >= 0, rng, np.array(first), near=near)
        for item, place in zip(padded[0, :-1].tolist(), places[0].tolist(), strict=True):
            seen.setdefault(item, set()).add(-1 if place < 0 else int(padded[0, place]))
    del seen[-1]
    return seen


def test_only_later_visits_are_drawn_where_there_are_some():
    first = [[5, 3, 4, 5]]
    assert drawn(first, near=1.0) == {10: {12, 13}, 11: {13}, 12: {13}}
    assert drawn(first, near=0.0) == {10: {12, 13}, 11: {13}, 12: {-1}}
    assert drawn(first, near=0.5) == {10: {12, 13}, 11: {13}, 12: {-1, 13}}


def test_where_nobody_comes_back_any_later_item_is_drawn():
    """A step needs something to learn from."""
    assert drawn([[5, 5, 5, 5]], near=0.0) == {10: {11, 12, 13}, 11: {12, 13}, 12: {13}}


def test_places_are_cut_as_the_histories_are():
    history, apart = np.arange(10, 17), np.array([2, 2, 4, 4, 6, 6, 7])
    pieces, places = windows([history], 3, 9), windows_of_places([apart], 3, 9)
    assert [piece.tolist() for piece in pieces] == [[13, 14, 15, 16], [10, 11, 12, 13]]
    assert [own.tolist() for own in places] == [[1, 3, 3, 4], [2, 2, 4, 4]]
    assert windows_of_places([np.array([1]), np.empty(0, np.int64)], 3, 9) == []


# On the first visit 0 and then 1, on the second one of five others.
VISITS = [np.array([0, 1, 2 + user % 5]) for user in range(40)]
APART = [np.array([2, 2, 3])] * 40


def nearest(apart: list[np.ndarray] | None) -> int:
    """The item besides 0 that lies nearest to a user who took 0, by a head that learned from VISITS."""
    training = HeadTraining(batch_positions=32, learning_rate=0.01, warmup_steps=5, later=True, near=0.0)
    config = HeadConfig(dim=16, n_layers=1, n_heads=2, history_items=6)
    vectors = random_rows(7, 8)
    trained = train_head(
        VISITS, vectors, config=config, training=training, passes=25, timing=Timing(apart), device="cpu"
    )
    found = embed_items(trained.head, vectors)
    return 1 + int((embed_users(trained.head, found, [np.array([0])]) @ found[1:].T).argmax())


def test_one_stray_time_makes_no_visit_longer():
    """A thousand interactions, an hour apart, and one of the year 1970."""
    taken = [(user, user % 7, 1e9 + 3600.0 * user) for user in range(1_000)] + [(0, 3, 1e9 + 36_000.0)]
    usual = first_apart(table(*taken))
    assert [one.tolist() for one in first_apart(table(*taken, (5, 1, 0.0)))][:5] == [one.tolist() for one in usual][:5]


def test_a_head_learns_what_people_come_back_for():
    assert nearest(None) == 1
    assert nearest(APART) > 1


@pytest.mark.parametrize(("validation", "visits_help"), [("time", True), ("time", False), ("last", True)])
def test_validation_says_whether_the_models_of_a_fit_learn_of_later_visits(
    items, interactions, encoder, monkeypatch, validation, visits_help
):
    told: list[tuple[list[int], list[int] | None]] = []
    taste: list[bool] = []
    real = training_of_heads.train_next_item

    def watched(make, histories, *arguments, timing=None, **options):
        apart = timing and timing.apart
        told.append(([len(one) for one in histories], None if apart is None else [len(one) for one in apart]))
        taste.append(timing is not None and timing.seasons is not None and options.get("validation") is None)
        trained = real(make, histories, *arguments, timing=timing, **options)
        for record in trained.curve:
            if "ndcg@10" in record:
                record["ndcg@10"] += 9.0 * ((apart is not None) == visits_help)
        return trained

    monkeypatch.setattr(training_of_heads, "train_next_item", watched)
    monkeypatch.setattr("retrieval.fit_reranker.train_next_item", watched)
    config = tiny_config(lists={"validation": validation, "max_lists": 48})
    settings = fit(items, interactions, config, encoder=encoder).settings
    if validation == "last":
        assert [visits for _, visits in told] == [None] * len(told)
        return
    (lengths, first), (_, second), *others = told
    assert (first, second) == (lengths, None)
    assert settings.later_visits == visits_help
    assert len(others) > 3
    assert all(visits in (None, lengths) for lengths, visits in others)
    # Recall heads, `taste` and history models learn what validation preferred, `second`, after each taste, the other.
    preferred = [(visits is not None) == visits_help for _, visits in others]
    assert preferred == [not after_taste for after_taste in taste[1:-1]]
