"""The recall head: a user's vector is made of the own past only, and an item without a past is placed by its text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rerank import HistoryModel, HistoryModelConfig
from retrieval.encoder import steps
from retrieval.encoder.heads import HeadConfig, RecallHead
from retrieval.encoder.train import (
    HeadTraining,
    TrainedHead,
    embed_items,
    embed_users,
    pad_histories,
    train_head,
    train_next_item,
    windows,
)

N_ITEMS, TEXT_DIM = 12, 8
CONFIG = HeadConfig(dim=16, n_layers=2, n_heads=2, history_items=6, dropout=0.3)
TRAINING = HeadTraining(max_passes=40, batch_positions=32, learning_rate=0.01, warmup_steps=5)


def random_rows(n: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


TEXT_VECTORS = random_rows(N_ITEMS, TEXT_DIM)
# Whoever took item n takes n + 1 next, round the ring.
RING = [np.array([(start + step) % N_ITEMS for step in range(5)]) for start in range(N_ITEMS)]


@pytest.fixture(scope="module")
def head() -> RecallHead:
    torch.manual_seed(0)
    head = RecallHead(CONFIG, text_dim=TEXT_DIM, n_items=N_ITEMS).eval()
    with torch.no_grad():  # as after training: residuals and distances say something
        head.residual.weight.normal_(std=0.3)
        for block in head.blocks:
            block.distance_bias.normal_()  # type: ignore[operator, union-attr]
    return head


@pytest.fixture(scope="module")
def trained() -> TrainedHead:
    return train_head(RING, TEXT_VECTORS, config=CONFIG, training=TRAINING, passes=40, device="cpu")


def users_of(head: RecallHead, *histories: list[int]) -> np.ndarray:
    return embed_users(head, embed_items(head, TEXT_VECTORS), [np.array(h, dtype=np.int64) for h in histories])


def test_vectors_have_length_1_and_float32(head):
    for vectors in (embed_items(head, TEXT_VECTORS), users_of(head, [1], [2, 3, 4])):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_an_empty_history_is_a_vector_of_zeros(head):
    vectors = users_of(head, [], [1, 2])
    assert not vectors[0].any()
    assert vectors[1].any()
    assert users_of(head).shape == (0, CONFIG.dim)


def test_a_user_vector_depends_on_the_own_history_only(head):
    alone = users_of(head, [1, 2])
    among = users_of(head, [1, 2], [3], [4, 5, 6, 7, 8, 9], [])
    np.testing.assert_allclose(among[0], alone[0], atol=1e-6)


def test_padding_changes_nothing(head):
    items = torch.from_numpy(embed_items(head, TEXT_VECTORS))
    short = pad_histories([np.array([1, 2])], 6)
    long = pad_histories([np.array([1, 2]), np.arange(6)], 6)
    with torch.inference_mode():
        own = head.states(items[short], short < 0)[0, -1]
        padded = head.states(items[long.clamp_min(0)], long < 0)[0, -1]
    torch.testing.assert_close(padded, own, atol=1e-6, rtol=0)


def test_what_stands_at_padding_is_not_read(head):
    items = torch.from_numpy(embed_items(head, TEXT_VECTORS))
    padded = pad_histories([np.array([1, 2]), np.arange(5)], 5)
    with torch.inference_mode():
        one = head.states(items[padded.clamp_min(0)], padded < 0)[0, -1]
        other = head.states(items[torch.where(padded < 0, 7, padded)], padded < 0)[0, -1]
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_later_items_do_not_change_earlier_states(head):
    items = torch.from_numpy(embed_items(head, TEXT_VECTORS))
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 9, 10]])
    none = torch.zeros(1, 4, dtype=torch.bool)
    with torch.inference_mode():
        first, second = head.states(items[one], none)[0], head.states(items[other], none)[0]
    torch.testing.assert_close(first[:2], second[:2], atol=1e-6, rtol=0)
    assert (first[2] - second[2]).abs().max() > 1e-3


def test_only_the_newest_items_of_a_long_history_are_read(head):
    long = [*range(N_ITEMS), *range(N_ITEMS)]
    np.testing.assert_allclose(users_of(head, long), users_of(head, long[-CONFIG.history_items :]), atol=1e-6)


def test_order_matters(head):
    one, other = users_of(head, [1, 2, 3], [2, 1, 3])
    assert np.abs(one - other).max() > 1e-3


def test_a_new_item_is_placed_by_its_text_alone(head):
    with_residual = embed_items(head, TEXT_VECTORS)
    placed = embed_items(head, np.concatenate([TEXT_VECTORS, TEXT_VECTORS[:1]]))
    np.testing.assert_allclose(placed[:N_ITEMS], with_residual, atol=1e-6)
    with torch.inference_mode():
        by_text = torch.nn.functional.normalize(head.text_map(torch.from_numpy(TEXT_VECTORS[:1])), dim=-1)
    np.testing.assert_allclose(placed[N_ITEMS:], by_text.numpy(), atol=1e-6)
    assert np.abs(placed[N_ITEMS] - placed[0]).max() > 1e-3


def test_residuals_are_dropped_whole_and_only_in_training(head):
    text, rows = torch.from_numpy(TEXT_VECTORS).repeat(40, 1), torch.arange(N_ITEMS).repeat(40)
    with torch.inference_mode():
        with_residual, without = head.item_vectors(text, rows), head.item_vectors(text)
        torch.manual_seed(0)
        head.train()
        dropped = head.item_vectors(text, rows)
        head.eval()
    kept = (dropped - with_residual).abs().amax(dim=1) < 1e-6
    gone = (dropped - without).abs().amax(dim=1) < 1e-6
    assert (kept ^ gone).all()
    assert 0.4 < gone.float().mean() < 0.6  # residual_dropout is 0.5


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim: expected a multiple of n_heads=4, got 30"):
        HeadConfig(dim=30)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 100])
def test_windows_predict_every_item_but_the_first_exactly_once(length):
    history = np.arange(11)
    pieces = windows([history], length, max_windows=100)
    predicted = np.concatenate([piece[1:] for piece in pieces])
    assert sorted(predicted) == list(range(1, 11))
    assert all(2 <= len(piece) <= length + 1 for piece in pieces)
    assert all((np.diff(piece) == 1).all() for piece in pieces)


def test_windows_begin_with_the_newest_and_stop_at_their_limit():
    (piece,) = windows([np.arange(100)], 10, max_windows=1)
    assert piece.tolist() == list(range(89, 100))


def test_a_history_of_one_item_has_no_window():
    assert windows([np.array([3]), np.array([], dtype=np.int64)], 10, 5) == []


def test_histories_are_padded_at_their_old_end():
    padded = pad_histories([np.array([1, 2, 3, 4]), np.array([5]), np.array([], dtype=np.int64)], 3)
    assert padded.tolist() == [[2, 3, 4], [-1, -1, 5], [-1, -1, -1]]


def test_training_learns_the_rule_of_the_ring(trained):
    items = embed_items(trained.head, TEXT_VECTORS)
    scores = embed_users(trained.head, items, RING) @ items.T
    assert (scores.argmax(axis=1) == [(history[-1] + 1) % N_ITEMS for history in RING]).mean() >= 0.9


@pytest.mark.parametrize("full_softmax", [True, False])
def test_gpt2_learns_the_rule_of_the_ring_too(monkeypatch, full_softmax):
    if not full_softmax:
        monkeypatch.setattr(steps, "FULL_SOFTMAX_ITEMS", 4)
        monkeypatch.setattr(steps, "_SAMPLED_ITEMS", 6)
    shape = HistoryModelConfig(vector_dim=TEXT_DIM, n_embd=16, n_layer=1, n_head=2, history_items=6)
    trained = train_next_item(
        lambda: HistoryModel(shape), RING, TEXT_VECTORS, training=TRAINING, passes=40, device="cpu"
    )
    items = embed_items(trained.head, TEXT_VECTORS)
    scores = embed_users(trained.head, items, RING) @ items.T
    assert (scores.argmax(axis=1) == [(history[-1] + 1) % N_ITEMS for history in RING]).mean() >= 0.9


def test_the_same_seed_trains_the_same_head(trained):
    again = train_head(RING, TEXT_VECTORS, config=CONFIG, training=TRAINING, passes=40, device="cpu")
    for name, value in again.head.state_dict().items():
        torch.testing.assert_close(value, trained.head.state_dict()[name], atol=0, rtol=0)


def test_validation_gives_the_best_round_and_its_passes():
    histories = [history[:-1] for history in RING]
    targets = np.array([history[-1] for history in RING])
    training = HeadTraining(max_passes=10, batch_positions=32, learning_rate=0.01, warmup_steps=5, patience=3)
    result = train_head(
        histories, TEXT_VECTORS, config=CONFIG, training=training, validation=(histories, targets), device="cpu"
    )
    figures = [record["ndcg@10"] + record["recall@100"] for record in result.curve]
    assert result.passes == result.curve[int(np.argmax(figures))]["passes"]
    assert result.passes <= 10


def test_fixed_passes_are_kept():
    result = train_head(RING, TEXT_VECTORS, config=CONFIG, training=TRAINING, passes=3, device="cpu")
    assert result.passes == result.curve[-1]["passes"] == 3


def test_a_training_that_diverges_is_refused_and_not_the_best():
    steep = replace(TRAINING, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"training: expected a finite loss, got (nan|inf) .* lower the learning_rate"):
        train_head(RING, TEXT_VECTORS, config=CONFIG, training=steep, passes=40, device="cpu")


def test_nothing_to_predict_is_refused():
    with pytest.raises(ValueError, match="no user has 2 or more interactions"):
        train_head([np.array([1])], TEXT_VECTORS, config=CONFIG, training=TRAINING, passes=1, device="cpu")


def test_neither_validation_nor_passes_is_refused():
    with pytest.raises(ValueError, match="expected validation or passes, got neither"):
        train_head(RING, TEXT_VECTORS, config=CONFIG, training=TRAINING, device="cpu")


def test_a_softmax_over_a_sample_of_everything_is_the_softmax_over_everything(head, monkeypatch):
    padded = pad_histories(RING, 6)
    with torch.inference_mode():
        taken = torch.arange(N_ITEMS)
        places = padded[:, :-1], padded[:, 1:]
        arguments = head, torch.from_numpy(TEXT_VECTORS), taken, *places, np.random.default_rng(0), 0.1
        full = steps._loss(*arguments)
        monkeypatch.setattr(steps, "FULL_SOFTMAX_ITEMS", 0)
        monkeypatch.setattr(steps, "_SAMPLED_ITEMS", N_ITEMS)
        sampled = steps._loss(*arguments)
    torch.testing.assert_close(sampled, full, atol=1e-5, rtol=0)


def test_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, TEXT_DIM)).astype(np.float32)
    train_head([np.arange(5)], vectors, config=CONFIG, training=HeadTraining(seed=1), passes=1.0)
    assert torch.equal(torch.rand(3), expected)


def test_the_residuals_of_popular_items_are_dropped_less_often():
    torch.manual_seed(0)
    head = RecallHead(CONFIG, text_dim=TEXT_DIM, n_items=3).train()
    head.count_interactions(torch.tensor([0.0, 50.0, 450.0]))
    torch.testing.assert_close(head.drop_rate, torch.tensor([0.5, 0.25, 0.05]))
    rows = torch.arange(3).repeat(4_000)
    with torch.no_grad():
        head.residual.weight.normal_()
        vectors = head.item_vectors(torch.ones(len(rows), TEXT_DIM), rows)
        by_text = head.item_vectors(torch.ones(1, TEXT_DIM))
    dropped = ((vectors - by_text).abs().amax(dim=1) < 1e-6).view(-1, 3).float().mean(dim=0)
    torch.testing.assert_close(dropped, head.drop_rate, atol=0.04, rtol=0)


def test_training_counts_the_interactions():
    trained = train_head(
        [np.array([0, 1])] * 50, TEXT_VECTORS, config=CONFIG, training=TRAINING, passes=1, device="cpu"
    )
    expected = [0.25, 0.25] + [0.5] * (N_ITEMS - 2)
    torch.testing.assert_close(trained.head.drop_rate, torch.tensor(expected))


@pytest.mark.parametrize(("min_passes", "rounds"), [(0.0, 1), (3.0, 3)])
def test_the_clock_ends_training_but_not_before_the_least_passes(min_passes, rounds):
    training = HeadTraining(max_passes=9, batch_positions=32, patience=9, max_seconds=0.0, min_passes=min_passes)
    validation = ([history[:-1] for history in RING], np.array([history[-1] for history in RING]))
    trained = train_head(RING, TEXT_VECTORS, config=CONFIG, training=training, validation=validation, device="cpu")
    assert [round(record["passes"]) for record in trained.curve] == list(range(1, rounds + 1))
