"""How often users are dealt into folds for GPT-2's training lists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval import fit_lists
from retrieval.histories import histories_of
from retrieval.rerank_lists import Position


@pytest.mark.parametrize(("max_lists", "rounds"), [(96, 1), (100_000, 3)])
def test_users_are_dealt_into_other_folds_as_long_as_lists_are_few(
    max_lists, rounds, interactions, fitted, config, monkeypatch
):
    left_out: list[set[int]] = []
    real = fit_lists.sources_in_space

    def watched(catalogue, histories, *args, **kwargs):
        left_out.append({user for user, history in enumerate(histories) if not len(history)})
        return real(catalogue, histories, *args, **kwargs)

    monkeypatch.setattr(fit_lists, "sources_in_space", watched)
    some = replace(config, lists=replace(config.lists, rounds=3, max_lists=max_lists))
    made = fit_lists.cross_fitted_lists(histories_of(interactions), None, fitted.model, fitted.settings, some)
    n_folds = config.lists.folds
    assert len(left_out) == rounds * n_folds
    for start in range(0, len(left_out), n_folds):  # in every round each user is left out once
        parts = left_out[start : start + n_folds]
        assert sorted(user for users in parts for user in users) == list(range(interactions.n_users))
    assert len({frozenset(users) for users in left_out}) == len(left_out)
    if rounds == 1:
        assert 2 * len(made) >= max_lists
    else:
        assert len(made) > config.lists.per_user * interactions.n_users  # more than one round can give


def test_a_fold_whose_sources_would_have_nothing_to_learn_from_is_passed_over(fitted, config, monkeypatch):
    """One user took several items: the fold of that one leaves nobody to learn from."""
    learned: list[int] = []

    def watched(catalogue, histories, *args, **kwargs):
        learned.append(max(map(len, histories)))
        return fitted.model.sources

    monkeypatch.setattr(fit_lists, "sources_in_space", watched)
    histories = [np.arange(8), *(np.array([row]) for row in range(8, 20))]
    some = replace(config, lists=replace(config.lists, rounds=1, new_items=0.0))
    fit_lists.cross_fitted_lists(histories, None, fitted.model, fitted.settings, some)
    assert learned == [8] * (config.lists.folds - 1)


@pytest.mark.parametrize(("max_lists", "expected"), [(96, 2), (288, 6), (100_000, 8)])
def test_users_who_are_few_give_more_positions_each(max_lists, expected, interactions, fitted, config, monkeypatch):
    """Two positions of each of 96 users, unless twice as many positions as lists are wanted; never above four times."""
    asked: list[int] = []

    def watched(histories, users, *, per_user, **options):
        asked.append(per_user)
        return []

    monkeypatch.setattr(fit_lists, "choose_positions", watched)
    monkeypatch.setattr(fit_lists, "sources_in_space", lambda *args, **kwargs: fitted.model.sources)
    some = replace(config, lists=replace(config.lists, rounds=1, max_lists=max_lists))
    assert config.lists.per_user == 2
    fit_lists.cross_fitted_lists(histories_of(interactions), None, fitted.model, fitted.settings, some)
    assert asked == [expected] * config.lists.folds


def test_lists_that_are_too_many_are_left_out_in_no_order_of_users(interactions, fitted, config, monkeypatch):
    """Of 96 users 24 are read, and the first of them are not the first users."""
    read: list[int] = []

    def watched(catalogue, sources, fusion, positions, **options):
        read.extend(int(position.targets[0]) for position in positions)
        return []

    monkeypatch.setattr(fit_lists, "make_lists", watched)
    some = replace(config, lists=replace(config.lists, max_lists=16))
    positions = [Position(np.array([0]), np.array([user]), np.empty(0, np.int64)) for user in range(96)]
    rng, allowed = np.random.default_rng(0), np.ones(52, dtype=bool)
    fit_lists.lists_at(fitted.model.sources, positions, allowed, fitted.model, some, rng, None, n_parts=2)
    assert len(set(read)) == len(read) == 24
    assert read != sorted(read)
    assert max(read[:12]) > 48
