"""Filters keep their recall in every family, whether they cut at random or along the meaning of the vectors."""

from functools import cache

import numpy as np
import pandas as pd
import pytest

from indexes import FAMILIES, Index, build_exact, build_index, recall
from indexes.filters import filter_mask
from tests.indexes.contract import make_queries, make_vectors

N_ITEMS, DIM, DEPTH = 6_000, 32, 100
SHARES = (0.5, 0.1, 0.01, 0.001)


@cache
def world() -> tuple[np.ndarray, np.ndarray]:
    vectors = make_vectors(N_ITEMS, DIM)
    return vectors, make_queries(vectors, 150, seed=3)


@cache
def index_of(family: str) -> Index:
    vectors, _ = world()
    return build_index(vectors, family=family, queries=make_queries(vectors, 300, seed=4))


def recall_under(family: str, allowed: np.ndarray) -> float:
    vectors, queries = world()
    truth = build_exact(vectors).search(queries, DEPTH, allowed=allowed)
    return recall(index_of(family).search(queries, DEPTH, allowed=allowed), truth)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", SHARES)
def test_a_random_filter_keeps_the_recall(family: str, share: float) -> None:
    allowed = np.random.default_rng(8).random(N_ITEMS) < share
    assert recall_under(family, allowed) >= 0.95


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", SHARES)
def test_a_filter_on_what_the_vectors_mean_keeps_the_recall(family: str, share: float) -> None:
    vectors, _ = world()
    side = vectors @ vectors[17]  # items like this one: the others' queries find their hits far away
    allowed = side >= np.quantile(side, 1 - share)
    assert recall_under(family, allowed) >= 0.95


@pytest.mark.parametrize("family", FAMILIES)
def test_a_filter_over_attributes_returns_only_its_rows(family: str) -> None:
    _, queries = world()
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"price": rng.integers(1, 100, N_ITEMS), "category": rng.choice(["Books", "Toys"], N_ITEMS)})
    allowed = filter_mask(table, 'category = "Books" and price < 20')
    rows = index_of(family).search(queries, DEPTH, allowed=allowed).rows
    assert (table.price[rows.ravel()] < 20).all()
    assert (table.category[rows.ravel()] == "Books").all()
