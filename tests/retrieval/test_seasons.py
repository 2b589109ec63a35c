"""What a head that knows of seasons learns, and the sources that ask further heads: `taste` and `second`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from retrieval.encoder import steps
from retrieval.encoder.head_config import HeadConfig, HeadTraining
from retrieval.encoder.seasons import Seasons, Timing
from retrieval.encoder.train import embed_items, embed_users, train_head
from retrieval.fit_steps import seasons_of, timing_of, train_recall_head
from retrieval.histories import Timeline, histories_of
from retrieval.recommend import Recommender
from retrieval.sources import HeadSource, Queries
from retrieval.storage import load_bundle, save_bundle
from retrieval.update import replace_catalogue
from tests.retrieval.test_heads import random_rows
from tests.retrieval.test_held_out import table
from tests.world import item_id, make_items

CONFIG = HeadConfig(dim=16, n_layers=1, n_heads=2, history_items=6, dropout=0.0, residual_dropout=0.0)


def test_shares_are_those_of_each_era_and_of_late():
    """Item 0 is taken three times in the first era, item 1 once in the second, item 2 never."""
    found = Seasons.of(
        [np.array([0, 0]), np.array([0, 1])], [np.array([0, 0]), np.array([0, 1])], np.array([0, 0.7, 0])
    )
    # Half of what was ever taken is spread over both eras, and every item has a tenth of an interaction.
    expected = np.log([[3 + 0.75 + 0.1, 0.25 + 0.1, 0.1], [0.75 + 0.1, 1 + 0.25 + 0.1, 0.1]])
    np.testing.assert_allclose(np.diff(found.popularity, axis=1), np.diff(expected, axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.diff(found.popularity, axis=0), np.diff(expected, axis=0), rtol=1e-5)
    assert found.popularity[:, :2].mean() == pytest.approx(0, abs=1e-6)
    assert found.now[1] - found.now[0] == pytest.approx(np.log(1.0 / 0.3), rel=1e-5)
    assert found.now[0] + found.now[1] == pytest.approx(0, abs=1e-6)
    assert found.now[2] == 0  # as the average item that somebody took


def test_without_anything_taken_there_is_one_era_that_says_nothing():
    found = Seasons.of([], [], np.zeros(3))
    assert found.popularity.shape == (1, 3)
    assert not found.now.any()


def test_a_timeline_knows_the_era_of_every_interaction():
    """64 seconds are 32 eras of two; at one time there is only one."""
    rows = [(second % 3, second % 5, float(second)) for second in range(64)]
    line = Timeline.of(table(*rows))
    assert [eras.tolist() for eras in line.eras] == [
        [second // 2 for second in range(user, 64, 3)] for user in range(3)
    ]
    assert not np.concatenate(Timeline.of(table(*((u, i, 5.0) for u, i, _ in rows))).eras).any()


@pytest.mark.parametrize("sampled", [False, True])
def test_a_step_is_told_the_popularity_of_the_targets_era(sampled, monkeypatch):
    """Against cross-entropy of the model's logits and the era's, written out; all items are in the sample."""
    n_items, generator = 5, torch.Generator().manual_seed(0)
    if sampled:
        monkeypatch.setattr(steps, "FULL_SOFTMAX_ITEMS", 1)
        monkeypatch.setattr(steps, "_SAMPLED_ITEMS", n_items)
    head = steps.RecallHead(CONFIG, text_dim=4, n_items=n_items).eval()
    text, popularity = torch.randn(n_items, 4, generator=generator), torch.randn(3, n_items, generator=generator)
    inputs, targets = torch.tensor([[-1, 0, 1], [2, 3, 4]]), torch.tensor([[-1, 1, 2], [3, -1, 0]])
    eras = torch.tensor([[-1, 0, 2], [1, -1, 2]])
    loss = steps._loss(
        head, text, torch.arange(n_items), inputs, targets, np.random.default_rng(0), 0.0, (eras, popularity)
    )
    items = head.item_vectors(text, torch.arange(n_items))
    users = head.states(items[inputs.clamp_min(0)], inputs < 0)[targets >= 0]
    logits = users @ items.T * head.log_scale.exp() + popularity[eras[targets >= 0]]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, targets[targets >= 0]))


# Those who begin with 0 like 2, those who begin with 1 like 3; but while it is the season of 4 most take that.
SEASON = np.arange(40) % 8 < 6
HISTORIES = [np.array([user % 2, 4 if SEASON[user] else 2 + user % 2]) for user in range(40)]
ERAS = [np.full(2, int(season)) for season in SEASON]


def best_after(first: int, *, seasons: Seasons | None, now: np.ndarray | None = None) -> int:
    training = HeadTraining(batch_positions=40, learning_rate=0.01, warmup_steps=5, label_smoothing=0.0)
    vectors = random_rows(5, 8)
    trained = train_head(
        HISTORIES, vectors, config=CONFIG, training=training, passes=60, timing=Timing(seasons=seasons), device="cpu"
    )
    items = embed_items(trained.head, vectors)
    logits = embed_users(trained.head, items, [np.array([first])]) @ items.T * trained.head.log_scale.exp().item()
    return 2 + int((logits[0] + (0 if now is None else now))[2:].argmax())


def test_a_head_that_knows_of_seasons_learns_what_each_user_likes_in_any():
    seasons = Seasons.of(HISTORIES, ERAS, np.array([1.0, 1.0, 8.0, 8.0, 0.0]))
    assert [best_after(first, seasons=None) for first in (0, 1)] == [4, 4]
    assert [best_after(first, seasons=seasons, now=seasons.now) for first in (0, 1)] == [2, 3]
    back = Seasons.of(HISTORIES, ERAS, np.array([1.0, 1.0, 0.1, 0.1, 90.0]))
    assert [best_after(first, seasons=back, now=back.now) for first in (0, 1)] == [4, 4]


def test_validation_asks_beside_the_popularity_of_today():
    now = np.array([0, 0, 0, 0, 99.0])
    seasons = Seasons(ERAS, np.zeros((2, 5), np.float32), now.astype(np.float32))
    asked = ([np.array([0])] * 3, np.array([4, 4, 4]))
    training = HeadTraining(max_passes=1, batch_positions=40)
    trained = train_head(
        HISTORIES,
        random_rows(5, 8),
        config=CONFIG,
        training=training,
        validation=asked,
        timing=Timing(seasons=seasons),
        keep_seen=True,
        device="cpu",
    )
    assert trained.curve[0]["ndcg@10"] == 1


FURTHER = ("taste", "second")


def further(recommender: Recommender, name: str) -> HeadSource:
    sources = [source for source in recommender.model.sources if isinstance(source, HeadSource)]
    assert [source.name for source in sources] == list(FURTHER)
    return sources[FURTHER.index(name)]


def test_a_fit_by_time_has_them_and_a_fit_by_the_newest_item_has_not(by_time, interactions, fitted):
    histories, line = histories_of(interactions), Timeline.of(interactions)
    seasons = seasons_of(histories, line, by_time.settings, interactions.n_items)
    np.testing.assert_array_equal(further(by_time, "taste").beside, seasons.now)
    assert not further(by_time, "second").beside.any()
    names = by_time.model.recall_fusion.names
    assert {f"{start}{name}{end}" for name in FURTHER for start, end in (("", "_score"), ("new_", ""))} <= set(names)
    assert not any(isinstance(source, HeadSource) for source in fitted.model.sources)


def test_one_learns_beside_seasons_and_one_of_the_other_later_items(by_time, interactions):
    histories, line, settings = histories_of(interactions), Timeline.of(interactions), by_time.settings
    catalogue, taken = by_time.model.catalogue, ~by_time.model.popular.untaken
    other = replace(settings, later_visits=not settings.later_visits)

    def vectors(timing: Timing) -> np.ndarray:
        passes = settings.head_passes
        head = train_recall_head(catalogue, histories, by_time.config, passes=passes, timing=timing).head
        return embed_items(head, catalogue.text_vectors)[taken]

    seasons = seasons_of(histories, line, settings, interactions.n_items)
    beside, second = vectors(timing_of(line, settings, seasons)), vectors(timing_of(line, other))
    np.testing.assert_allclose(further(by_time, "taste").item_vectors[taken], beside, atol=1e-5)
    np.testing.assert_allclose(further(by_time, "second").item_vectors[taken], second, atol=1e-5)
    alike = vectors(timing_of(line, settings))
    assert min(np.abs(alike - beside).max(), np.abs(alike - second).max()) > 1e-3


@pytest.mark.parametrize("name", FURTHER)
def test_scores_are_log_odds_above_the_average_item(by_time, name):
    source, history = further(by_time, name), np.array([3, 5])
    nobody = np.empty(0, dtype=np.int64)
    scan = source.scan(Queries((history, nobody), (history, nobody), ("", "")))
    every = np.tile(np.arange(len(source.beside)), (2, 1))
    user = embed_users(source.head, source.item_vectors, [history])[0] * source.head.log_scale.exp().item()
    logits = source.item_vectors @ user + source.beside
    np.testing.assert_allclose(scan.at(every)[0], logits - logits.mean(), atol=1e-4)
    assert not scan.at(every)[1].any()
    found = scan.top(4).rows
    assert found[1].tolist() == [-1] * 4
    assert not set(found[0]) & {3, 5}
    assert list(found[0]) == [row for row in np.argsort(-logits) if row not in (3, 5)][:4]


def test_a_bundle_keeps_them(by_time, tmp_path):
    save_bundle(tmp_path, by_time)
    loaded = load_bundle(tmp_path, device="cpu")
    for own, kept in ((further(by_time, name), further(loaded, name)) for name in FURTHER):
        np.testing.assert_array_equal(kept.item_vectors, own.item_vectors)
        np.testing.assert_array_equal(kept.beside, own.beside)
    for user in by_time.users.ids[:5]:
        assert loaded.recommend(user).item_ids == by_time.recommend(user).item_ids


@pytest.mark.parametrize("name", FURTHER)
def test_a_new_catalogue_keeps_them_and_places_new_items(by_time, name):
    frame = by_time.model.catalogue.items.frame.iloc[::-1].reset_index(drop=True)
    frame = frame.assign(item_id=frame["item_id"].replace(item_id("toy", 0), "brand-new"))
    changed = replace_catalogue(by_time, make_items(frame))
    own, moved = further(by_time, name), further(changed, name)
    new = int(changed.item_ids.to_rows(["brand-new"])[0])
    others = np.arange(len(frame)) != new
    np.testing.assert_array_equal(moved.beside[others], own.beside[::-1][others])
    assert moved.beside[new] == 0
    taken = others & ~by_time.model.popular.untaken[::-1]
    np.testing.assert_allclose(moved.item_vectors[taken], own.item_vectors[::-1][taken], atol=1e-6)
    assert np.linalg.norm(moved.item_vectors[new]) == pytest.approx(1, abs=1e-5)
