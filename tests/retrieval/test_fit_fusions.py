"""What the fusions are fitted beside, and which head start each of them has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval import fit_fusions
from retrieval.fit import fit
from retrieval.fusion import CrossFitted, Fusion, FusionLists
from retrieval.head_start import HeadStart
from tests.world import make_interactions, make_items, tiny_config

RECALL, PLAIN, FINAL = (HeadStart(log_odds, 0.01) for log_odds in (1.0, 3.0, 5.0))


@pytest.mark.parametrize("case", ["counts", "counts, too few lists", "nothing counts"])
def test_the_final_fusion_has_its_own_head_start_where_gpt_2_counts(encoder, monkeypatch, case):
    """And it is fitted beside scores without one."""
    real_fit = fit_fusions.cross_fit
    fits: list[tuple[CrossFitted | None, CrossFitted]] = []

    def watched(lists: FusionLists, names: Any, **options: Any) -> CrossFitted:
        base = options.get("base")
        found = real_fit(lists, names, **options)
        if base is not None:  # whether it counts by itself is chance in so small a world
            beside = found.fusion.weights.reshape(-1, len(names))[:, len(base.fusion.names) :]
            beside[...] = 0.0 if case == "nothing counts" else 0.5
        fits.append((base, found))
        return found

    def choose(fusion: Fusion, lists: FusionLists) -> HeadStart | None:
        assert fusion is fits[-1][1].fusion
        if len(fits) < 3:
            return (RECALL, PLAIN)[len(fits) - 1]
        return None if case == "counts, too few lists" else FINAL

    monkeypatch.setattr(fit_fusions, "cross_fit", watched)
    monkeypatch.setattr(fit_fusions, "choose_head_start", choose)
    items = make_items()
    fitted = fit(items, make_interactions(items), tiny_config(), encoder=encoder)

    (_, recall), (_, plain), (base, final) = fits
    assert base is not None
    n, depth = base.scores.shape
    np.testing.assert_array_equal(base.scores, plain.scores[:n, :depth])
    assert base.fusion is plain.fusion
    used = (fitted.model.recall_fusion, fitted.model_without_rerank.final_fusion, fitted.model.final_fusion)
    expected = (RECALL, PLAIN, FINAL if case == "counts" else PLAIN)
    for fusion, bare, start in zip(used, (recall, plain, final), expected, strict=True):
        lifted = bare.fusion.weights.copy()
        lifted[bare.fusion.names.index("new_item")] += start.log_odds
        np.testing.assert_allclose(fusion.weights, lifted)
        assert fusion.figures["head_start"]["log_odds"] == start.log_odds
    column = plain.fusion.names.index("new_item")
    assert final.fusion.weights[column] == plain.fusion.weights[column]
