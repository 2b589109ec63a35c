"""The history model is GPT-2's plain forward over item tokens, and counts as much as lists neither model saw say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from rerank import HistoryModel, HistoryModelConfig, Reranker, RerankInput, TrainingList
from rerank.blend import Blend, fit_blend
from rerank.history_scorer import HistoryScorer
from tests.rerank.test_reranker import SOFT_ONLY, reranker

DIM = 8
CONFIG = HistoryModelConfig(vector_dim=DIM, n_embd=16, n_layer=2, n_head=2, history_items=6)


@pytest.fixture(scope="module")
def model() -> HistoryModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = HistoryModel(CONFIG)
        for parameter in model.gpt2.parameters():  # as after training: places and tokens say something
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def given_of(seed: int, n_history: int, n_candidates: int = 7) -> RerankInput:
    rng = np.random.default_rng(seed)
    return RerankInput(
        context_vectors=rng.normal(size=(n_history, DIM)),
        candidate_vectors=rng.normal(size=(n_candidates, DIM)),
        candidate_features=rng.normal(size=(n_candidates, 3)),
    )


def scores_of(model: HistoryModel, inputs: list[RerankInput]) -> list[np.ndarray]:
    return HistoryScorer(model).score_many(inputs)


def plain_scores(model: HistoryModel, given: RerankInput) -> np.ndarray:
    """One user alone, oldest first, through GPT-2 as transformers runs it."""
    assert given.context_vectors is not None
    assert given.candidate_vectors is not None
    oldest_first = torch.from_numpy(given.context_vectors[: CONFIG.history_items][::-1].copy())
    with torch.no_grad():
        items = model.item_vectors(oldest_first)
        hidden = model.gpt2(inputs_embeds=model.input_map(items)[None]).last_hidden_state[0, -1]
        wanted = torch.nn.functional.normalize(model.user_map(hidden) + items[-1], dim=-1)
        candidates = model.item_vectors(torch.from_numpy(given.candidate_vectors))
        return (candidates @ wanted * model.log_scale.exp()).numpy()


def test_a_score_is_that_of_the_plain_forward_whoever_else_is_in_the_batch(model):
    batch = [given_of(seed, n_history) for seed, n_history in enumerate((3, 1, 6, 2, 5, 1))]
    for found, given in zip(scores_of(model, batch), batch, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, plain_scores(model, given), atol=2e-5)


def test_bfloat16_stays_near_float32(model):
    batch = [given_of(seed, 1 + seed % 6) for seed in range(12)]
    exact = np.concatenate(scores_of(model, batch))
    fast = np.concatenate(HistoryScorer(model, dtype=torch.bfloat16).score_many(batch))
    assert np.abs(exact - fast).max() < 0.2 * exact.std()
    assert np.corrcoef(exact, fast)[0, 1] > 0.999


def test_many_long_histories_are_cut_into_passes_without_changing_scores(model, monkeypatch):
    batch = [given_of(seed, 1 + seed % 6) for seed in range(20)]
    whole = scores_of(model, batch)
    monkeypatch.setattr("rerank.history_scorer.MAX_ROWS", 7)
    for found, wanted in zip(scores_of(model, batch), whole, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_newest_items_are_read_and_their_order_counts(model):
    rng = np.random.default_rng(0)
    history, candidates = rng.normal(size=(20, DIM)), rng.normal(size=(7, DIM))
    long = RerankInput(context_vectors=history, candidate_vectors=candidates)
    newest = RerankInput(context_vectors=history[:6], candidate_vectors=candidates)
    turned = RerankInput(context_vectors=history[:6][::-1], candidate_vectors=candidates)
    found, same, other = scores_of(model, [long, newest, turned])
    np.testing.assert_allclose(found, same, atol=1e-6)
    assert np.abs(found - other).max() > 0.01


def test_candidates_keep_their_order(model):
    rng = np.random.default_rng(1)
    history, candidates = rng.normal(size=(4, DIM)), rng.normal(size=(7, DIM))
    given = RerankInput(context_vectors=history, candidate_vectors=candidates)
    turned = RerankInput(context_vectors=history, candidate_vectors=candidates[::-1])
    first, second = scores_of(model, [given, turned])
    np.testing.assert_allclose(first, second[::-1], atol=1e-6)


def test_what_comes_later_changes_nothing_before(model):
    rng = np.random.default_rng(0)
    items = model.item_vectors(torch.from_numpy(rng.normal(size=(6, DIM)).astype(np.float32)))[None]
    changed = items.clone()
    changed[0, 4:] = items[0, :2]
    padding = torch.zeros(1, 6, dtype=torch.bool)
    with torch.no_grad():
        before, after = model.states(items, padding)[0], model.states(changed, padding)[0]
    torch.testing.assert_close(before[:4], after[:4])
    assert (before[4:] - after[4:]).abs().max() > 0.01


def test_without_a_history_all_candidates_are_equal_and_without_candidates_there_is_nothing(model):
    empty, nobody = given_of(0, 0), given_of(0, 3, n_candidates=0)
    assert not scores_of(model, [empty])[0].any()
    assert scores_of(model, [nobody])[0].shape == (0,)
    assert scores_of(model, []) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (RerankInput(context_vectors=np.ones((2, 5)), candidate_vectors=np.ones((2, 5))), "expected 8 columns, got 5"),
        (RerankInput(context_vectors=np.ones((2, 8)), candidate_texts=("a",)), "give context_vectors and candidate_"),
    ],
)
def test_other_vectors_are_refused(model, given, message):
    with pytest.raises(ValueError, match=message):
        scores_of(model, [given])


@pytest.mark.parametrize("wrong", [{"n_head": 3}, {"n_layer": 0}, {"history_items": 0}])
def test_shapes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HistoryModelConfig(**{"n_embd": 16, "n_head": 2, **wrong})


def test_a_directory_gives_the_same_scores_and_is_gpt2_to_others(model, tmp_path: Path):
    model.save(tmp_path)
    given = [given_of(seed, 4) for seed in range(3)]
    for one, other in zip(scores_of(model, given), scores_of(HistoryModel.load(tmp_path), given), strict=True):
        np.testing.assert_array_equal(one, other)
    weights, theirs = model.gpt2.state_dict(), AutoModel.from_pretrained(str(tmp_path)).state_dict()
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)
    (tmp_path / "projections.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"projections\.safetensors: expected a part of the history model"):
        HistoryModel.load(tmp_path)


def chosen_by(weights: tuple[float, float, float], n: int = 3_000) -> tuple[list[np.ndarray], ...]:
    """Priors, cross-encoder's and history model's scores of lists, and their labels: the wanted candidate is drawn by
    these weights of the prior, of what the cross-encoder says beside it, and of the history model."""
    rng = np.random.default_rng(0)
    prior, more, history = (rng.normal(size=(n, 9)).astype(np.float32) for _ in range(3))
    logits = weights[0] * prior + weights[1] * more + weights[2] * history + rng.gumbel(size=(n, 9))
    return list(prior), list(prior + more), list(history), list(np.eye(9, dtype=np.float32)[logits.argmax(axis=1)])


@pytest.mark.parametrize("weights", [(0.8, 0.8, 0.5), (0.6, 0.2, 0.5)])
def test_the_blend_is_what_the_choices_were_made_by(weights):
    blend = fit_blend(*chosen_by(weights))
    assert (blend.prior, blend.cross, blend.history) == pytest.approx(weights, abs=0.06)


def test_a_prior_that_is_not_there_changes_nothing_about_the_other_weights():
    _, cross, history, labels = chosen_by((0.0, 0.8, 0.5))
    blend = fit_blend([np.zeros(9, dtype=np.float32)] * len(cross), cross, history, labels)
    assert blend.cross == pytest.approx(0.4, abs=0.06)  # half of what varies in it is of no use
    assert blend.history == pytest.approx(0.5, abs=0.06)
    assert blend.prior == pytest.approx(1.0)


def test_scores_far_apart_do_not_break_the_blend():
    prior, cross, history, labels = chosen_by((0.8, 0.8, 0.5))
    blend = fit_blend([1_000 * one for one in prior], [1_000 * one for one in cross], history, labels)
    assert (1_000 * blend.prior, 1_000 * blend.cross) == pytest.approx((0.8, 0.8), abs=0.06)
    assert blend.history == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    "lists", [([], [], [], []), chosen_by((0.8, 0.8, -0.5), 500), chosen_by((-0.8, 0.8, 0.5), 500)]
)
def test_the_cross_encoder_stays_alone_where_another_weight_would_not_be_positive(lists):
    assert fit_blend(*lists) == Blend(1.0, 0.0, 1.0)


def test_a_cross_encoder_that_says_nothing_beside_the_prior_does_not_count():
    blend = fit_blend(*chosen_by((0.8, -0.3, 0.5)))
    assert blend.cross == 0
    assert (blend.prior, blend.history) == pytest.approx((0.8, 0.5), abs=0.08)


@pytest.fixture
def both(model: HistoryModel) -> Reranker:
    """A reranker whose lists are wanted by both scores."""
    plain = reranker(**SOFT_ONLY)
    made = Reranker(plain.gpt2, plain.tokenizer, plain.soft, plain.config, device="cpu", precision="float32")
    given = [given_of(seed, 1 + seed % 6) for seed in range(200)]
    sums = [a + b for a, b in zip(made.score_many(given), scores_of(model, given), strict=True)]
    lists = [TrainingList(one, (s == s.max()).astype(np.float32)) for one, s in zip(given, sums, strict=True)]
    blend = made.add_history(model, lists)
    assert blend.cross > 0.5
    assert blend.history > 0.5
    return made


def test_a_reranker_adds_what_its_history_model_says(both: Reranker, model: HistoryModel):
    assert both.history is not None
    blend, plain = both.history.blend, reranker(**SOFT_ONLY)
    batch = [given_of(seed, 3) for seed in range(1_000, 1_004)]
    expected = [
        blend.cross * a + blend.history * b
        for a, b in zip(plain.score_many(batch), scores_of(model, batch), strict=True)
    ]
    for found, wanted, given in zip(both.score_many(batch), expected, batch, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(both.score(given), wanted, atol=1e-5)


def test_kept_context_states_change_nothing(both: Reranker):
    kept = Reranker(
        both.gpt2, both.tokenizer, both.soft, both.config, device="cpu", precision="float32", context_cache_mb=1
    )
    kept.history = both.history
    given = given_of(7, 4)
    for _ in range(2):
        np.testing.assert_allclose(kept.score(given), both.score(given), atol=1e-5)


def test_a_saved_reranker_keeps_its_history_model_and_another_one_is_another_reranker(both: Reranker, tmp_path: Path):
    both.save(tmp_path)
    loaded = Reranker.load(tmp_path, device="cpu", precision="float32")
    given = given_of(3, 5)
    np.testing.assert_array_equal(loaded.score(given), both.score(given))
    assert loaded.fingerprint == both.fingerprint
    assert loaded.history is not None
    with torch.no_grad():
        loaded.history.model.item_map.bias[0] += 0.1
    assert loaded.fingerprint != both.fingerprint
    (tmp_path / "history" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"history/model\.safetensors: expected a part of the history model"):
        Reranker.load(tmp_path, device="cpu")


def test_a_history_model_that_says_nothing_is_not_used(model: HistoryModel):
    plain = reranker(**SOFT_ONLY)
    alone = Reranker(plain.gpt2, plain.tokenizer, plain.soft, plain.config, device="cpu", precision="float32")
    given = [given_of(seed, 3) for seed in range(100)]
    worst = [scores == scores.min() for scores in scores_of(model, given)]
    lists = [TrainingList(one, wanted.astype(np.float32)) for one, wanted in zip(given, worst, strict=True)]
    assert alone.add_history(model, lists) == Blend()
    assert alone.history is None
    np.testing.assert_array_equal(alone.score(given[0]), plain.score(given[0]))
