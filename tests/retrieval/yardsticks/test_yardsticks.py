"""Every yardstick learns what it can learn in the world of rings, on the validation that a fit uses."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.data import IdMap, Interactions
from retrieval.evaluate import Trial, make_trial
from retrieval.held_out import hold_out
from retrieval.histories import histories_of
from retrieval.metrics import per_user_metrics
from retrieval.yardsticks import NAMES, Task, fitter, make_task, measure_yardstick
from retrieval.yardsticks import sasrec as sasrec_module
from retrieval.yardsticks.base import rank, sample_validation, validation_ndcg
from retrieval.yardsticks.sasrec import SASRec, SASRecConfig, train_sasrec
from tests.world import tiny_config

# NDCG@10 of popularity is below .3 here. Factors know a user's topic but not the order inside it.
EXPECTED = {
    "neighbours_only": 0.6, "neighbours_tuned": 0.6, "ease_tuned": 0.5, "als": 0.4, "bpr": 0.35, "sasrec": 0.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def trial(interactions) -> Trial:
    return make_trial(interactions, "leave-last-out")


@pytest.fixture(scope="module")
def task(trial, items, encoder) -> Task:
    vectors = encoder.encode([str(title) for title in items.frame["title"]])
    return make_task(trial.train, len(items), tiny_config(), text_vectors=vectors)


@pytest.mark.parametrize("name", NAMES)
def test_a_yardstick_finds_the_ring_or_at_least_the_topic(name, trial, task, monkeypatch):
    if name in ("als", "bpr"):
        pytest.importorskip("implicit")
    monkeypatch.setattr(sasrec_module, "GRID", ((32, 0.1),))
    found = measure_yardstick(fitter(name), task, trial.users, trial.histories, trial.seen)
    ndcg = per_user_metrics(found.rows, trial.targets)["ndcg@10"].mean()
    assert ndcg > EXPECTED[name]
    assert 0 < found.validation_ndcg <= 1
    assert found.fit_seconds > 0
    for line, history in zip(found.rows, trial.histories, strict=True):
        kept = line[line >= 0]
        assert len(np.unique(kept)) == len(kept)
        assert not np.isin(kept, history).any()


def test_validation_is_what_a_fit_holds_out(trial, task):
    base, validation = hold_out(
        histories_of(trial.train), max_users=tiny_config().lists.validation_users, keep_seen=False, seed=0
    )
    assert np.array_equal(task.validation.targets, validation.targets)
    for user, history, row in zip(task.validation.users, validation.histories, range(len(base)), strict=False):
        assert np.array_equal(task.base[user], history)
        assert np.array_equal(task.histories[user], [*history, validation.targets[row]])


def interactions_of(histories: list[np.ndarray], n_items: int) -> Interactions:
    """A table of these histories; users and items are called by their rows."""
    users, items = (IdMap.of([f"{row}" for row in range(n)]) for n in (len(histories), n_items))
    user_rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    times = np.concatenate([np.arange(len(history)) for history in histories]).astype(np.float64)
    return Interactions.of(users, items, user_rows, np.concatenate(histories), times)


def test_a_user_of_one_item_is_ranked_like_any_other():
    """Three of four users took 0 then 1; the fourth took only 0."""
    histories = [np.array([0, 1, 2])] * 6 + [np.array([0])]
    task = make_task(interactions_of(histories, 4), 4, tiny_config())
    found = measure_yardstick(fitter("neighbours_only"), task, np.array([6]), [histories[6]], [histories[6]])
    assert set(found.rows[0, :2]) == {1, 2}
    assert (found.rows[0, 2:] == -1).all()


def test_seen_items_come_again_where_they_may():
    histories = [np.array([0, 1, 0, 1, 0])] * 8
    task = make_task(interactions_of(histories, 3), 3, tiny_config(keep_seen=True))
    assert task.keep_seen
    found = measure_yardstick(fitter("sasrec"), task, np.array([0]), [histories[0]], [np.empty(0, dtype=np.int64)])
    assert set(found.rows[0, :2]) == {0, 1}


def test_equal_scores_are_ranked_by_row_and_the_unknown_left_out():
    scores = np.array([[0.5, -np.inf, 0.5, 0.7]], dtype=np.float32)
    rows = rank(lambda users, histories: scores.copy(), np.array([0]), [np.array([1])], [np.array([3])], 4)
    assert rows[0, :3].tolist() == [0, 2, -1]


def test_validation_figure_by_hand(task):
    """The target of every validation user second: 1 / log2(3)."""

    def score(users: np.ndarray, histories) -> np.ndarray:
        scores = np.zeros((len(users), task.n_items), dtype=np.float32)
        for place, user in enumerate(users):
            target = task.histories[user][-1]
            scores[place, target] = 1.0
            others = np.setdiff1d(np.arange(task.n_items), task.histories[user])
            scores[place, others[0]] = 2.0
        return scores

    assert validation_ndcg(score, task) == pytest.approx(1 / np.log2(3))


def test_a_sample_of_validation_keeps_users_and_targets_together(task):
    fewer = sample_validation(task, 10)
    assert len(fewer.validation.targets) == len(fewer.validation.users) == 10
    for user, target in zip(fewer.validation.users, fewer.validation.targets, strict=True):
        assert task.histories[user][-1] == target
    assert sample_validation(task, 10_000) is task


def test_sasrec_sees_no_later_item_and_no_padding():
    import torch

    torch.manual_seed(0)
    model = SASRec(20, SASRecConfig(dim=16, history_items=8)).eval()
    rows, lengths = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([4, 2])
    states = model(rows, lengths)
    changed = model(torch.tensor([[1, 2, 3, 9], [5, 6, 7, 7]]), lengths)
    torch.testing.assert_close(states[0, :3], changed[0, :3])
    torch.testing.assert_close(states[1, :2], changed[1, :2])
    torch.testing.assert_close(states[1, :2], model(rows[1:, :2], lengths[1:])[0], atol=1e-5, rtol=1e-4)


def test_sasrec_is_the_same_for_the_same_seed_and_leaves_the_callers_numbers_alone():
    import torch

    histories = [np.array([0, 1, 2, 3])] * 10
    state = torch.get_rng_state()
    config = SASRecConfig(dim=16)
    first, second = (train_sasrec(histories, 5, config, seed=3, rounds=2)[0] for _ in range(2))
    torch.testing.assert_close(first.items.weight, second.items.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_sasrec_learns_from_sampled_items_too(monkeypatch):
    monkeypatch.setattr(sasrec_module, "FULL_SOFTMAX_ITEMS", 10)
    monkeypatch.setattr(sasrec_module, "SAMPLED_ITEMS", 8)
    histories = [np.arange(start, start + 6) % 30 for start in range(30)] * 4
    model, _, _ = train_sasrec(histories, 30, SASRecConfig(dim=32, dropout=0.0), seed=0, rounds=60)
    scores = sasrec_module._scorer(model)(np.arange(30), [np.array([start]) for start in range(30)])
    assert (scores.argmax(axis=1) == (np.arange(30) + 1) % 30).mean() > 0.9


def test_text_is_asked_for_where_it_is_read(task):
    from dataclasses import replace

    with pytest.raises(ValueError, match="expected text vectors in the task, got None"):
        fitter("neighbours_tuned")(replace(task, text_vectors=None))


def test_an_unknown_yardstick_is_refused():
    with pytest.raises(ValueError, match=r"expected some of neighbours_only, .* got 'magic'"):
        fitter("magic")
