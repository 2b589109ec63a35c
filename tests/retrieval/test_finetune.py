"""Fine-tuning BERT with the real trainer, on a model of a few thousand weights and a shop known by thought."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from retrieval.catalogue import render_items
from retrieval.data import Interactions, Items
from retrieval.encoder import finetune as door
from retrieval.encoder.finetune import FinetuneReport, finetune_encoder
from retrieval.encoder.finetune_config import FinetuneConfig
from retrieval.encoder.finetune_pairs import history_text_of, make_pairs, sample_positions
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.held_out import hold_out
from retrieval.histories import histories_of
from retrieval.text import TextConfig

QUICK = FinetuneConfig(
    epochs=3,
    batch_size=16,
    mini_batch_size=16,
    learning_rate=1e-2,
    hard_negatives=1,
    first_rank=3,
    last_rank=20,
    patience=3,
)
"""The world has 52 items, so hard negatives stand nearer the top than in a real catalogue."""
BRIEF = replace(QUICK, epochs=1, batch_size=64, mini_batch_size=64)
"""A few steps, for what does not depend on learning much."""


@dataclass(frozen=True)
class Shop:
    """What fine-tuning reads: texts and titles per item row, training histories, and what was held out of them."""

    texts: list[str]
    titles: list[str]
    histories: list[np.ndarray]
    validation: tuple[list[np.ndarray], np.ndarray]

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return len(self.texts)


@pytest.fixture(scope="module")
def shop(items: Items, interactions: Interactions) -> Shop:
    texts, titles = render_items(items, TextConfig())
    histories, held_out = hold_out(histories_of(interactions), max_users=10_000, keep_seen=False, seed=0)
    return Shop(texts, titles, histories, (held_out.histories, held_out.targets))


def tune(
    encoder: TextEncoder, shop: Shop, config: FinetuneConfig = QUICK, output: Path | None = None, validated: bool = True
) -> tuple[TextEncoder, FinetuneReport]:
    """Fine-tune on the shop's training histories."""
    reports: list[FinetuneReport] = []
    tuned = finetune_encoder(
        encoder,
        shop.texts,
        shop.histories,
        text_config=TextConfig(),
        config=config,
        titles=shop.titles,
        validation=shop.validation if validated else None,
        device="cpu",
        output_directory=output,
        report=reports.append,
    )
    return tuned, reports[0]


@pytest.fixture(scope="module")
def tuned(encoder: TextEncoder, shop: Shop) -> tuple[TextEncoder, FinetuneReport]:
    return tune(encoder, shop)


def advantage_of_truth(encoder: TextEncoder, shop: Shop) -> float:
    """How much nearer a held-out user's history is to the item taken next than to an item on average (cosines)."""
    histories, targets = shop.validation
    users = encoder.encode([history_text_of(history, shop.titles, TextConfig()) for history in histories])
    scores = users @ encoder.encode(shop.texts).T
    return float((scores[np.arange(len(targets)), targets] - scores.mean(axis=1)).mean())


def same_weights(first: TextEncoder, second: TextEncoder) -> bool:
    mine, theirs = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_fine_tuning_brings_histories_nearer_to_what_was_taken_next(
    encoder: TextEncoder, tuned: tuple[TextEncoder, FinetuneReport], shop: Shop
):
    assert advantage_of_truth(tuned[0], shop) > advantage_of_truth(encoder, shop) + 0.1


def test_report_tells_validation_before_and_after(tuned: tuple[TextEncoder, FinetuneReport], shop: Shop):
    report = tuned[1]
    assert report.kept
    assert report.after["ndcg@10"] > report.before["ndcg@10"]
    assert len(report.curve) == QUICK.epochs
    assert "recall@100 of content on validation 1.0000 -> 1.0000" in str(report)  # 52 items: all within 100


def test_the_encoder_given_is_left_as_it_was(encoder: TextEncoder, tuned: tuple[TextEncoder, FinetuneReport]):
    assert tuned[0] is not encoder
    assert tuned[0].fingerprint != encoder.fingerprint
    assert TextEncoder(encoder.model, name="again", precision="float32").fingerprint == encoder.fingerprint


def test_result_is_a_sentence_transformers_directory(
    tuned: tuple[TextEncoder, FinetuneReport], shop: Shop, tmp_path: Path
):
    tuned[0].save(tmp_path / "encoder")
    plain = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    theirs = plain.encode(shop.texts[:8], normalize_embeddings=True, convert_to_numpy=True)
    np.testing.assert_allclose(tuned[0].encode(shop.texts[:8]), theirs, atol=1e-5)


def test_an_encoder_that_got_worse_is_not_returned(tuned: tuple[TextEncoder, FinetuneReport], shop: Shop):
    good = tuned[0]
    # At an absurd rate the weights become noise, and the start was better.
    broken = replace(QUICK, epochs=1, learning_rate=10.0, warmup=0.0)
    back, report = tune(good, shop, broken)
    assert back is good
    assert not report.kept
    assert "not better, so the encoder stays as it was" in str(report)


def test_pairs_are_moments_of_the_training_histories_and_nothing_else(encoder: TextEncoder, shop: Shop):
    pairs = make_pairs(
        encoder, shop.texts, shop.titles, shop.histories, text_config=TextConfig(), config=QUICK, keep_seen=False
    )
    moments = {
        (user, history_text_of(history[:place], shop.titles, TextConfig()), int(history[place]))
        for user, history in enumerate(shop.histories)
        for place in range(1, len(history))
    }
    got = set(zip(pairs.users.tolist(), pairs.history_texts, pairs.positives.tolist(), strict=True))
    assert got == moments
    held_out = dict(enumerate(shop.validation[1].tolist()))  # everybody gave one
    assert not any(positive == held_out[user] for user, _, positive in got)


def test_the_trainer_reads_training_pairs_only(encoder: TextEncoder, shop: Shop, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, str]] = []

    class Spy(door.SafeTrainer):
        def __init__(self, **options: object) -> None:
            data = options["train_dataset"]
            seen.extend(zip(data["history"], data["item"], strict=True))  # pyright: ignore[reportIndexIssue]
            assert options.get("eval_dataset") is None
            super().__init__(**options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(door, "SafeTrainer", Spy)
    tune(encoder, shop, BRIEF)
    allowed = {
        (history_text_of(history[:place], shop.titles, TextConfig()), shop.texts[history[place]])
        for history in shop.histories
        for place in range(1, len(history))
    }
    assert seen
    assert set(seen) <= allowed


def test_histories_are_written_newest_first(shop: Shop):
    history = np.array([3, 1, 2])
    assert history_text_of(history, shop.titles, TextConfig()) == "; ".join(shop.titles[row] for row in (2, 1, 3))


def test_hard_negatives_are_never_items_the_user_took(encoder: TextEncoder, shop: Shop):
    config = replace(QUICK, hard_negatives=4, first_rank=1, last_rank=shop.n_items)
    pairs = make_pairs(
        encoder, shop.texts, shop.titles, shop.histories, text_config=TextConfig(), config=config, keep_seen=False
    )
    assert pairs.negatives.shape == (len(pairs), 4)
    for user, negatives in zip(pairs.users, pairs.negatives, strict=True):
        assert not np.isin(negatives, shop.histories[user]).any()
        assert len(set(negatives.tolist())) == 4


def test_positions_are_bounded_seeded_and_no_repeats():
    histories = [np.array([0, 1, 0, 2, 1]), np.array([7])]
    users, places = sample_positions(
        histories, max_pairs=10, per_user=10, keep_seen=False, rng=np.random.default_rng(0)
    )
    assert users.tolist() == [0, 0]
    assert sorted(places.tolist()) == [1, 3]  # items 1 and 2 for the first time
    _, with_repeats = sample_positions(
        histories, max_pairs=10, per_user=10, keep_seen=True, rng=np.random.default_rng(0)
    )
    assert sorted(with_repeats.tolist()) == [1, 2, 3, 4]
    draws = [
        sample_positions(histories, max_pairs=2, per_user=3, keep_seen=True, rng=np.random.default_rng(5))[1].tolist()
        for _ in range(2)
    ]
    assert draws[0] == draws[1]
    assert len(draws[0]) == 2


def test_a_run_cut_short_goes_on_from_its_checkpoint_to_the_same_weights(
    encoder: TextEncoder, tuned: tuple[TextEncoder, FinetuneReport], shop: Shop, tmp_path: Path
):
    _, short = tune(encoder, shop, replace(QUICK, max_seconds=0.0), tmp_path)
    assert 0 < short.steps < tuned[1].steps
    (run,) = tmp_path.iterdir()
    broken = run / "checkpoint-999999"  # what a kill while saving leaves behind
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    resumed, report = tune(encoder, shop, QUICK, tmp_path)
    assert report.steps == tuned[1].steps
    assert report.curve[0]["step"] == short.steps
    assert not broken.exists()
    assert same_weights(resumed, tuned[0])
    done_before, _ = tune(encoder, shop, QUICK, tmp_path)
    assert same_weights(done_before, tuned[0])


def test_checkpoints_hold_no_pickle(encoder: TextEncoder, shop: Shop, tmp_path: Path):
    tune(encoder, shop, BRIEF, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


def test_another_configuration_does_not_take_up_the_checkpoint(encoder: TextEncoder, shop: Shop, tmp_path: Path):
    tune(encoder, shop, BRIEF, tmp_path)
    tune(encoder, shop, replace(BRIEF, temperature=0.1), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_is_saved_by_the_cached_loss_and_words_can_be_frozen(encoder: TextEncoder, shop: Shop):
    config = replace(QUICK, epochs=1, batch_size=32, mini_batch_size=8, freeze_layers=1, hard_negatives=0)
    result, report = tune(encoder, shop, config, validated=False)
    assert report.before == {}
    assert "no validation" in str(report)
    start, end = encoder.model.state_dict(), result.model.state_dict()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert any("encoder.layer.1." in name for name in moved)
    assert not any("embeddings." in name or "encoder.layer.0." in name for name in moved)


def test_nothing_to_learn_from_is_an_error(encoder: TextEncoder, shop: Shop):
    alone = replace_histories(shop, [np.array([0]), np.array([1, 1])])
    with pytest.raises(ValueError, match="no history has 2 or more different items"):
        tune(encoder, alone, validated=False)
    everything = replace_histories(shop, [np.arange(shop.n_items)])
    with pytest.raises(ValueError, match=r"set finetune\.hard_negatives lower, or 0"):
        tune(encoder, everything, validated=False)


def replace_histories(shop: Shop, histories: list[np.ndarray]) -> Shop:
    return replace(shop, histories=histories)


def test_more_frozen_layers_than_there_are_is_an_error(encoder: TextEncoder, shop: Shop):
    with pytest.raises(ValueError, match=r"at most the encoder's layers \(2\), got 3"):
        tune(encoder, shop, replace(QUICK, freeze_layers=3))


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, encoder: TextEncoder, shop: Shop):
    monkeypatch.setattr(door, "_EXTRA", ("datasets", "no_such_package"))
    with pytest.raises(ImportError, match=r'no_such_package: pip install "\.\[finetune\]"'):
        tune(encoder, shop)
