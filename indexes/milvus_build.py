"""Fills a Milvus collection with vectors, and finds a full one again."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from indexes.hits import Param
from indexes.milvus import METRIC, ROW_FIELD, VECTOR_FIELD, MilvusIndex
from indexes.milvus_client import (
    TIMEOUT_S,
    check_name,
    check_uri,
    connect,
    import_pymilvus,
    is_local,
    talking_to,
)
from indexes.vectors import Progress, check_shape, vectors_fingerprint

KINDS = ("flat", "hnsw")
FLAT_ITEMS = 50_000
"""Comparing every row is the choice up to here."""
BATCH_BYTES = 8 << 20
"""Of one insert; the server takes 64 MB."""
BUILD_TIMEOUT_S = 3_600.0
"""For flushing, indexing and loading, which wait until the server is done."""
_GRAPH = {"M": 32, "efConstruction": 200}
_EF_SEARCH = 128
_NAME_DIGITS = 16


def build_milvus(
    vectors: np.ndarray, *, uri: str, name: str = "tandem", kind: str = "auto", progress: Progress | None = None
) -> MilvusIndex:
    """Put the vectors into a collection of their own, `name`_`kind`_<fingerprint>; one that is there and full is taken.

    Rows are written in order, batch by batch, and a row written twice is one row: an interrupted build goes on at
    the batch where it stopped, and two builders at once do no harm. Nobody reads the collection before it is full,
    since nothing names it.

    Args:
        vectors: float32 (n_items, dim), an array or a memory map; row i of the index is row i of it.
        uri: see `indexes.milvus_client`.
        kind: "flat", "hnsw" (on a server: tens of thousands of items and more), or "auto", which chooses by n_items.

    Raises:
        ValueError: NaN or infinity in a vector (its row is named), a wrong shape, an unusable uri or name.
        ImportError: pymilvus is missing. ConnectionError: the server does not answer.
    """
    n_items, dim = check_shape(vectors)
    if kind not in (*KINDS, "auto"):
        raise ValueError(f"kind: expected 'auto', 'flat' or 'hnsw', got {kind!r}")
    uri = check_uri(uri)
    if kind == "auto":
        kind = "flat" if n_items <= FLAT_ITEMS or is_local(uri) else "hnsw"
    fingerprint = vectors_fingerprint(vectors)
    collection = check_name(f"{name}_{kind}_{fingerprint[:_NAME_DIGITS]}")
    client = connect(uri, make=True)
    with talking_to(uri):
        _fill(client, collection, vectors, kind, progress)
    params: dict[str, Param] = {"uri": uri, "collection": collection, "kind": kind, "fingerprint": fingerprint}
    if kind == "hnsw":
        params = {**params, "ef_search": _EF_SEARCH}
    return _attach(client, params, n_items=n_items, dim=dim)


def attach_milvus(params: Mapping[str, Param], *, n_items: int, dim: int) -> MilvusIndex:
    """Find a collection again that `build_milvus` filled.

    Args:
        params: those of the index that was built.

    Raises:
        ValueError: it is not there, or not of these vectors.
        FileNotFoundError, ImportError, ConnectionError, indexes.Locked: see `indexes.milvus_client.connect`.
    """
    missing = {"uri", "collection", "kind", "fingerprint"} - params.keys()
    if missing or params["kind"] not in KINDS or (params["kind"] == "hnsw" and "ef_search" not in params):
        expected = "uri, collection, kind and fingerprint of a collection, and ef_search of a graph"
        raise ValueError(f"params: expected {expected}, got {dict(params)}")
    uri = check_uri(str(params["uri"]))
    return _attach(connect(uri), params, n_items=n_items, dim=dim)


def drop_collection(uri: str, collection: str) -> None:
    """Delete a collection with all its vectors; one that is not there is fine. FileNotFoundError: no .db file there."""
    uri = check_uri(uri)
    client = connect(uri)
    with talking_to(uri):
        client.drop_collection(check_name(collection), timeout=TIMEOUT_S)


def list_collections(uri: str) -> list[str]:
    """Return the names of all collections there, ours and others', sorted. FileNotFoundError: no .db file there."""
    uri = check_uri(uri)
    client = connect(uri)
    with talking_to(uri):
        return sorted(client.list_collections(timeout=TIMEOUT_S))


def _fill(client: Any, collection: str, vectors: np.ndarray, kind: str, progress: Progress | None) -> None:
    """Do what is still to be done until the collection is full, indexed and loaded."""
    n_items, dim = check_shape(vectors)
    if not client.has_collection(collection, timeout=TIMEOUT_S):
        _create(client, collection, dim)
    if not client.list_indexes(collection, timeout=TIMEOUT_S):
        n_there = int(client.get_collection_stats(collection, timeout=TIMEOUT_S)["row_count"])
        _write(client, collection, vectors, n_there, progress)
        # Only now, so that one index is built over all rows, and what follows waits for it.
        client.create_index(collection, _index_params(client, kind), timeout=BUILD_TIMEOUT_S)
    client.load_collection(collection, timeout=BUILD_TIMEOUT_S)
    if _count(client, collection) < n_items:  # the statistics count a row that was written twice as two
        _write(client, collection, vectors, 0, progress)


def _write(client: Any, collection: str, vectors: np.ndarray, n_there: int, progress: Progress | None) -> None:
    """Write the rows from the batch on that `n_there` rows end in, and bring them to the server's disk."""
    n_items, dim = check_shape(vectors)
    batch = max(1, BATCH_BYTES // (4 * dim))
    for start in range(n_there // batch * batch, n_items, batch):
        block = np.ascontiguousarray(vectors[start : start + batch], dtype=np.float32)
        rows = [{ROW_FIELD: start + place, VECTOR_FIELD: vector} for place, vector in enumerate(block)]
        client.upsert(collection, rows, timeout=TIMEOUT_S)
        if progress is not None:
            progress("add", start + len(block), n_items)
    client.flush(collection, timeout=BUILD_TIMEOUT_S)


def _create(client: Any, collection: str, dim: int) -> None:
    types = import_pymilvus().DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(ROW_FIELD, types.INT64, is_primary=True)
    schema.add_field(VECTOR_FIELD, types.FLOAT_VECTOR, dim=dim)
    # Strong: a search sees every row that was written before it; nothing is written once the collection is full.
    client.create_collection(collection, schema=schema, consistency_level="Strong", timeout=TIMEOUT_S)


def _index_params(client: Any, kind: str) -> Any:
    params = client.prepare_index_params()
    graph = {"index_type": "HNSW", "params": _GRAPH} if kind == "hnsw" else {"index_type": "FLAT", "params": {}}
    params.add_index(VECTOR_FIELD, metric_type=METRIC, **graph)
    return params


def _count(client: Any, collection: str) -> int:
    answer = client.query(collection, output_fields=["count(*)"], consistency_level="Strong", timeout=TIMEOUT_S)
    return int(answer[0]["count(*)"])


def _attach(client: Any, params: Mapping[str, Param], *, n_items: int, dim: int) -> MilvusIndex:
    """Load the collection and compare what the server tells of it with what it must be."""
    uri, collection = str(params["uri"]), str(params["collection"])
    place = f"collection {collection} at {uri}"
    with talking_to(uri):
        if not client.has_collection(collection, timeout=TIMEOUT_S):
            raise ValueError(f"{place}: expected {n_items} vectors of dimension {dim}, there is no such collection")
        fields = {entry["name"]: entry for entry in client.describe_collection(collection, timeout=TIMEOUT_S)["fields"]}
        if not {ROW_FIELD, VECTOR_FIELD} <= fields.keys() or not fields[ROW_FIELD].get("is_primary"):
            raise ValueError(f"{place}: expected the fields {ROW_FIELD} and {VECTOR_FIELD}, got {sorted(fields)}")
        found_dim = int(fields[VECTOR_FIELD]["params"]["dim"])
        if found_dim != dim:
            raise ValueError(f"{place}: expected vectors of dimension {dim}, got {found_dim}")
        metric = (client.describe_index(collection, VECTOR_FIELD, timeout=TIMEOUT_S) or {}).get("metric_type")
        if metric != METRIC:
            raise ValueError(f"{place}: expected the metric {METRIC}, got {metric}")
        client.load_collection(collection, timeout=BUILD_TIMEOUT_S)
        count = _count(client, collection)
    if count != n_items:
        raise ValueError(f"{place}: expected {n_items} vectors, got {count}")
    return MilvusIndex(client, n_items, dim, dict(params))
