"""The FAISS calls that its own type stubs do not know, given types here once.

Search parameters do not keep their selector alive, so each function holds both until FAISS returns.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

_faiss: Any = faiss
Arrays = tuple[np.ndarray, np.ndarray]
CagraGraph: Any = _faiss.IndexHNSWCagra
"""What a CAGRA graph of a GPU becomes on the CPU; its constructor takes (dim, n_neighbours, metric)."""


def mask_selector(mask: np.ndarray) -> faiss.IDSelector:
    """Return a selector for a bool (n,) mask: one bit per row, the cheapest test FAISS has."""
    return _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def rows_selector(rows: np.ndarray) -> faiss.IDSelector:
    """Return a selector for a few rows; a flat index then reads those rows alone."""
    return _faiss.IDSelectorArray(rows)


def search_flat(index: faiss.Index, queries: np.ndarray, k: int, selector: faiss.IDSelector) -> Arrays:
    """Search a flat index among the selected rows: scores float32 and rows int64, both (q, k)."""
    return index.search(queries, k, params=_faiss.SearchParameters(sel=selector))


def search_lists(
    index: faiss.IndexIVF, queries: np.ndarray, k: int, *, n_probe: int, selector: faiss.IDSelector | None = None
) -> Arrays:
    """Search the n_probe lists nearest to each query."""
    return index.search(queries, k, params=_faiss.SearchParametersIVF(nprobe=n_probe, sel=selector))


def search_refined(
    index: faiss.IndexRefine,
    queries: np.ndarray,
    k: int,
    *,
    n_probe: int,
    refine: float,
    selector: faiss.IDSelector | None = None,
) -> Arrays:
    """Search the lists by their short codes for refine * k rows and order those by the longer codes."""
    within = _faiss.SearchParametersIVF(nprobe=n_probe, sel=selector)
    params = _faiss.IndexRefineSearchParameters(k_factor=float(refine), base_index_params=within)
    return index.search(queries, k, params=params)


def new_lists(dim: int, n_lists: int, *, family: str, code_bits: int, projection: np.ndarray | None = None) -> Any:
    """Return an empty, untrained index of inverted lists: "ivf", "ivf_sq8", "ivf_pq" or "ivf_rabitq".

    Args:
        code_bits: 6 or 8, per dimension of the codes that refine "ivf_pq", or that "ivf_rabitq" has.
        projection: float32 (dimensions left, dim), for "ivf_pq": what is stored lies behind it.
    """
    if projection is not None:
        dim = len(projection)
    quantizer, metric, kinds = _faiss.IndexFlatIP(dim), _faiss.METRIC_INNER_PRODUCT, _faiss.ScalarQuantizer
    if family == "ivf":
        return _faiss.IndexIVFFlat(quantizer, dim, n_lists, metric)
    if family == "ivf_sq8":
        return _faiss.IndexIVFScalarQuantizer(quantizer, dim, n_lists, kinds.QT_8bit, metric)
    if family == "ivf_rabitq":
        return _faiss.IndexIVFRaBitQ(quantizer, dim, n_lists, metric, True, code_bits)
    n_pieces = dim // 2 if dim % 2 == 0 else dim
    base = _faiss.IndexIVFPQFastScan(quantizer, dim, n_lists, n_pieces, 4, metric)
    if projection is None:
        kind = {6: kinds.QT_6bit, 8: kinds.QT_8bit}[code_bits]
        return _faiss.IndexRefine(base, _faiss.IndexScalarQuantizer(dim, kind, metric))
    # Rotated dimensions are all as wide: one range for all of them rounds no worse and is read faster.
    refined = _faiss.IndexRefine(base, _faiss.IndexScalarQuantizer(dim, kinds.QT_8bit_uniform, metric))
    transform = _faiss.LinearTransform(projection.shape[1], dim, False)
    _faiss.copy_array_to_vector(np.ascontiguousarray(projection, dtype=np.float32).ravel(), transform.A)
    transform.is_trained = True
    return _faiss.IndexPreTransform(transform, refined)


def transform_of(index: Any) -> Any:
    """Return the first of the transforms that vectors and queries of an IndexPreTransform go through."""
    return _faiss.downcast_VectorTransform(index.chain.at(0))


def is_projection(index: Any) -> bool:
    """Tell whether an IndexPreTransform is what `new_lists` makes with a projection, its sizes fitting each other."""
    if index.chain.size() != 1:
        return False
    transform = transform_of(index)
    shape = transform.d_out, transform.d_in
    plain = type(transform) is _faiss.LinearTransform and not transform.have_bias and transform.is_trained
    plain = plain and index.index.metric_type == index.metric_type
    return bool(plain and shape == (index.index.d, index.d) and transform.A.size() == shape[0] * shape[1])


def search_given_lists(
    index: faiss.IndexIVF,
    queries: np.ndarray,
    k: int,
    lists: np.ndarray,
    coarse: np.ndarray,
    selector: faiss.IDSelector,
) -> Arrays:
    """Search, for each query, the lists named for it.

    Args:
        lists: int64 (q, width), padded with -1.
        coarse: float32 (q, width), inner products of the queries with the centroids of those lists.
    """
    scores = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    given = (
        np.ascontiguousarray(queries, dtype=np.float32),
        np.ascontiguousarray(lists, dtype=np.int64),
        np.ascontiguousarray(coarse, dtype=np.float32),
    )
    at = [_faiss.swig_ptr(array) for array in (*given, scores, rows)]
    params = _faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=selector)
    search: Any = index
    search.search_preassigned_c(len(queries), at[0], k, at[1], at[2], at[3], at[4], False, params)
    return scores, rows


def search_graph(
    index: faiss.IndexHNSW, queries: np.ndarray, k: int, *, ef_search: int, selector: faiss.IDSelector | None
) -> Arrays:
    """Walk the graph keeping the ef_search best rows."""
    params = _faiss.SearchParametersHNSW(efSearch=ef_search, sel=selector)
    return index.search(queries, k, params=params)


def list_ids(index: faiss.IndexIVF, number: int) -> np.ndarray:
    """Return the row numbers stored in one list, int64."""
    lists: Any = index.invlists
    size = lists.list_size(number)
    if size == 0:
        return np.empty(0, dtype=np.int64)
    pointer = lists.get_ids(number)
    ids = _faiss.rev_swig_ptr(pointer, size).copy()
    lists.release_ids(number, pointer)
    return ids


def new_graph(dim: int, n_neighbours: int, *, codes: bool, ef_construction: int, seed: int) -> faiss.IndexHNSW:
    """Return an empty graph over float32 vectors, or over codes of a byte per dimension."""
    metric = _faiss.METRIC_INNER_PRODUCT
    if codes:
        index = _faiss.IndexHNSWSQ(dim, _faiss.ScalarQuantizer.QT_8bit, n_neighbours, metric)
    else:
        index = _faiss.IndexHNSWFlat(dim, n_neighbours, metric)
    index.hnsw.efConstruction = ef_construction
    index.hnsw.rng = _faiss.RandomGenerator((seed + 1) % 2**63)
    return index


def write_through(index: faiss.Index, write: Callable[[bytes], int]) -> None:
    """Serialize an index in pieces through `write`, whose exceptions come out here unchanged."""
    _faiss.write_index(index, _faiss.PyCallbackIOWriter(write))


def read(path: Path) -> Any:
    """Read an index file."""
    return _faiss.read_index(str(path))
