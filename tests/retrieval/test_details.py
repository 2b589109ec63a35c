"""Every candidate beside the history's items: figures that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from retrieval.candidates import feature_names, gather_candidates
from retrieval.data import IdMap, Items
from retrieval.details import HISTORY_ITEMS, SUMS, Details, details_of, of_features, of_matrix, of_vectors
from retrieval.marks import marks_of, part_matrix, word_matrix
from retrieval.sources import PopularSource, Queries


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# What the items of the history (lines) have to do with items 3 and 4 (columns).
ALIKE = np.zeros((5, 5), dtype=np.float32)
ALIKE[0, 3:], ALIKE[1, 3:], ALIKE[2, 3:] = (8, 0), (0, 4), (2, 1)


def test_details_are_what_the_newest_the_recent_all_and_the_nearest_items_say():
    details = Details((("some", of_matrix(sp.csr_matrix(ALIKE))),))
    assert details.names == ["some_newest", "some_recent", "some_mean", "some_nearest"]
    found = details.raw(rows(3, 4, -1)[None], [rows(0, 1, 2)])
    np.testing.assert_allclose(found[0, 0], [2, 2 + 0.5 * 0 + 0.25 * 8, 10 / 3, 8])
    np.testing.assert_allclose(found[0, 1], [1, 1 + 0.5 * 4 + 0.25 * 0, 5 / 3, 4])
    assert not found[0, 2].any()
    assert found.dtype == np.float32


def test_only_the_newest_items_are_looked_at():
    details = Details((("some", of_matrix(sp.csr_matrix(ALIKE))),))
    long = np.concatenate([rows(0), np.full(HISTORY_ITEMS, 2)])
    assert details.raw(rows(3)[None], [long])[0, 0, SUMS.index("nearest")] == 2
    assert details.raw(rows(3)[None], [long[:-1]])[0, 0, SUMS.index("nearest")] == 8


def test_an_empty_history_and_an_empty_list_have_no_details():
    details = Details((("some", of_matrix(sp.csr_matrix(ALIKE))),))
    assert not details.raw(np.array([[3, 4], [-1, -1]]), [rows(), rows(0)]).any()
    assert details.raw(np.empty((1, 0), dtype=np.int64), [rows(0)]).shape == (1, 0, 4)


def test_a_users_details_do_not_depend_on_the_other_users():
    rng = np.random.default_rng(0)
    details = Details((("some", of_vectors(rng.normal(size=(30, 7)).astype(np.float32))),))
    lists, histories = rng.integers(30, size=(9, 12)), [rng.integers(30, size=n) for n in range(1, 10)]
    together = details.raw(lists, histories)
    alone = np.concatenate([details.raw(lists[user][None], [histories[user]]) for user in range(9)])
    np.testing.assert_array_equal(together, alone)


def test_details_stand_behind_the_features_as_deviations_from_the_users_average():
    details = Details((("some", of_matrix(sp.csr_matrix(ALIKE))),))
    source = PopularSource(np.array([0, 0, 0, 2, 1]))
    asked = Queries((rows(0, 1, 2),), (rows(0, 1, 2),), ("",))
    before = gather_candidates([source], asked, per_source=5)
    after = gather_candidates([source], asked, per_source=5, details=details)
    assert after.rows.tolist() == [[3, 4]]
    n = before.features.shape[2]
    np.testing.assert_array_equal(after.features[:, :, :n], before.features)
    np.testing.assert_allclose(after.features[0, :, n:], [[1, 1, 1, 1], [-1, -1, -1, -1]], atol=1e-6)
    assert feature_names([source], details)[n:] == details.names


def test_vectors_and_sparse_features_give_inner_products():
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    expected = [[0.6, 0], [1, 0.8]]
    np.testing.assert_allclose(of_vectors(vectors)(rows(0, 1), rows(1, 2)), expected, atol=1e-6)
    np.testing.assert_allclose(of_features(sp.csr_matrix(vectors))(rows(0, 1), rows(1, 2)), expected, atol=1e-6)


def test_parts_of_a_value_are_compared_one_by_one():
    marks = part_matrix(["Comedy|Drama", "drama", "Tools > Saws, Hand", "", "DRAMA; comedy"])
    cosine = (marks @ marks.T).toarray()
    np.testing.assert_allclose(cosine[0], [1, np.sqrt(0.5), 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(cosine[2, 2], 1, atol=1e-6)
    assert not cosine[3].any()
    assert part_matrix(["", ""]).shape == (2, 1)


def test_rare_words_make_titles_alike():
    marks = word_matrix(["red lamp", "red chair", "blue lamp", "red zebra", "blue zebra", ""])
    cosine = (marks @ marks.T).toarray()
    assert cosine[3, 4] > cosine[0, 1] > 0
    assert cosine[0, 4] == 0 == cosine[5, 5]
    assert word_matrix(["", "!"]).nnz == 0


def test_items_without_attributes_have_words_and_are_alike_in_nothing_else():
    items = Items(IdMap.of(["a", "b"]), pd.DataFrame({"item_id": ["a", "b"], "title": ["red lamp", "lamp"]}))
    marks = marks_of(items, ["red lamp", "lamp"])
    assert {name: matrix.nnz for name, matrix in marks.items()} == {"words": 3, "category": 0, "brand": 0}


def test_a_model_is_told_what_it_was_fitted_with_alone(fitted):
    """A bundle of items without a category, made before item tables were completed, knows of none."""
    model = fitted.model
    names = tuple(name for name in model.recall_fusion.names if not name.startswith(("category_", "brand_")))
    earlier = replace(model, recall_fusion=replace(model.recall_fusion, names=names))
    assert [name for name, _ in earlier.details.kinds] == ["dense", "neighbours", "transitions", "content", "words"]


def test_a_fitted_model_knows_the_likenesses_of_its_sources_texts_and_attributes(fitted):
    model = fitted.model
    details = details_of(model.catalogue, model.sources)
    assert [name for name, _ in details.kinds] == [
        "dense",
        "neighbours",
        "transitions",
        "content",
        "words",
        "category",
        "brand",
    ]
    assert model.final_fusion.names == (*model.recall_fusion.names, "rerank_score")
    assert model.recall_fusion.names[-len(details.names) :] == tuple(details.names)
