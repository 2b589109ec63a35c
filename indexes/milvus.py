"""The same index on Milvus: for catalogues beyond one machine, or one index that many processes search.

A collection holds float32 vectors, compared by inner product, under their rows as primary keys. Once it is full it
never changes: other vectors make another collection, whose name ends with their fingerprint. So a name stands for one
set of vectors, an interrupted build goes on where it stopped, and what names the collection (a bundle) is switched in
one step, back as well. The price: a call to the server per search, and a filter travels as a list of rows.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from indexes.exact import with_ties
from indexes.hits import Hits, Param, check_allowed, check_queries, empty_hits, finish, merge
from indexes.milvus_client import TIMEOUT_S, talking_to

ROW_FIELD, VECTOR_FIELD = "row", "vector"
METRIC = "IP"
MAX_TOP = 16_384
"""Hits per query, and rows per answer, at the most: a limit of the server."""
MAX_CELLS = 1_000_000
"""Hits of one call, queries times depth: keeps an answer below the server's 64 MB."""
MAX_QUERIES = 4_096
FETCH_BYTES = 16 << 20
FILTER_ROWS = 100_000
"""Rows named in one filter expression, which is a text of some eight characters for each."""
OVERFETCH = 1.5
"""A filter over more rows than that is first tried by searching so much deeper than the share that matches asks for."""


@dataclass(frozen=True)
class MilvusIndex:
    """A collection that is full and loaded.

    params: "uri", "collection", "kind" ("flat": every row is compared, ties by lower row; "hnsw": a graph), the
    vectors' "fingerprint" (see `indexes.milvus_build`), and "ef_search" of a graph.
    """

    client: Any = field(repr=False, compare=False)
    n_items: int
    dim: int
    params: Mapping[str, Param]
    family: str = "milvus"

    @property
    def uri(self) -> str:
        """Where the collection is; see `indexes.milvus_client`."""
        return str(self.params["uri"])

    @property
    def collection(self) -> str:
        """Its name there."""
        return str(self.params["collection"])

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits, of all the vectors in order."""
        return str(self.params["fingerprint"])

    def with_params(self, **changes: Param) -> "MilvusIndex":
        """Return the same collection searched with other parameters ("ef_search")."""
        return replace(self, params={**self.params, **changes})

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`.

        Raises:
            ConnectionError: the server does not answer.
        """
        queries, k = check_queries(queries, k, self.dim), int(k)
        mask = check_allowed(allowed, self.n_items)
        n_matching = self.n_items if mask is None else int(np.count_nonzero(mask))
        depth = min(k, n_matching)
        if depth == 0 or len(queries) == 0:
            return empty_hits(len(queries), k)
        if self.params["kind"] == "flat":
            found = with_ties(
                lambda some, reach: self._best(some, reach, mask),
                self.reconstruct,
                queries,
                depth,
                n_items=self.n_items,
                rows=None if mask is None else np.flatnonzero(mask),
            )
        else:
            found = self._fill_up(self._best(queries, depth, mask), queries, mask)
        return finish(found.scores, found.rows, k)

    def reconstruct(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of these rows, float32 (len(rows), dim), exactly as they were added.

        Raises:
            ValueError: a row that the collection does not have.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        vectors = np.empty((len(numbers), self.dim), dtype=np.float32)
        width = max(1, min(MAX_TOP, FETCH_BYTES // (4 * self.dim)))
        for start in range(0, len(numbers), width):
            wanted = numbers[start : start + width]
            with talking_to(self.uri):
                answer = self.client.query(
                    self.collection,
                    filter=f"{ROW_FIELD} in {np.unique(wanted).tolist()}",
                    output_fields=[ROW_FIELD, VECTOR_FIELD],
                    limit=MAX_TOP,
                    timeout=TIMEOUT_S,
                )
            by_row = {int(entry[ROW_FIELD]): entry[VECTOR_FIELD] for entry in answer}
            if missing := [row for row in wanted.tolist() if row not in by_row]:
                raise ValueError(
                    f"collection {self.collection} at {self.uri}: expected row {missing[0]}, it is not there"
                )
            vectors[start : start + width] = [by_row[row] for row in wanted.tolist()]
        return vectors

    def vectors(self) -> np.ndarray:
        """Return all vectors in the order of their rows, float32 (n_items, dim): the way back out of Milvus."""
        return self.reconstruct(np.arange(self.n_items))

    def _best(self, queries: np.ndarray, depth: int, mask: np.ndarray | None) -> Hits:
        """The `depth` best rows that the mask lets pass; a graph may find fewer."""
        if mask is None or self.n_items <= FILTER_ROWS:
            return self._by_parts(queries, depth, mask)
        reach = math.ceil(OVERFETCH * depth * self.n_items / np.count_nonzero(mask))
        if reach > MAX_TOP:
            return self._by_parts(queries, depth, mask)
        plain = self._by_parts(queries, min(reach, self.n_items), None)
        passing = (plain.rows >= 0) & mask[plain.rows]
        first = np.argsort(~passing, axis=1, kind="stable")[:, :depth]
        kept = np.take_along_axis(passing, first, axis=1)
        rows = np.where(kept, np.take_along_axis(plain.rows, first, axis=1), -1)
        scores = np.where(kept, np.take_along_axis(plain.scores, first, axis=1), np.float32(-np.inf))
        # At the score where the plain search ended there may be more rows than it returned.
        unsure = np.flatnonzero(scores[:, -1] <= plain.scores[:, -1])
        if unsure.size:
            again = self._by_parts(queries[unsure], depth, mask)
            rows[unsure], scores[unsure] = again.rows, again.scores
        return finish(scores, rows, depth)

    def _by_parts(self, queries: np.ndarray, depth: int, mask: np.ndarray | None) -> Hits:
        found = [self._ask(queries, depth, part) for part in filter_parts(mask, self.n_items, depth)]
        return found[0] if len(found) == 1 else merge(found, depth)

    def _ask(self, queries: np.ndarray, depth: int, expression: str) -> Hits:
        """One expression, as many calls as the limits of the server want."""
        limit = min(depth, MAX_TOP)
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), depth), -1, dtype=np.int64)
        width = max(1, min(MAX_QUERIES, MAX_CELLS // limit))
        inner = {} if self.params["kind"] == "flat" else {"ef": max(int(self.params["ef_search"]), limit)}
        for start in range(0, len(queries), width):
            with talking_to(self.uri):
                answer = self.client.search(
                    self.collection,
                    data=queries[start : start + width],
                    filter=expression,
                    limit=limit,
                    output_fields=[ROW_FIELD],
                    search_params={"metric_type": METRIC, "params": inner},
                    timeout=TIMEOUT_S,
                )
            for place, hits in enumerate(answer, start=start):
                rows[place, : len(hits.ids)] = hits.ids
                scores[place, : len(hits.ids)] = hits.distances
        return finish(scores, rows, depth)

    def _fill_up(self, found: Hits, queries: np.ndarray, mask: np.ndarray | None) -> Hits:
        """Compare the queries for which a graph found too few rows with all rows that match, fetched in pieces."""
        short = np.flatnonzero(found.rows[:, -1] < 0)
        if short.size == 0:
            return found
        depth = found.rows.shape[1]
        matching = np.arange(self.n_items) if mask is None else np.flatnonzero(mask)
        best = empty_hits(len(short), depth)
        for start in range(0, len(matching), MAX_TOP):
            rows = matching[start : start + MAX_TOP]
            scores = queries[short] @ self.reconstruct(rows).T
            best = merge([best, Hits(scores=scores, rows=np.broadcast_to(rows, scores.shape))], depth)
        found.rows[short], found.scores[short] = best.rows, best.scores
        return found


def filter_parts(mask: np.ndarray | None, n_items: int, depth: int) -> Iterator[str]:
    """Yield filter expressions of ranges of rows, which together let pass what the mask does.

    Each names the rows that pass or those that do not, whichever are fewer, FILTER_ROWS at the most. Where more than
    MAX_TOP hits are wanted, a range is no longer than that, so that all of it can be returned.
    """
    if mask is None and depth <= MAX_TOP:
        yield ""
        return
    width = MAX_TOP if depth > MAX_TOP else FILTER_ROWS
    for start in range(0, n_items, width):
        stop = min(start + width, n_items)
        passing = np.arange(start, stop) if mask is None else start + np.flatnonzero(mask[start:stop])
        bounds = f"{ROW_FIELD} >= {start} and {ROW_FIELD} < {stop}"
        if len(passing) == stop - start:
            yield bounds
        elif 2 * len(passing) <= stop - start:
            if len(passing):
                yield f"{ROW_FIELD} in {passing.tolist()}"
        else:
            barred = np.setdiff1d(np.arange(start, stop), passing)
            yield f"{bounds} and {ROW_FIELD} not in {barred.tolist()}"
