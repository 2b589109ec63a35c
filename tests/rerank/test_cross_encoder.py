"""The CrossEncoder face gives sentence-transformers' scores, and states are kept for those who come again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rerank import Reranker, RerankInput
from rerank.cross_encoder import CrossEncoder
from tests.rerank.test_reranker import SOFT_ONLY, WORDS_ONLY, reranker
from tests.tiny import WORDS, tiny_gpt2, tiny_tokenizer

RNG = np.random.default_rng(0)
QUERIES = ["red cat and old tree", "space war", ""]
PAIRS = [(QUERIES[RNG.integers(3)], " ".join(RNG.choice(WORDS, size=RNG.integers(1, 8)))) for _ in range(30)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_gpt2().save_pretrained(str(path))
    tiny_tokenizer().save_pretrained(str(path))
    return path


def test_scores_equal_sentence_transformers(directory: Path) -> None:
    from sentence_transformers import CrossEncoder as TheirCrossEncoder

    theirs = TheirCrossEncoder(str(directory), device="cpu")
    ours = CrossEncoder(directory, device="cpu")
    alone = np.array([theirs.predict(pair, show_progress_bar=False) for pair in PAIRS])
    np.testing.assert_allclose(ours.predict(PAIRS), alone, atol=1e-6)
    documents = [document for _, document in PAIRS]
    expected = theirs.rank(QUERIES[0], documents, top_k=5, return_documents=True)
    found = ours.rank(QUERIES[0], documents, top_k=5, return_documents=True)
    assert [entry["text"] for entry in found] == [entry["text"] for entry in expected]


def test_one_pair_gives_one_number(directory: Path) -> None:
    ours = CrossEncoder(directory, device="cpu")
    assert ours.predict(PAIRS[0]) == pytest.approx(ours.predict(PAIRS)[0], abs=1e-6)
    assert ours.predict([]).shape == (0,)
    assert ours.rank("red", []) == []


def test_activation_can_be_chosen(directory: Path) -> None:
    logits = CrossEncoder(directory, device="cpu", activation_fn=torch.nn.Identity()).predict(PAIRS)
    np.testing.assert_allclose(
        CrossEncoder(directory, device="cpu").predict(PAIRS), 1 / (1 + np.exp(-logits)), rtol=1e-5
    )


def test_long_queries_and_documents_share_the_room(directory: Path) -> None:
    ours = CrossEncoder(directory, device="cpu", max_length=40)
    long = [("cat " * 100, "dog " * 100), ("cat " * 100, "dog"), ("cat", "dog " * 100)]
    together = ours.predict(long)
    np.testing.assert_allclose(together, [ours.predict(pair) for pair in long], atol=1e-6)


def test_what_is_no_pair_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match=r"pair 1: expected \(query, document\)"):
        CrossEncoder(directory, device="cpu").predict([("a", "b"), "ab", ("a", "b")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="expected a model directory with a tokenizer"):
        CrossEncoder()


def caching(**shape: int | bool) -> Reranker:
    kept = reranker(**shape)
    return Reranker(
        kept.gpt2, kept.tokenizer, kept.soft, kept.config, precision="float32", device="cpu", context_cache_mb=1
    )


def history(n_items: int) -> RerankInput:
    rng = np.random.default_rng(7)
    oldest_first = rng.normal(size=(8, 8))[:n_items]
    texts = [" ".join(pair) for pair in rng.choice(WORDS, size=(8, 2))][:n_items]
    return RerankInput(tuple(reversed(texts)), ("dog", "war film"), oldest_first[::-1], np.eye(2, 8), np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [WORDS_ONLY, SOFT_ONLY])
@pytest.mark.parametrize("newest_last", [True, False])
def test_kept_states_change_no_score(shape: dict, newest_last: bool) -> None:
    kept = caching(newest_last=newest_last, **shape)
    for n_items in (0, 1, 2, 2, 4, 5, 8):
        np.testing.assert_allclose(kept.score(history(n_items)), kept.score_many([history(n_items)])[0], atol=1e-5)


@pytest.mark.parametrize(("newest_last", "grown"), [(True, 2), (False, 0)])
def test_growth_is_cheap_only_where_the_newest_stands_last(newest_last: bool, grown: int) -> None:
    kept = caching(newest_last=newest_last, **WORDS_ONLY)
    for n_items in (2, 3, 5, 5):
        kept.score(history(n_items))
    assert kept.context_cache is not None
    assert kept.context_cache.n_grown == grown
    assert kept.context_cache.n_unchanged == 1


def test_kept_states_stay_within_their_memory() -> None:
    kept = caching(**WORDS_ONLY)
    assert kept.context_cache is not None
    kept.context_cache.max_bytes = 20_000
    for row in range(30):
        kept.score(RerankInput((WORDS[row],), ("dog",)))
        assert kept.context_cache.size_bytes <= 20_000
    assert 0 < len(kept.context_cache) < 30


@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.Sigmoid()])
def test_the_activation_sentence_transformers_saved_is_used(
    activation: torch.nn.Module, directory: Path, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder as TheirCrossEncoder

    theirs = TheirCrossEncoder(str(directory), device="cpu", activation_fn=activation)
    theirs.save_pretrained(str(tmp_path))
    found = CrossEncoder(tmp_path, device="cpu").predict(PAIRS[0])
    assert found == pytest.approx(float(theirs.predict(PAIRS[0])), abs=1e-6)


def test_an_activation_we_do_not_know_is_refused(tmp_path: Path) -> None:
    model = tiny_gpt2()
    model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Tanh"}
    with pytest.raises(ValueError, match=r"expected an activation of \['Identity', 'Sigmoid'\], got 'torch.*Tanh'"):
        CrossEncoder(model=model, tokenizer=tiny_tokenizer(), device="cpu")
    CrossEncoder(model=model, tokenizer=tiny_tokenizer(), device="cpu", activation_fn=torch.tanh)


def test_sentence_transformers_options_are_taken(directory: Path) -> None:
    ours = CrossEncoder(directory, device="cpu")
    expected = ours.predict(PAIRS)
    tensor = ours.predict(PAIRS, convert_to_tensor=True, apply_softmax=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    several = ours.predict(PAIRS, convert_to_numpy=False)
    assert isinstance(several, list)
    assert several[3].item() == expected[3]
    assert ours.rank("red", ["cat", "dog"], batch_size=8, show_progress_bar=False) == ours.rank("red", ["cat", "dog"])


@pytest.mark.parametrize("bad", [("a", None), (["a"], "b"), ("a", "b", "c")])
def test_a_bad_pair_is_named_by_its_place_in_the_input(bad: tuple, directory: Path) -> None:
    with pytest.raises(ValueError, match=r"pair 2: expected \(query, document\), two str"):
        CrossEncoder(directory, device="cpu").predict([("a", "b"), ("c", "d"), bad])


def test_a_length_below_one_and_cuda_without_cuda_are_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="max_length: expected at least 1, got 0"):
        CrossEncoder(directory, device="cpu", max_length=0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda': no CUDA device is available"):
        CrossEncoder(directory, device="cuda")
