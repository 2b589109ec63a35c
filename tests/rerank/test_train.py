"""Training learns, stops, freezes and keeps the best weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rerank import RerankConfig, Reranker, RerankInput, TrainingList, train_reranker, words_of_encoder
from rerank.model import Words, blocks_of, build_model, fit_width
from tests.tiny import VOCABULARY, WORDS, tiny_sentence_transformer, tiny_tokenizer

RNG = np.random.default_rng(0)


def word_list(seed: int) -> TrainingList:
    """The wanted one of five candidates says `robot`: a rule of one word."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS[:20], size=2)) for _ in range(5)]
    wanted = int(rng.integers(5))
    texts[wanted] += " robot"
    return TrainingList(RerankInput(("film drama", "old book"), tuple(texts)), np.eye(5)[wanted])


def soft_list(seed: int) -> TrainingList:
    """The wanted candidate has the largest first feature, on a scale far from 1; the second is constant."""
    rng = np.random.default_rng(seed)
    features = np.stack([rng.normal(5_000, 300, size=8), np.full(8, 3.0)], axis=1)
    return TrainingList(
        RerankInput(
            context_vectors=rng.normal(size=(rng.integers(0, 6), 4)),
            candidate_vectors=rng.normal(size=(8, 4)),
            candidate_features=features,
        ),
        (features[:, 0] == features[:, 0].max()).astype(np.float32),
    )


LISTS = [word_list(seed) for seed in range(64)]
SOFT_LISTS = [soft_list(seed) for seed in range(300)]


def config_of(**changes: float | int | str) -> RerankConfig:
    values = {
        "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 64, "history_tokens": 16, "candidate_tokens": 8,
        "batch_lists": 8, "epochs": 2, "lr": 3e-3, "precision": "float32",
    }  # fmt: skip
    return RerankConfig(**(values | changes))  # type: ignore[arg-type]


def soft_config(**changes: float | int | str) -> RerankConfig:
    words = {"history_tokens": 0, "candidate_tokens": 0}
    return config_of(**(words | {"vector_dim": 4, "n_features": 2, "max_history_items": 5} | changes))


def words_of_tiny() -> Words:
    rng = np.random.default_rng(0)
    return Words(tiny_tokenizer(), rng.normal(0, 0.1, size=(len(VOCABULARY), 16)).astype(np.float32))


@pytest.mark.parametrize("loss", ["listwise", "pairwise", "pointwise"])
def test_every_loss_learns_a_rule_of_one_feature(loss: str) -> None:
    result = train_reranker(SOFT_LISTS, validation=SOFT_LISTS[:40], config=soft_config(loss=loss, epochs=5, lr=1e-2))
    assert result.best_ndcg_at_10 > 0.9
    assert result.history[-1].train_loss < result.history[0].train_loss


def test_words_learn_a_rule_of_one_word(tmp_path: Path) -> None:
    encoder = tiny_sentence_transformer(tmp_path)
    config = config_of(epochs=8, lr=1e-2, patience=20)
    result = train_reranker(LISTS, validation=LISTS[:20], config=config, encoder=encoder)
    assert result.best_ndcg_at_10 > 0.9


def test_bfloat16_training_learns_too() -> None:
    config = soft_config(epochs=5, lr=1e-2, precision="bfloat16")
    assert train_reranker(SOFT_LISTS, validation=SOFT_LISTS[:40], config=config).best_ndcg_at_10 > 0.9


def test_result_is_the_best_validated_state() -> None:
    from rerank.metrics import ndcg_at_10

    result = train_reranker(SOFT_LISTS, validation=SOFT_LISTS[:40], config=soft_config(lr=3e-2, epochs=3))
    scores = result.reranker.score_many([entry.input for entry in SOFT_LISTS[:40]])
    assert ndcg_at_10(scores, [entry.labels for entry in SOFT_LISTS[:40]]) == pytest.approx(
        max(entry.ndcg_at_10 for entry in result.history)
    )
    assert result.best_step in [entry.step for entry in result.history]


@pytest.mark.parametrize(("lr", "averaged"), [(3e-3, True), (3e-2, False)])
def test_the_average_of_the_last_states_is_taken_only_where_it_is_no_worse(lr: float, averaged: bool) -> None:
    from rerank.metrics import ndcg_at_10

    checks = SOFT_LISTS[32:48]
    plain, tried = (
        train_reranker(
            SOFT_LISTS[:32],
            validation=checks,
            config=soft_config(lr=lr, epochs=7, patience=99, average_last=n),
            device="cpu",
        )
        for n in (1, 11)
    )
    assert tried.averaged is averaged
    assert tried.best_ndcg_at_10 >= plain.best_ndcg_at_10
    assert torch.equal(tried.reranker.gpt2.score.weight, plain.reranker.gpt2.score.weight) is not averaged
    found = ndcg_at_10(tried.reranker.score_many([entry.input for entry in checks]), [e.labels for e in checks])
    assert found == pytest.approx(tried.best_ndcg_at_10)


@pytest.mark.parametrize(("freeze", "n_changed"), [("none", 2), ("last-1", 1), ("head", 0)])
def test_frozen_blocks_do_not_change(freeze: str, n_changed: int) -> None:
    def blocks(epoch_lr: float) -> list[torch.Tensor]:
        config = soft_config(freeze=freeze, epochs=1, lr=epoch_lr)
        gpt2 = train_reranker(SOFT_LISTS[:32], validation=SOFT_LISTS[:8], config=config).reranker.gpt2
        return [block.mlp.get_parameter("c_fc.weight") for block in blocks_of(gpt2)] + [gpt2.score.weight]

    before, after = blocks(0.0), blocks(1e-2)
    changed = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert changed == [False] * (2 - n_changed) + [True] * (n_changed + 1)


def test_training_stops_when_validation_stops_improving() -> None:
    result = train_reranker(
        SOFT_LISTS[:16], validation=SOFT_LISTS[:8], config=soft_config(lr=0.0, epochs=50, patience=2)
    )
    assert result.stopped == "patience"
    assert len(result.history) == 3


def test_training_ends_within_its_time_budget() -> None:
    result = train_reranker(
        SOFT_LISTS, validation=SOFT_LISTS[:8], config=soft_config(epochs=10_000, patience=10_000), max_seconds=0.5
    )
    assert result.stopped == "max_seconds"


def test_lists_are_built_only_when_they_are_used() -> None:
    class Lazy:
        used = 0

        def __len__(self) -> int:
            return 16

        def __getitem__(self, row: int) -> TrainingList:
            self.used += 1
            return word_list(row)

    lists = Lazy()
    train_reranker_on_words(lists)
    assert lists.used == 16


def train_reranker_on_words(lists) -> None:
    from rerank.training_run import TrainingRun

    TrainingRun(lists, LISTS[:4], config_of(epochs=1), words_of_tiny(), None, "cpu", None, lambda line: None).fit()


@pytest.mark.parametrize(
    ("lists", "validation", "message"),
    [
        ([], LISTS[:2], "no training lists"),
        (SOFT_LISTS[:4], [TrainingList(SOFT_LISTS[0].input, np.zeros(8))], "no validation list with a positive"),
    ],
)
def test_nothing_to_learn_from_is_refused(lists: list, validation: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_reranker(lists, validation=validation, config=soft_config())


def test_labels_are_checked() -> None:
    with pytest.raises(ValueError, match=r"labels: expected shape \(8,\)"):
        TrainingList(SOFT_LISTS[0].input, np.zeros(7))
    with pytest.raises(ValueError, match="labels: expected finite numbers >= 0"):
        TrainingList(SOFT_LISTS[0].input, np.full(8, np.nan))


def test_words_without_an_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a vocabulary"):
        train_reranker(LISTS, validation=LISTS[:2], config=config_of())


def test_word_embeddings_are_the_encoders_own(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    directory = tiny_sentence_transformer(tmp_path)
    read, loaded = words_of_encoder(directory), words_of_encoder(SentenceTransformer(str(directory), device="cpu"))
    assert read.embeddings is not None
    assert loaded.embeddings is not None
    assert read.embeddings.shape == (len(VOCABULARY), 16)
    np.testing.assert_array_equal(read.embeddings, loaded.embeddings)
    with pytest.raises(FileNotFoundError, match="expected the encoder's weights here"):
        words_of_encoder(tmp_path)


def test_wider_embeddings_keep_their_strongest_directions() -> None:
    flat = np.outer(np.arange(1.0, 6.0), [3.0, 4.0, 0.0]).astype(np.float32)  # one direction of length 5
    narrow = fit_width(flat, 1)
    np.testing.assert_allclose(np.abs(narrow[:, 0]), 5 * np.arange(1.0, 6.0), rtol=1e-5)
    assert fit_width(flat, 5).shape == (5, 5)


def test_lists_without_candidates_do_no_harm() -> None:
    empty = TrainingList(
        RerankInput(candidate_vectors=np.empty((0, 4)), candidate_features=np.empty((0, 2))), np.empty(0)
    )
    config = soft_config(epochs=1, batch_lists=1)
    result = train_reranker([*SOFT_LISTS[:4], empty], validation=[*SOFT_LISTS[:4], empty], config=config)
    assert np.isfinite([entry.train_loss for entry in result.history]).all()


def test_a_reranker_that_training_starts_from_stays_as_it_was() -> None:
    config = soft_config(epochs=1, lr=1e-2)
    start = train_reranker(SOFT_LISTS[:16], validation=SOFT_LISTS[:8], config=config, device="cpu").reranker
    fingerprint, scores = start.fingerprint, start.score(SOFT_LISTS[0].input)
    further = train_reranker(
        SOFT_LISTS[:16], validation=SOFT_LISTS[:8], config=config, start=start, device="cpu"
    ).reranker
    assert further.fingerprint != fingerprint
    assert start.fingerprint == fingerprint
    np.testing.assert_array_equal(start.score(SOFT_LISTS[0].input), scores)


@pytest.mark.parametrize("changes", [{"vector_dim": 5}, {"n_features": 3}, {"prior": True}])
def test_a_start_that_reads_other_inputs_is_refused(changes: dict) -> None:
    config = soft_config()
    gpt2, tokenizer, soft = build_model(config)
    start = Reranker(gpt2, tokenizer, soft, config, device="cpu")
    with pytest.raises(ValueError, match=f"start: expected a reranker with {next(iter(changes))}"):
        train_reranker(SOFT_LISTS[:8], validation=SOFT_LISTS[:8], config=soft_config(**changes), start=start)
