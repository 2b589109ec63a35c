"""New items borrow from the taken items most like them: weights by hand, and what users see of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from retrieval import lending
from retrieval.catalogue import Catalogue, make_catalogue
from retrieval.encoder.heads import HeadConfig, RecallHead
from retrieval.encoder.train import embed_items
from retrieval.lending import LENDERS, lend_links, lend_residuals, lenders_of
from retrieval.sources import DenseSource, ItemItemSource, Queries
from retrieval.sources.item_items import cosine_matrix
from retrieval.text import TextConfig
from retrieval.update import add_items, replace_catalogue
from tests.world import item_frame, make_items


@pytest.fixture(scope="module")
def catalogue(encoder) -> Catalogue:
    """The world's items and, last, a twin of the third: the same texts and brand."""
    frame = item_frame()
    twin = frame.iloc[[2]].assign(item_id="twin")
    return make_catalogue(make_items(pd.concat([frame, twin], ignore_index=True)), encoder, text_config=TextConfig())


def new_rows(catalogue: Catalogue, *rows: int) -> np.ndarray:
    return np.isin(np.arange(catalogue.n_items), [row % catalogue.n_items for row in rows])


def test_only_known_items_lend_and_only_new_ones_borrow(catalogue):
    new = new_rows(catalogue, 0, 7, 20, -1)
    lenders = lenders_of(catalogue, new).tocoo()
    assert set(lenders.col) == set(np.flatnonzero(new))
    assert not new[lenders.row].any()
    assert (np.bincount(lenders.col, minlength=catalogue.n_items)[new] <= LENDERS).all()
    assert (lenders.data > 0).all()


def test_a_twin_lends_most_and_its_likeness_is_what_all_lend_together(catalogue):
    column = lenders_of(catalogue, new_rows(catalogue, -1))[:, [-1]].toarray().ravel()
    assert column.argmax() == 2
    # The same text (cosine 1), the same words (weight .5), the same brand (weight .2).
    assert column.sum() == pytest.approx(1.7, abs=1e-3)
    others = np.flatnonzero(column)
    likeness = lending._likeness(catalogue, np.full(len(others), catalogue.n_items - 1), others)
    np.testing.assert_allclose(column[column > 0] / column.sum(), likeness**4 / (likeness**4).sum(), rtol=1e-4)


def test_blocks_find_the_same_lenders(catalogue, monkeypatch):
    new = new_rows(catalogue, 1, 5, 30, -1)
    expected = lenders_of(catalogue, new).toarray()
    monkeypatch.setattr(lending, "_BLOCK", 1)
    np.testing.assert_array_equal(lenders_of(catalogue, new).toarray(), expected)


def test_an_item_whose_nearest_are_new_as_well_borrows_from_the_nearest_known_one(catalogue, monkeypatch):
    monkeypatch.setattr(lending, "_SHORTLIST", 1)
    new = new_rows(catalogue, 2, -1)
    column = lenders_of(catalogue, new)[:, [-1]].toarray().ravel()
    cosine = np.where(new, -1, catalogue.text_vectors @ catalogue.text_vectors[-1])
    assert np.flatnonzero(column).tolist() == [cosine.argmax()]


@pytest.mark.parametrize("share", [0, 1])
def test_without_new_items_or_without_others_nothing_is_lent(catalogue, share):
    lenders = lenders_of(catalogue, np.full(catalogue.n_items, bool(share)))
    assert lenders.nnz == 0
    matrix = sp.csr_matrix(np.eye(catalogue.n_items, dtype=np.float32))
    assert lend_links(matrix, lenders) is matrix


def test_links_are_the_lenders_and_a_link_to_each_lender_itself():
    matrix = np.zeros((5, 5), dtype=np.float32)
    matrix[0, 1], matrix[1, 0], matrix[1, 2], matrix[2, 1] = 0.5, 0.25, 0.125, 1.0
    lenders = np.zeros((5, 5), dtype=np.float32)
    lenders[0, 3], lenders[1, 3], lenders[2, 4] = 0.5, 0.25, 1.0
    lent = lend_links(sp.csr_matrix(matrix), sp.csr_matrix(lenders)).toarray()
    np.testing.assert_array_equal(lent[:3, :3], matrix[:3, :3])
    # To item 3: half of what leads to 0 and a quarter of what leads to 1, where an item leads to itself with twice its
    # strongest link.
    np.testing.assert_allclose(lent[:3, 3], [0.5 * 1.0 + 0.25 * 0.5, 0.5 * 0.25 + 0.25 * 0.5, 0.25 * 1.0])
    np.testing.assert_allclose(lent[3, :3], [0.5 * 1.0 + 0.25 * 0.25, 0.5 * 0.5 + 0.25 * 0.5, 0.25 * 0.125])
    assert not lent[3:, 3:].any()


def test_blocks_of_new_items_borrow_what_all_of_them_at_once_do(catalogue, monkeypatch):
    rng = np.random.default_rng(0)
    matrix = sp.csr_matrix(
        np.where(rng.random((catalogue.n_items,) * 2) < 0.3, rng.random((catalogue.n_items,) * 2), 0)
    )
    lenders = lenders_of(catalogue, new_rows(catalogue, 1, 5, 30, -1))
    expected = lend_links(matrix, lenders).toarray()
    monkeypatch.setattr(lending, "_BLOCK", 1)
    np.testing.assert_allclose(lend_links(matrix, lenders).toarray(), expected, rtol=1e-6)


def test_very_many_new_items_have_fewer_links_each(monkeypatch):
    monkeypatch.setattr(lending, "_MOST_LINKS", 40)
    matrix, lenders = np.ones((40, 40), dtype=np.float32), np.zeros((40, 40), dtype=np.float32)
    matrix[:, 38:], matrix[38:], lenders[0, 38:] = 0, 0, 1.0
    lent = lend_links(sp.csr_matrix(matrix), sp.csr_matrix(lenders)).toarray()
    assert (np.count_nonzero(lent[38:], axis=1) == 20).all()
    assert (np.count_nonzero(lent[:38, 38:], axis=0) == 20).all()


def test_a_new_item_has_the_strongest_of_its_links_only():
    rng = np.random.default_rng(0)
    matrix, lenders = rng.random((40, 40)).astype(np.float32), np.zeros((40, 40), dtype=np.float32)
    np.fill_diagonal(matrix, 0)
    matrix[-1], matrix[:, -1] = 0, 0
    lenders[:5, -1] = 0.2
    full, cut = (lend_links(sp.csr_matrix(matrix), sp.csr_matrix(lenders), per_item=n).toarray() for n in (99, 7))
    for whole, kept in ((full[-1], cut[-1]), (full[:, -1], cut[:, -1])):
        assert set(np.flatnonzero(kept)) == set(np.argsort(-whole)[:7])


def test_residuals_are_the_weighted_mean_of_the_lenders_and_zero_without_any():
    torch.manual_seed(0)
    head = RecallHead(HeadConfig(dim=8, n_heads=2), text_dim=6, n_items=4)
    before = head.residual.weight.detach().clone()
    lenders = np.zeros((4, 4), dtype=np.float32)
    lenders[0, 2], lenders[1, 2] = 0.6, 0.2
    lent = lend_residuals(head, sp.csr_matrix(lenders), np.array([False, False, True, True]))
    after = lent.residual.weight.detach()
    assert torch.equal(head.residual.weight, before)
    assert torch.equal(after[:2], before[:2])
    torch.testing.assert_close(after[2], 0.75 * before[0] + 0.25 * before[1])
    assert not after[3].any()
    text = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    from_text = head.eval().item_vectors(torch.from_numpy(text)).detach().numpy()
    np.testing.assert_allclose(embed_items(lent, text)[3], from_text[3], atol=1e-6)


def test_a_catalogue_that_did_not_change_borrows_the_same(recommender):
    same = replace_catalogue(recommender, recommender.model.catalogue.items)
    for old, now in zip(recommender.model.sources, same.model.sources, strict=True):
        if isinstance(old, ItemItemSource) and isinstance(now, ItemItemSource):
            np.testing.assert_allclose(now.matrix.toarray(), old.matrix.toarray(), atol=1e-6)
        elif isinstance(old, DenseSource) and isinstance(now, DenseSource):
            np.testing.assert_allclose(now.item_vectors, old.item_vectors, atol=1e-6)


def test_a_taken_item_with_a_new_text_has_the_text_links_of_that_text(recommender):
    model, frame = recommender.model, recommender.model.catalogue.items.frame.copy()
    untaken = model.popular.untaken

    def links(catalogue: Catalogue) -> ItemItemSource:
        together = cosine_matrix(recommender.histories, catalogue.n_items)
        learned = lend_links(together, lenders_of(catalogue, untaken))
        vectors = catalogue.text_vectors
        return ItemItemSource.with_texts("neighbours", learned, decay=0.9, text_weight=0.3, vectors=vectors)

    others = [source for source in model.sources if source.name != "neighbours"]
    told = replace(recommender, model=replace(model, sources=(links(model.catalogue), *others)))
    toy, film = frame.index[frame["item_id"] == "toy-00"][0], frame.index[frame["item_id"] == "film-05"][0]
    texts = ["title", "description", "category", "brand"]
    frame.loc[toy, texts] = frame.loc[film, texts]
    new = replace_catalogue(told, make_items(frame)).model
    found = next(source for source in new.sources if isinstance(source, ItemItemSource)).matrix
    assert found[toy, film] == pytest.approx(0.3, abs=1e-4)  # nobody took both, and the cosine of equal texts is 1
    np.testing.assert_allclose(found.toarray(), links(new.catalogue).matrix.toarray(), atol=1e-5)


@pytest.mark.parametrize("name", lending.BORROWING)
def test_who_would_take_an_item_is_shown_its_new_twin_before_other_new_items(recommender, name):
    items = recommender.model.catalogue.items
    twin = items.frame.iloc[[5]].assign(item_id="twin")
    larger = add_items(recommender, twin[["item_id", "title", "description", "brand"]])
    source = next(source for source in larger.model.sources if source.name == name)
    before = items.ids.to_rows(["toy-03", "toy-04"])
    scores = source.scan(Queries((before,), (before,), ("",))).at(np.arange(len(items) + 1)[None])[0]
    others = [row for row, item in enumerate(items.ids.ids) if item.endswith("-new")]
    assert scores[-1] > scores[others].max() > 0
