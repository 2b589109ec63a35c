"""One FAISS thread per test (on arrays this small a second one only waits), and what every family is asked with."""

from collections.abc import Iterator

import faiss
import numpy as np
import pytest

from tests.indexes.contract import make_queries, make_vectors


@pytest.fixture(autouse=True, scope="session")
def one_faiss_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """The vectors of the contract."""
    return make_vectors()


@pytest.fixture(scope="module")
def queries(vectors: np.ndarray) -> np.ndarray:
    """Queries near them."""
    return make_queries(vectors, 64)
