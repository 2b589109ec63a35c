"""A new catalogue for a fitted recommender: items come, go and change their texts; what was learned stays.

Only texts that changed are embedded. An item that nobody took yet is placed by its text and by what it borrows from the
taken items most like it (`retrieval.lending`), as in a fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from retrieval.added_items import as_frame, like_catalogue, put_below
from retrieval.catalogue import Catalogue, render_items
from retrieval.data import IdMap, Interactions, Items
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.train import embed_items
from retrieval.histories import histories_of, last_visits
from retrieval.lending import BORROWING, lend_links, lend_residuals, lenders_of
from retrieval.move_index import index_like
from retrieval.recommend import Recommender
from retrieval.sources import (
    ContentSource,
    DenseSource,
    FreshSource,
    HeadSource,
    ItemItemSource,
    LexicalSource,
    PopularSource,
    RecentSource,
    RepeatSource,
    Source,
)
from retrieval.sources.popular import UNTAKEN


def add_items(recommender: Recommender, frame: pd.DataFrame | Sequence[Mapping[str, object]]) -> Recommender:
    """A recommender that also knows these items: columns item_id, title and whatever else the catalogue has.

    Args:
        frame: a table, or one mapping per item (what a queue delivers).

    Raises:
        ValueError: an item that is already there, the same id twice, no title, or a value that does not fit the
            catalogue's column (see `like_catalogue`); the row and its id are named, and nothing was done.
    """
    old = recommender.model.catalogue.items
    new = like_catalogue(as_frame(frame), old.frame)
    known = [item_id for item_id in IdMap.of(new["item_id"]).ids if item_id in old.ids]
    if known:
        raise ValueError(f"add_items: expected new items, got known ones: {known[:5]}; replace_catalogue changes texts")
    joined = put_below(old.frame, new)
    return replace_catalogue(recommender, Items(IdMap.of(joined["item_id"]), joined))


def replace_catalogue(recommender: Recommender, items: Items, interactions: Interactions | None = None) -> Recommender:
    """The same models over another item table, matched by item id; items that are gone leave histories too.

    Args:
        interactions: newer histories of the users (over `items`), for serving; the models are not trained on them.

    Raises:
        ValueError: no item of the old catalogue is left, so that nothing learned applies; or interactions over another
            item table.
    """
    if interactions is not None:
        interactions.require_items(items.ids)
    model = recommender.model
    place = model.catalogue.items.ids.to_rows(items.ids.ids, unknown="ignore")
    if not (place >= 0).any():
        raise ValueError("replace_catalogue: the new items share no id with the bundle; fit a new one")
    catalogue = _catalogue(model.catalogue, items, place, recommender)
    new = (place < 0) | model.popular.untaken[np.maximum(place, 0)]
    moved = _Moved(catalogue, place, new, lenders_of(catalogue, new), recommender)
    sources = tuple(moved.source(source) for source in model.sources)
    if interactions is None:
        new_row = np.full(model.catalogue.n_items, -1, dtype=np.int64)
        new_row[place[place >= 0]] = np.flatnonzero(place >= 0)
        kept = [new_row[history] for history in recommender.histories]
        users, histories, visits = recommender.users, [rows[rows >= 0] for rows in kept], recommender.visits
    else:
        users, histories, visits = interactions.users, histories_of(interactions), last_visits(interactions)
    learned = model.learned_vectors
    if learned is not None:
        learned = np.where((place >= 0)[:, None], learned[np.maximum(place, 0)], 0)
    changed = replace(model, catalogue=catalogue, sources=sources, learned_vectors=learned)
    # No version on disk is this one: what the old bundle's manifest tells is not true of it.
    return replace(recommender, model=changed, users=users, histories=histories, visits=visits, facts={})


def _catalogue(old: Catalogue, items: Items, place: np.ndarray, recommender: Recommender) -> Catalogue:
    """Texts rendered anew, vectors taken over where the text is the same."""
    texts, titles = render_items(items, old.text_config)
    vectors = np.empty((len(texts), old.text_vectors.shape[1]), dtype=np.float32)
    same = np.array([p >= 0 and old.texts[p] == text for p, text in zip(place, texts, strict=True)])
    vectors[same] = old.text_vectors[place[same]]
    changed = np.flatnonzero(~same)
    if len(changed):
        vectors[changed] = old.encoder.encode([texts[row] for row in changed])
    index = index_like(old.index, vectors, recommender.config)
    return Catalogue(items, texts, titles, vectors, index, old.encoder, old.text_config)


@dataclass(frozen=True)
class _Moved:
    """The sources over a new catalogue.

    place: int64 (n_items,), each item's row in the old catalogue, -1 for one that was not there.
    new: bool (n_items,), the items that nobody took. lenders: what they borrow from, see `lenders_of`.
    """

    catalogue: Catalogue
    place: np.ndarray
    new: np.ndarray
    lenders: sp.csr_matrix
    recommender: Recommender

    def source(self, source: Source) -> Source:
        """One of the old sources, moved."""
        catalogue = self.catalogue
        if isinstance(source, DenseSource):
            head = self._head(source.head)
            vectors = embed_items(head, catalogue.text_vectors)
            return DenseSource(head, index_like(source.index, vectors, self.recommender.config), vectors)
        if isinstance(source, HeadSource):
            head, beside = self._head(source.head), self._numbers(source.beside)
            return HeadSource.of(source.name, head, catalogue.text_vectors, beside)
        if isinstance(source, ItemItemSource):
            return self._links(source)
        if isinstance(source, ContentSource):
            return ContentSource(catalogue.encoder, catalogue.index, catalogue.text_vectors, decay=source.decay)
        if isinstance(source, LexicalSource):
            return LexicalSource(catalogue.texts, query_words=source.query_words)
        if isinstance(source, PopularSource):
            return PopularSource.of_scores(self._numbers(source.scores, absent=UNTAKEN))
        if isinstance(source, RecentSource):
            return RecentSource(self._numbers(source.scores))
        if isinstance(source, FreshSource):
            return FreshSource(source.edges, self._numbers(source.shares), source.typical)
        if isinstance(source, RepeatSource):
            return RepeatSource(catalogue.n_items, decay=source.decay)
        raise TypeError(f"replace_catalogue: no way to move source {source.name!r}")

    def _numbers(self, values: np.ndarray, *, absent: float = 0.0) -> np.ndarray:
        """What stands in the last axis for each item, float32, in the new order; `absent` where it is new."""
        return np.where(self.place >= 0, values[..., np.maximum(self.place, 0)], absent).astype(np.float32)

    def _head(self, head: RecallHead) -> RecallHead:
        """A head, moved, with what new items borrow."""
        return lend_residuals(_moved_head(head, self.place, self.catalogue), self.lenders, self.new)

    def _links(self, source: ItemItemSource) -> ItemItemSource:
        """What was learned of taken items, and what the others borrow now: texts and lenders may have changed."""
        if source.name not in BORROWING:
            return ItemItemSource(source.name, _moved_matrix(source.matrix, self.place), decay=source.decay)
        return ItemItemSource.with_texts(
            source.name,
            lend_links(_moved_matrix(source.learned, np.where(self.new, -1, self.place)), self.lenders),
            decay=source.decay,
            text_weight=source.text_weight,
            vectors=self.catalogue.text_vectors,
            index=self.catalogue.index,
        )


def _moved_head(head: RecallHead, place: np.ndarray, catalogue: Catalogue) -> RecallHead:
    """The head with its residuals in the new order; new items have a residual of zero, which is none."""
    moved = RecallHead(head.config, text_dim=catalogue.text_vectors.shape[1], n_items=catalogue.n_items)
    state = dict(head.state_dict())
    rows = torch.from_numpy(np.maximum(place, 0))
    known = torch.from_numpy(place >= 0).unsqueeze(1)
    state["residual.weight"] = state["residual.weight"].cpu()[rows] * known
    moved.load_state_dict(state)
    return moved.to(next(head.parameters()).device).eval()


def _moved_matrix(matrix: sp.csr_matrix, place: np.ndarray) -> sp.csr_matrix:
    """Rows and columns in the new order, empty for new items."""
    known = np.flatnonzero(place >= 0)
    move = sp.csr_matrix(
        (np.ones(len(known), np.float32), (known, place[known])), shape=(len(place), len(matrix.indptr) - 1)
    )
    return sp.csr_matrix(move @ matrix @ move.T)
