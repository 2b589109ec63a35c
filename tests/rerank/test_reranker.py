"""The reranker contract for words, soft tokens and both, in float32 and bfloat16; and what bad input gets."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from rerank import RerankConfig, Reranker, RerankInput
from rerank.model import SoftTokens, build_model
from tests.rerank.contract import RerankerContract, plain_scores
from tests.tiny import WORDS, tiny_gpt2, tiny_tokenizer

PRIOR = {"prior": True}
WORDS_ONLY = {"history_tokens": 40, "candidate_tokens": 20}
SOFT_ONLY = {"vector_dim": 8, "n_features": 3, "max_history_items": 5}
BFLOAT16 = 0.06
"""Scores of the tiny models reach about 3 and bfloat16 keeps 8 bits: 3 * 2**-8 = 0.012 per rounding, some roundings."""


@cache
def reranker(precision: str = "float32", **shape: int | bool) -> Reranker:
    config = RerankConfig(n_layer=3, n_embd=16, n_head=2, n_positions=96, **shape)  # type: ignore[arg-type]
    soft = None
    if config.vector_dim:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            soft = SoftTokens(config.vector_dim, config.n_features, 16)
            for parameter in soft.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        soft.fit_features(np.array([0.5, 0.0, -1.0]), np.array([2.0, 1.0, 0.0]))
    return Reranker(tiny_gpt2(), tiny_tokenizer(), soft, config, precision=precision, device="cpu")


class TestWords(RerankerContract):
    def make(self) -> Reranker:
        return reranker(**WORDS_ONLY)


class TestWordsNewestLast(RerankerContract):
    def make(self) -> Reranker:
        return reranker(newest_last=True, **WORDS_ONLY)


class TestSoftTokens(RerankerContract):
    def make(self) -> Reranker:
        return reranker(**SOFT_ONLY)


class TestWordsAndSoftTokens(RerankerContract):
    def make(self) -> Reranker:
        return reranker(**SOFT_ONLY, **WORDS_ONLY)


class TestSoftTokensWithPrior(RerankerContract):
    def make(self) -> Reranker:
        return reranker(**SOFT_ONLY, **PRIOR)


class TestSoftTokensWithHistoryWords(RerankerContract):
    def make(self) -> Reranker:
        return reranker(**SOFT_ONLY, history_tokens=40)


class TestWordsBfloat16(RerankerContract):
    def make(self) -> Reranker:
        return reranker(precision="bfloat16", **WORDS_ONLY)

    tolerance = BFLOAT16


class TestSoftTokensBfloat16(RerankerContract):
    def make(self) -> Reranker:
        return reranker(precision="bfloat16", **SOFT_ONLY)

    tolerance = BFLOAT16


def test_many_users_with_long_lists_are_cut_into_passes_without_changing_scores() -> None:
    whole = reranker(**WORDS_ONLY)
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(WORDS, size=rng.integers(0, 8))) for _ in range(60))
    batch = [RerankInput(texts[:n], texts[n:]) for n in (0, 3, 50, 7)]
    expected = whole.score_many(batch)
    cut = Reranker(tiny_gpt2(), tiny_tokenizer(), None, whole.config, precision="float32")
    cut.scorer.max_rows = 37
    for found, wanted in zip(cut.score_many(batch), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_no_candidates_give_no_scores() -> None:
    assert reranker(**WORDS_ONLY).score(RerankInput(("red cat",), ())).shape == (0,)
    assert reranker(**SOFT_ONLY).score_many([]) == []


def test_a_candidate_of_ten_thousand_words_is_cut_to_its_budget() -> None:
    words = reranker(**WORDS_ONLY)
    long = RerankInput(("red cat",), ("blue dog " * 5_000, "blue dog " * 10))
    np.testing.assert_allclose(words.score(long), plain_scores(words, long), atol=1e-5)
    assert words.score(long)[0] == pytest.approx(words.score(long)[1], abs=1e-6)


def test_constant_features_do_not_divide_by_zero() -> None:
    soft = reranker(**SOFT_ONLY)
    given = RerankInput(
        candidate_vectors=np.ones((2, 8)), candidate_features=np.array([[0.0, 1.0, -1.0], [0.0, 1.0, -1.0]])
    )
    assert np.isfinite(soft.score(given)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"candidate_texts": ("a",)}, "give candidate_vectors"),
        ({"candidate_vectors": np.ones((1, 9))}, "expected 8 columns as in training, got 9"),
        ({"candidate_vectors": np.ones((1, 8))}, "give candidate_features"),
        (
            {"candidate_vectors": np.ones((1, 8)), "candidate_features": np.ones((1, 2))},
            "expected 3 columns as in training, got 2",
        ),
    ],
)
def test_missing_or_misshapen_input_is_named(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reranker(**SOFT_ONLY).score(RerankInput(**given))


def test_words_without_candidate_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="give candidate_texts"):
        reranker(**WORDS_ONLY).score(RerankInput(candidate_vectors=np.ones((1, 8))))


def test_nan_is_refused_with_its_row() -> None:
    with pytest.raises(ValueError, match="candidate_features: row 1 holds NaN"):
        RerankInput(candidate_features=np.array([[0.0], [np.nan]]))


def test_candidates_that_disagree_in_number_are_refused() -> None:
    with pytest.raises(ValueError, match="candidates disagree in number"):
        RerankInput((), ("a", "b"), candidate_vectors=np.ones((3, 8)))


def test_one_text_instead_of_a_tuple_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a tuple of texts"):
        RerankInput("red cat", ("a",))  # type: ignore[arg-type]


def test_budgets_beyond_the_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"budgets need 120 positions .* but the model has 96"):
        reranker(history_tokens=100, candidate_tokens=20)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision: expected auto, float32, bfloat16, got 'int3'"):
        reranker(precision="int3", **WORDS_ONLY)


class TestCandidatesAlone(RerankerContract):
    def make(self) -> Reranker:
        return reranker(candidate_tokens=20)


def test_automatic_precision_follows_the_hardware() -> None:
    from rerank.precision import has_bfloat16

    expected = torch.bfloat16 if has_bfloat16(torch.device("cpu")) else torch.float32
    assert reranker(precision="auto", **WORDS_ONLY).scorer.dtype == expected


def with_prior(prior: np.ndarray) -> RerankInput:
    rng = np.random.default_rng(1)
    features = np.concatenate([rng.normal(size=(len(prior), 2)), prior[:, None]], axis=1)
    return RerankInput(candidate_vectors=rng.normal(size=(len(prior), 8)), candidate_features=features)


def test_the_last_feature_is_added_to_the_score() -> None:
    given = with_prior(np.array([3.0, -2.0, 0.5, 100.0]))
    added, plain = reranker(**SOFT_ONLY, **PRIOR).score(given), reranker(**SOFT_ONLY).score(given)
    np.testing.assert_allclose(added - plain, [3.0, -2.0, 0.5, 100.0], atol=1e-4)
    many = reranker(**SOFT_ONLY, **PRIOR).score_many([given, with_prior(np.array([1.0])), given])
    np.testing.assert_allclose(many[0], added, atol=1e-5)
    np.testing.assert_allclose(many[2], added, atol=1e-5)


def test_a_fresh_reranker_with_a_prior_keeps_its_order() -> None:
    config = RerankConfig(
        n_layer=1, n_embd=16, n_head=2, n_positions=32, max_history_items=4, vector_dim=8, n_features=3, prior=True
    )
    gpt2, tokenizer, soft = build_model(config)
    prior = np.linspace(2, -2, 9)
    scores = Reranker(gpt2, tokenizer, soft, config, precision="float32", device="cpu").score(with_prior(prior))
    assert np.argsort(-scores).tolist() == list(range(9))


def test_a_prior_without_features_is_refused() -> None:
    config = RerankConfig(n_layer=1, n_embd=16, n_head=2, vector_dim=8, prior=True)
    with pytest.raises(ValueError, match="prior: expected the score of the stage before as the last feature"):
        Reranker(tiny_gpt2(), None, None, config, device="cpu")


def test_an_unknown_device_is_bad_input() -> None:
    with pytest.raises(ValueError, match="device: expected auto, cpu or cuda, got 'tpu'"):
        Reranker(tiny_gpt2(), None, None, RerankConfig(vector_dim=8), device="tpu")
