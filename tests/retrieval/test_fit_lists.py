"""How often users are dealt into folds for GPT-2's training lists."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retrieval import fit_lists
from retrieval.histories import histories_of


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
