"""What neighbours learned stays apart from what texts share, whatever index told the likeness of the texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from indexes import Hits, Index
from retrieval.explain import explain_item
from retrieval.lending import lend_links, lenders_of
from retrieval.move_index import move_index
from retrieval.recommend import Recommender
from retrieval.sources import DenseSource, ItemItemSource
from retrieval.sources import item_items as module
from retrieval.sources.item_items import content_matrix, cosine_matrix
from retrieval.stage_one import fit_sources
from retrieval.storage import save_bundle
from retrieval.update import replace_catalogue
from tests.world import item_id

WEIGHT = 0.3


@dataclass(frozen=True)
class Rounded:
    """An index whose scores are off, as those of compressed vectors are."""

    exact: Index

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """Every second score is .02 too high, the others as much too low."""
        hits = self.exact.search(queries, k, allowed=allowed)
        return Hits(hits.scores + np.where(hits.rows % 2, np.float32(0.02), np.float32(-0.02)), hits.rows)


@pytest.fixture
def mixed(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> Recommender:
    """The world's recommender with neighbours that hold texts too, fitted where a rounding index stood."""
    monkeypatch.setattr(module, "EXACT_LINKS", 0)
    model = recommender.model
    catalogue = model.catalogue
    together = cosine_matrix(recommender.histories, catalogue.n_items)
    learned = lend_links(together, lenders_of(catalogue, model.popular.untaken))
    neighbours = ItemItemSource.with_texts(
        "neighbours",
        learned,
        decay=0.9,
        text_weight=WEIGHT,
        vectors=catalogue.text_vectors,
        index=Rounded(catalogue.index),  # pyright: ignore[reportArgumentType] - it is only searched
    )
    others = [source for source in model.sources if source.name != "neighbours"]
    return replace(recommender, model=replace(model, sources=(neighbours, *others)))


def neighbours_of(recommender: Recommender) -> ItemItemSource:
    found = next(source for source in recommender.model.sources if source.name == "neighbours")
    assert isinstance(found, ItemItemSource)
    return found


def test_a_source_holds_what_was_learned_and_its_share_of_the_texts(recommender):
    catalogue, learned = recommender.model.catalogue, neighbours_of(recommender).learned
    told = {"decay": 0.9, "vectors": catalogue.text_vectors}
    mixed = ItemItemSource.with_texts("neighbours", learned, text_weight=WEIGHT, **told)
    wanted = learned.toarray() + np.float32(WEIGHT) * content_matrix(catalogue.text_vectors).toarray()
    np.testing.assert_allclose(mixed.matrix.toarray(), wanted, atol=1e-6)
    assert mixed.learned is learned
    plain = ItemItemSource.with_texts("neighbours", learned, text_weight=0.0, **told)
    assert plain.matrix is plain.learned is learned
    with pytest.raises(ValueError, match="neighbours: expected what was learned apart from texts, got none"):
        ItemItemSource("neighbours", mixed.matrix, decay=0.9, text_weight=WEIGHT)


def test_a_fit_keeps_them_apart(recommender):
    model, histories = recommender.model, recommender.histories
    catalogue, settings = model.catalogue, replace(recommender.settings, neighbours_content=WEIGHT)
    head = next(source for source in model.sources if isinstance(source, DenseSource)).head
    sources = fit_sources(catalogue, histories, head, settings, keep_seen=False, device="cpu")
    found = next(source for source in sources if source.name == "neighbours")
    assert isinstance(found, ItemItemSource)
    learned = lend_links(cosine_matrix(histories, catalogue.n_items), lenders_of(catalogue, model.popular.untaken))
    np.testing.assert_array_equal(found.learned.toarray(), learned.toarray())
    mixed = learned + WEIGHT * content_matrix(catalogue.text_vectors)
    np.testing.assert_array_equal(found.matrix.toarray(), mixed.toarray())


def test_rebuilds_with_another_index_learn_nothing_from_texts(mixed):
    items, catalogue, before = mixed.model.catalogue.items, mixed.model.catalogue, neighbours_of(mixed)
    again = replace_catalogue(replace_catalogue(mixed, items), items)
    after = neighbours_of(again)
    assert after.learned.nnz == before.learned.nnz
    np.testing.assert_allclose(after.learned.toarray(), before.learned.toarray(), atol=1e-6)
    exact = before.learned + WEIGHT * content_matrix(catalogue.text_vectors, index=catalogue.index)
    np.testing.assert_allclose(after.matrix.toarray(), exact.toarray(), atol=1e-6)


def test_a_bundle_keeps_both_and_a_move_and_a_rebuild_change_neither(mixed, tmp_path):
    root = tmp_path / "bundle"
    before = neighbours_of(mixed)
    save_bundle(root, mixed)
    for _ in range(2):
        loaded = Recommender.load(root, device="cpu", precision="float32")
        found = neighbours_of(loaded)
        assert (found.decay, found.text_weight) == (0.9, WEIGHT)
        for one, other in ((found.matrix, before.matrix), (found.learned, before.learned)):
            np.testing.assert_array_equal(one.toarray(), other.toarray())
        move_index(root, to="hnsw")
    rebuilt = neighbours_of(replace_catalogue(loaded, loaded.model.catalogue.items))
    np.testing.assert_allclose(rebuilt.learned.toarray(), before.learned.toarray(), atol=1e-6)


def test_likeness_that_an_index_rounded_is_not_said_to_be_taken_together(mixed):
    """Nobody takes items of two topics."""
    model, history = mixed.model, np.arange(12)
    rows = mixed.item_ids.to_rows([item_id(topic, place) for topic in ("film", "kitchen") for place in range(12)])
    assert neighbours_of(mixed).matrix[history][:, rows].nnz
    for row in rows:
        said = explain_item(int(row), history, 0, model.sources, model.catalogue)
        assert not any(sentence.startswith("taken together") for sentence in said)
