"""A fit that is asked to fine-tunes BERT first, on training histories only, and says what came of it."""

from __future__ import annotations

from retrieval.data import Interactions, Items
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.fit import fit
from tests.world import tiny_config

FINETUNE = {
    "epochs": 1,
    "batch_size": 64,
    "mini_batch_size": 64,
    "learning_rate": 0.01,
    "first_rank": 3,
    "last_rank": 20,
}


def test_a_fit_fine_tunes_the_encoder_when_asked(
    items: Items, interactions: Interactions, encoder: TextEncoder
) -> None:
    before = encoder.fingerprint
    config = tiny_config(encoder={"finetune": "always"}, finetune=FINETUNE, use_reranker=False)
    fitted = fit(items, interactions, config, encoder=encoder)
    report = fitted.record["finetune"]
    assert isinstance(report, dict)
    # The tuned weights are used exactly where they were kept.
    assert (fitted.model.catalogue.encoder.fingerprint != before) == report["kept"]
    assert "finetune" in fitted.seconds


def test_a_fit_leaves_the_encoder_alone_by_default_on_a_cpu(
    items: Items, interactions: Interactions, encoder: TextEncoder
) -> None:
    fitted = fit(items, interactions, tiny_config(device="cpu", use_reranker=False), encoder=encoder)
    assert fitted.record["finetune"] is None
    assert fitted.model.catalogue.encoder.fingerprint == encoder.fingerprint
