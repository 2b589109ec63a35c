"""What the fusions are fitted beside, and what both of them have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from retrieval import fit_fusions
from retrieval.fit import fit
from retrieval.fusion import CrossFitted, Fusion, FusionLists
from tests.world import make_interactions, make_items, tiny_config

LIFT = 3.0


def test_gpt_2_is_fitted_beside_scores_without_the_head_start_that_both_fusions_have(encoder, monkeypatch):
    real_fit = fit_fusions.cross_fit
    fits: list[tuple[CrossFitted | None, CrossFitted]] = []

    def watched(lists: FusionLists, names: Any, **options: Any) -> CrossFitted:
        found = real_fit(lists, names, **options)
        fits.append((options.get("base"), found))
        return found

    def lifted(fusion: Fusion, lists: FusionLists) -> Fusion:
        weights = fusion.weights.copy()
        weights[fusion.names.index("new_item")] += LIFT
        return replace(fusion, weights=weights)

    monkeypatch.setattr(fit_fusions, "cross_fit", watched)
    monkeypatch.setattr(fit_fusions, "give_head_start", lifted)
    items = make_items()
    fitted = fit(items, make_interactions(items), tiny_config(), encoder=encoder)

    (_, recall), (_, plain), (base, _) = fits
    assert base is not None
    n, depth = base.scores.shape
    np.testing.assert_array_equal(base.scores, plain.scores[:n, :depth])
    column = plain.fusion.names.index("new_item")
    for fusion in (base.fusion, fitted.model_without_rerank.final_fusion, fitted.model.final_fusion):
        np.testing.assert_allclose(fusion.weights[column], plain.fusion.weights[column] + LIFT)
    column = recall.fusion.names.index("new_item")
    np.testing.assert_allclose(fitted.model.recall_fusion.weights[column], recall.fusion.weights[column] + LIFT)
