"""Holding out by the clock: what is held out, what stands behind the lists, and the source that knows the season."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from retrieval import fit_steps
from retrieval.candidates import feature_names, gather_candidates
from retrieval.data import IdMap, Impressions, Interactions, time_split
from retrieval.encoder.steps import later_places, pad_histories
from retrieval.evaluate import validated_as
from retrieval.fit import fit
from retrieval.fusion import FusionLists
from retrieval.held_out import held_out_of, hold_out_later, stopping_users
from retrieval.histories import Timeline, histories_of
from retrieval.moments import MOMENT_SHARE, earlier_moments, rolling_lists
from retrieval.new_items import World
from retrieval.recommend import Recommender
from retrieval.sources import PopularSource, Queries, RecentSource
from retrieval.sources.recent import recent_counts
from retrieval.stage_one import Validation
from retrieval.storage import load_bundle, save_bundle
from retrieval.update import replace_catalogue
from tests.world import make_items, tiny_config

MOMENT = 100.0


def table(*taken: tuple[int, int, float], n_items: int = 40, negatives: Impressions | None = None) -> Interactions:
    """A table of (user, item, time); every user from 0 to the highest is known."""
    users, items, times = (np.array(column) for column in zip(*taken, strict=True))
    ids = IdMap.of([f"u{row}" for row in range(int(users.max()) + 1)]), IdMap.of([f"i{row}" for row in range(n_items)])
    return Interactions.of(*ids, users, items, times.astype(np.float64), negatives=negatives)


def early(n: int) -> list[tuple[int, int, float]]:
    """n interactions of user 0 before the moment, of items 0, 1, ..."""
    return [(0, item, float(item)) for item in range(n)]


def test_what_is_taken_after_the_moment_is_held_out():
    """36 of 40 lie before it: user 0 comes back for four items, one of them seen; user 1 comes only then."""
    late = [(0, 38, MOMENT), (0, 39, 101.0), (0, 3, 102.0), (1, 5, 103.0)]
    held = hold_out_later(table(*early(36), *late), max_users=9, keep_seen=False, seed=0)
    assert [history.tolist() for history in held.base] == [list(range(36)), []]
    assert sorted(held.validation.targets.tolist()) == [38, 39]
    assert held.validation.users.tolist() == [0, 0]
    assert all(history.tolist() == list(range(36)) for history in held.validation.histories)
    assert held.by_time is not None
    assert held.by_time.items.tolist() == list(range(36))
    again = hold_out_later(table(*early(36), *late), max_users=9, keep_seen=True, seed=0)
    assert sorted(again.validation.targets.tolist()) == [3, 38, 39]


def test_a_user_has_five_targets_at_the_most_and_users_are_cut_at_random():
    taken = [*early(36), *((user, 36, 50.0 + user) for user in range(1, 19)), *((0, 37 - i, MOMENT) for i in range(2))]
    many = [(1, item, MOMENT) for item in range(10)]
    held = hold_out_later(table(*taken, *many[:6], n_items=60), max_users=99, keep_seen=False, seed=0)
    counts = np.bincount(held.validation.users)
    assert counts[1] == 5
    assert counts.sum() == len(held.validation.targets) == len(held.validation.histories)
    assert set(held.validation.targets[held.validation.users == 1]) < set(range(6))
    # The fusions are asked of everything that a user took.
    assert [len(taken) for taken in held.asked.taken] == [2, 6]
    assert held.asked.users.tolist() == [0, 1]
    assert len(hold_out_later(table(*taken, *many[:6]), max_users=3, keep_seen=False, seed=0).validation.targets) == 3


def test_nobody_who_comes_back_is_refused():
    with pytest.raises(ValueError, match=r"no user has interactions both before and after .*lists.validation=last"):
        hold_out_later(
            table(*early(36), *((1, item, MOMENT) for item in range(4))), max_users=9, keep_seen=True, seed=0
        )


def test_the_configuration_says_what_is_held_out(interactions):
    last = held_out_of(interactions, tiny_config())
    assert last.by_time is None
    assert last.earlier is None
    assert len(last.validation.targets) == interactions.n_users
    by_time = held_out_of(interactions, tiny_config(lists={"validation": "time"}))
    assert by_time.earlier is not None
    assert len(by_time.earlier) == sum(len(history) for history in by_time.base) == len(time_split(interactions).train)


@pytest.mark.parametrize(
    ("configured", "split", "expected"),
    [
        ("auto", "time", "time"),
        ("auto", "leave-last-out", "last"),
        ("last", "time", "last"),
        ("time", "leave-last-out", "time"),
    ],
)
def test_a_fit_that_is_measured_chooses_by_what_it_is_asked(configured, split, expected):
    assert validated_as(tiny_config(lists={"validation": configured}), split).lists.validation == expected


def test_all_rows_of_a_user_are_in_one_part_and_one_fold():
    users = np.repeat(np.arange(30), 5)
    taken = [np.array([row]) for row in range(150)]
    validation = Validation([np.array([user]) for user in users], taken, False, users)
    stop = stopping_users(validation, share=0.25, seed=0)
    first, second = (part.validation for part in World((), validation, np.ones(150, dtype=bool)).parted(stop))
    assert not set(first.users) & set(second.users)
    assert len(first.targets) == 5 * round(0.25 * 30)
    assert sorted([*first.targets, *second.targets]) == list(range(150))
    empty = np.zeros((150, 1, 1), np.float32), np.zeros((150, 1), np.int64), np.zeros((150, 1), np.int64)
    fold = FusionLists.of(*empty, np.zeros((150, 1), np.float32), users).folds(4, 0)
    assert all(len(set(fold[users == user])) == 1 for user in range(30))
    assert sorted(np.bincount(fold)) == [35, 35, 40, 40]


def test_a_later_item_is_any_of_those_after_it():
    histories = [np.arange(10, 16), np.arange(20, 23)]
    padded = pad_histories(histories, 6)
    seen: dict[int, set[int]] = {}
    rng = np.random.default_rng(0)
    for _ in range(200):
        places = later_places((padded >= 0).numpy(), rng)
        assert places.shape == (2, 5)
        targets = np.take_along_axis(padded.numpy(), places, axis=1)
        for item, target in zip(padded[:, :-1].ravel().tolist(), targets.ravel().tolist(), strict=True):
            if item >= 0:
                seen.setdefault(item, set()).add(target)
    assert seen == {item: set(range(item + 1, 16 if item < 16 else 23)) for item in [*range(10, 15), 20, 21]}
    one, same = (later_places((padded >= 0).numpy(), np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_a_share_of_all_interactions_halves_what_one_counts():
    """Ten interactions, a share of three tenths: the newest counts 1, the one three places before it a half."""
    source = RecentSource.fit(np.array([2, 2, 2, 2, 2, 2, 1, 2, 2, 0]), 4, share=0.3)
    assert np.expm1(source.scores[[0, 1, 3]]) == pytest.approx([1.0, 0.5, 0.0])
    found = source.scan(Queries((np.array([0]),), (np.array([2]),), ("",))).top(2)
    assert found.rows.tolist() == [[0, 1]]


def test_how_popular_a_new_item_is_of_late_nobody_knows():
    sources = PopularSource(np.array([5, 3, 1, 0])), RecentSource(np.array([2, 1, 0.5, 0], dtype=np.float32))
    found = gather_candidates(sources, Queries((np.array([0]),), (np.array([], dtype=np.int64),), ("",)), per_source=4)
    features = dict(zip(feature_names(sources), found.features[0].T, strict=True))
    for name in ("popular_score", "popular_rank", "recent_score", "recent_rank"):
        assert features[name][3] == pytest.approx(features[name][:3].mean(), abs=1e-6)


@pytest.fixture(scope="module")
def by_time(items, interactions, encoder) -> Recommender:
    config = tiny_config(lists={"validation": "time", "max_lists": 48})
    fitted = fit(items, interactions, config, encoder=encoder)
    assert fitted.model.reranker is not None
    assert fitted.record["n_validation_users"] == len(time_split(interactions).test_users)
    return Recommender.of(fitted.model, interactions, config, fitted.settings)


def test_earlier_moments_ask_as_far_ahead_as_validation(items, interactions, encoder, monkeypatch):
    told = []

    def watched(*arguments, ahead, **options):
        told.append(ahead)
        return earlier_moments(*arguments, ahead=ahead, **options)

    monkeypatch.setattr("retrieval.fit.earlier_moments", watched)
    config = tiny_config(lists={"validation": "time"}, use_reranker=False)
    fit(items, interactions, config, encoder=encoder)
    assert told == [interactions.times.max() - time_split(interactions).moment]


def test_coarse_times_have_fewer_moments(interactions, by_time):
    """Four fifths lie at one time: nothing lies before that, so one earlier moment is all there is."""
    times = (interactions.times >= np.quantile(interactions.times, 0.8)).astype(np.float64)
    coarse = replace(interactions, times=times)
    config, model = tiny_config(lists={"validation": "time"}), by_time.model
    moments = earlier_moments(model.catalogue, coarse, by_time.settings, config, space=model.trained_vectors)
    assert [len(moment.world.validation) > 0 for moment in moments] == [True]
    with pytest.raises(ValueError, match="before and after"):
        time_split(time_split(coarse).train)


def test_a_fit_by_time_without_an_earlier_moment_goes_without_gpt_2(items, interactions, encoder):
    times = (interactions.times >= np.quantile(interactions.times, 0.85)).astype(np.float64)
    said: list[str] = []
    coarse, config = replace(interactions, times=times), tiny_config(lists={"validation": "time"})
    fitted = fit(items, coarse, config, encoder=encoder, say=said.append)
    assert fitted.model.reranker is None
    assert any("without GPT-2 stands" in line for line in said)
    assert len(Recommender.of(fitted.model, coarse, config, fitted.settings).recommend("toy-fan-00", k=5)) == 5


@pytest.mark.parametrize("share", [None, 0.1])
def test_a_moment_asks_for_what_follows_which_its_sources_never_saw(interactions, by_time, monkeypatch, share):
    whole, asked = histories_of(interactions), []
    ahead = np.inf if share is None else share * float(np.ptp(interactions.times))

    def watched(catalogue, histories, *arguments, by_time, **options):
        asked.append((histories, by_time.items))
        return real_sources(catalogue, histories, *arguments, by_time=by_time, **options)

    real_sources = fit_steps.sources_on
    monkeypatch.setattr(fit_steps, "sources_on", watched)
    config, model = tiny_config(lists={"validation": "time"}), by_time.model
    space = model.trained_vectors
    moments = earlier_moments(model.catalogue, interactions, by_time.settings, config, space=space, ahead=ahead)
    assert len(moments) == len(asked) == config.lists.moments
    ends = [len(interactions), *(len(order) for _, order in asked)]
    assert all(after < before for before, after in pairwise(ends))
    assert ends[1] <= MOMENT_SHARE * len(interactions)
    clock = np.append(np.sort(interactions.times), np.inf)
    for number, (histories, order) in enumerate(asked):
        start = clock[ends[number + 1]]
        assert order.tolist() == Timeline.of(interactions).items[: len(order)].tolist()
        for user, history in enumerate(histories):
            own = slice(interactions.offsets[user], interactions.offsets[user + 1])
            assert history.tolist() == whole[user][: (interactions.times[own] < start).sum()].tolist()
        follows = {}
        for user, history in enumerate(histories):
            own = slice(interactions.offsets[user], interactions.offsets[user + 1])
            asks = (interactions.times[own] >= start) & (interactions.times[own] <= moments[number].at + ahead)
            later = set(whole[user][asks].tolist()) - set(history.tolist())
            follows.setdefault(tuple(history.tolist()), []).append(later)
        validation = moments[number].world.validation
        assert len(validation)
        for history, targets in zip(validation.histories, validation.taken, strict=True):
            assert len(targets)
            assert set(targets.tolist()) in follows[tuple(history.tolist())]
    lists = rolling_lists(moments, interactions, model, config)
    assert lists
    assert all(item.labels.sum() > 0 for item in lists)


def recent_of(recommender: Recommender) -> RecentSource:
    return next(source for source in recommender.model.sources if isinstance(source, RecentSource))


def test_a_fit_by_time_knows_what_is_taken_of_late(by_time, interactions, fitted):
    share = by_time.settings.recent_share
    expected = recent_counts(Timeline.of(interactions).items, by_time.model.catalogue.n_items, share=share)
    np.testing.assert_allclose(recent_of(by_time).scores, np.log1p(expected), rtol=1e-5)
    assert not any(isinstance(source, RecentSource) for source in fitted.model.sources)
    found = by_time.recommend(by_time.users.ids[0], k=20, explain=True)
    assert any("popular items of late" in reason for item in found for reason in item.reasons)


def test_a_bundle_keeps_what_is_taken_of_late(by_time, tmp_path):
    save_bundle(tmp_path, by_time)
    loaded = load_bundle(tmp_path, device="cpu")
    np.testing.assert_array_equal(recent_of(loaded).scores, recent_of(by_time).scores)
    users = by_time.users.ids[:5]
    for user in users:
        assert [item.item_id for item in loaded.recommend(user)] == [item.item_id for item in by_time.recommend(user)]


def test_a_new_catalogue_keeps_what_is_taken_of_late(by_time):
    frame = by_time.model.catalogue.items.frame.iloc[::-1].reset_index(drop=True)
    frame.loc[len(frame)] = {**frame.iloc[0].to_dict(), "item_id": "brand-new", "title": "brand new"}
    changed = replace_catalogue(by_time, make_items(frame))
    scores = recent_of(by_time).scores
    np.testing.assert_array_equal(recent_of(changed).scores, [*scores[::-1], 0.0])


def test_positions_are_no_clock():
    histories = [(user, item, float(item)) for user in range(9) for item in range(4)]
    with pytest.raises(ValueError, match="times that all users share"):
        hold_out_later(replace(table(*histories), time_kind="positions"), max_users=9, keep_seen=False, seed=0)


def test_single_items_are_drawn_from_what_was_taken():
    taken = [np.arange(10), np.array([3]), np.array([7, 8])]
    visits = np.array([[0.5, 9.0], [1.5, 8.0], [2.5, 7.0]])
    asked = Validation([np.array([user]) for user in range(3)], taken, False, np.arange(3), visits)
    single = asked.single(2, seed=0)
    assert single.users.tolist() == [0, 0, 1, 2, 2]
    assert single.visits is not None
    assert single.visits.tolist() == visits[[0, 0, 1, 2, 2]].tolist()
    assert len(set(single.targets[:2])) == 2
    assert single.targets[2] == 3
    assert sorted(single.targets[3:]) == [7, 8]
    assert [int(history[0]) for history in single.histories] == single.users.tolist()
    with pytest.raises(ValueError, match="expected one item after each history, got several"):
        _ = asked.targets
