"""A saved reranker is read by us, by Hugging Face's classes, and foreign classifiers are read by us."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from rerank import CrossEncoder, HistoryModel, HistoryModelConfig, RerankConfig, Reranker, RerankInput
from rerank.blend import Blend, Blended
from rerank.cascade import Cascade
from rerank.storage import FACTS, SOFT
from tests.rerank.contract import plain_scores
from tests.rerank.test_reranker import SOFT_ONLY, WORDS_ONLY, reranker
from tests.tiny import tiny_gpt2, tiny_tokenizer

GIVEN = RerankInput(
    ("red cat", "old book"),
    ("blue dog", "war film drama"),
    np.ones((2, 8)),
    np.eye(2, 8),
    np.arange(6.0).reshape(2, 3),
)


@pytest.mark.parametrize("shape", [WORDS_ONLY, SOFT_ONLY, WORDS_ONLY | SOFT_ONLY])
def test_a_saved_reranker_scores_the_same(tmp_path: Path, shape: dict) -> None:
    original = reranker(**shape)
    original.save(tmp_path / "model")
    loaded = Reranker.load(tmp_path / "model", precision="float32", device="cpu")
    assert loaded.fingerprint == original.fingerprint
    assert loaded.config == original.config
    np.testing.assert_array_equal(loaded.score(GIVEN), original.score(GIVEN))


def test_hugging_face_reads_what_we_save_and_scores_the_same(tmp_path: Path) -> None:
    original = reranker(**WORDS_ONLY)
    original.save(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(str(tmp_path)).eval()
    assert AutoTokenizer.from_pretrained(str(tmp_path))("red cat").input_ids == tiny_tokenizer()("red cat").input_ids
    encoded = original.encoder.encode(GIVEN)
    assert encoded.candidate_ids is not None
    for ids, score in zip(encoded.candidate_ids, original.score(GIVEN), strict=True):
        pair = torch.tensor(np.concatenate([encoded.context_ids, ids]))[None]
        assert theirs(input_ids=pair).logits.item() == pytest.approx(score, abs=1e-5)


def test_any_gpt2_classifier_with_one_label_loads(tmp_path: Path) -> None:
    tiny_gpt2(seed=3).save_pretrained(str(tmp_path))
    tiny_tokenizer().save_pretrained(str(tmp_path))
    foreign = Reranker.load(tmp_path, precision="float32", device="cpu")
    given = RerankInput(("red cat",), ("dog", "fish lamp"))
    np.testing.assert_allclose(foreign.score(given), plain_scores(foreign, given), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "relu"},
        {"n_inner": 24},
        {"scale_attn_weights": False},
        {"reorder_and_upcast_attn": True},
    ],
)
def test_gpt2s_variants_score_as_in_transformers(options: dict) -> None:
    config = GPT2Config(
        vocab_size=200, n_positions=96, n_embd=16, n_layer=3, n_head=2, initializer_range=0.2, **options
    )
    config.num_labels = 1
    torch.manual_seed(0)
    gpt2 = GPT2ForSequenceClassification(config).eval()
    variant = Reranker(
        gpt2, tiny_tokenizer(), None, RerankConfig.from_dict(WORDS_ONLY), precision="float32", device="cpu"
    )
    np.testing.assert_allclose(variant.score(GIVEN), plain_scores(variant, GIVEN), atol=1e-5)


def test_more_than_one_label_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=1, num_labels=2)  # type: ignore[call-arg]
    GPT2ForSequenceClassification(config).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="expected a classifier with one label, got 2"):
        Reranker.load(tmp_path)


def test_a_directory_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such reranker directory"):
        Reranker.load(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors \(.bin weights are refused\)"):
        Reranker.load(tmp_path)


def test_missing_projections_and_unknown_formats_are_named(tmp_path: Path) -> None:
    reranker(**SOFT_ONLY).save(tmp_path)
    (tmp_path / SOFT).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="projections of vectors are missing"):
        Reranker.load(tmp_path)
    facts = json.loads((tmp_path / FACTS).read_text())
    (tmp_path / FACTS).write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(ValueError, match="format 99, this version reads 1"):
        Reranker.load(tmp_path)


def test_unknown_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown reranker options \['colour'\]"):
        RerankConfig.from_dict({"colour": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_embd 10 is not a multiple of n_head 3"),
        ({"freeze": "first-2"}, "freeze: expected none, last-N or head, got 'first-2'"),
        ({"candidate_tokens": 0}, "nothing to read"),
        ({"loss": "magic"}, "loss: expected listwise, pairwise or pointwise"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"n_features": 2}, "n_features needs vector_dim"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RerankConfig.from_dict({"candidate_tokens": 8} | options)


def test_parts_of_an_earlier_reranker_do_not_come_back(tmp_path: Path) -> None:
    shared, words = reranker(**SOFT_ONLY), reranker(**WORDS_ONLY)
    full = Reranker(shared.gpt2, shared.tokenizer, shared.soft, shared.config, precision="float32", device="cpu")
    full.cascade = Cascade(np.ones(16, dtype=np.float32), n_blocks=1, keep=1)
    shape = HistoryModelConfig(vector_dim=8, n_embd=16, n_layer=1, n_head=2, history_items=4)
    full.history = Blended(HistoryModel(shape).eval(), Blend(1.0, 5.0))
    full.save(tmp_path)
    (tmp_path / "history" / "notes.txt").write_text("not ours")
    shared.save(tmp_path)
    loaded = Reranker.load(tmp_path, precision="float32", device="cpu")
    np.testing.assert_array_equal(loaded.score(GIVEN), shared.score(GIVEN))
    assert loaded.cascade is None
    assert loaded.history is None
    assert [place.name for place in (tmp_path / "history").iterdir()] == ["notes.txt"]
    words.save(tmp_path)
    assert not (tmp_path / SOFT).exists()
    Reranker(shared.gpt2, None, shared.soft, shared.config, device="cpu").save(tmp_path)
    assert Reranker.load(tmp_path, device="cpu").tokenizer is None


def test_another_cascade_is_another_reranker() -> None:
    shared = reranker(**SOFT_ONLY)
    own = Reranker(shared.gpt2, shared.tokenizer, shared.soft, shared.config, precision="float32", device="cpu")
    found = {own.fingerprint}
    for head, n_blocks, keep in ((1.0, 1, 1), (2.0, 1, 1), (1.0, 2, 1), (1.0, 1, 2)):
        own.cascade = Cascade(np.full(16, head, dtype=np.float32), n_blocks, keep)
        found.add(own.fingerprint)
    assert len(found) == 5


def test_a_reranker_of_vectors_is_no_cross_encoder(tmp_path: Path) -> None:
    reranker(**SOFT_ONLY, **WORDS_ONLY).save(tmp_path)
    with pytest.raises(ValueError, match=r"this reranker reads vectors too; use Reranker\.load"):
        CrossEncoder(tmp_path, device="cpu")


def test_a_bundle_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "CURRENT").write_text("000001")
    with pytest.raises(ValueError, match=r"expected a model, this is a bundle; .* Recommender\.rerank"):
        CrossEncoder(tmp_path)
