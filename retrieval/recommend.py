"""The front door: history or user id in, ranked list out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from indexes import Hits
from retrieval.config import Config
from retrieval.data import IdMap, Interactions, canonical_id
from retrieval.data.ids import brief, listed
from retrieval.explain import explain_item, found_by
from retrieval.histories import histories_of, last_visits
from retrieval.item_filter import item_mask
from retrieval.results import Recommendation, RecommendationList, check_k, note_of
from retrieval.sources import DenseSource, Queries, visits_of
from retrieval.stage_one import SourceSettings
from retrieval.text import clean_text
from retrieval.two_stage import Ranked, TwoStage

Filters = str | Mapping[str, object] | None


@dataclass(frozen=True)
class _Asked:
    """Whose list is wanted: item rows, oldest first, and the last visit (see `Queries`; None: not known).

    ignored: the ids of the history that the catalogue does not know. note: where the list is not by the user's own
        history.
    """

    rows: np.ndarray
    visit: np.ndarray | None = None
    ignored: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Recommender:
    """A fitted two-stage recommender and the histories of the users it knows. Nothing changes it.

    histories: per user row of `users` int64 item rows, oldest first. visits: each one's last (see `Queries`), as of
        the newest interaction of anybody.
    config, settings: how it was fitted. facts: what the bundle's manifest tells (version, figures).
    """

    model: TwoStage
    users: IdMap
    histories: Sequence[np.ndarray]
    visits: np.ndarray
    config: Config
    settings: SourceSettings
    facts: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, model: TwoStage, interactions: Interactions, config: Config, settings: SourceSettings) -> Recommender:
        """A recommender for the users of these interactions, with the histories they have there.

        Raises:
            ValueError: interactions over another item table than the model's.
        """
        interactions.require_items(model.catalogue.items.ids)
        histories, visits = histories_of(interactions), last_visits(interactions)
        return cls(model, interactions.users, histories, visits, config, settings)

    @classmethod
    def load(
        cls, bundle: str | Path, *, device: str = "auto", precision: str = "auto", verify: bool = True
    ) -> Recommender:
        """Load a published bundle (its root, or one version).

        Args:
            verify: compare every file with the manifest first; a damaged bundle is never served.

        Raises:
            FileNotFoundError: there is no bundle. indexes.DamagedArtefact: a file is not what the manifest says.
        """
        from retrieval.storage import load_bundle  # the bundle knows the recommender, not the other way round

        return load_bundle(Path(bundle), device=device, precision=precision, verify=verify)

    def __repr__(self) -> str:
        reranker = "none" if self.model.reranker is None else self.model.reranker.config.model
        return f"Recommender({len(self.item_ids):,} items, {len(self.users):,} users, reranker {reranker})"

    @property
    def item_ids(self) -> IdMap:
        """Outside ids <-> item rows."""
        return self.model.catalogue.items.ids

    def recommend(
        self,
        user_id: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 10,
        filters: Filters = None,
        explain: bool = False,
    ) -> RecommendationList:
        """The k best items for a known user, or for a history of item ids, oldest first.

        An unknown user without a history gets the popular list, and the note says so. Items of the history that the
        catalogue does not know are left out and named. What is thought of an item depends neither on the filter nor
        on k: a filtered list is the same list without the others, and with what then has its turn. (A k above the
        rerank depth lets more candidates in, so that one of them may stand among the first.)

        Args:
            filters: an attribute filter, as text or as a structure (see `indexes.filters`).
            explain: reasons as sentences instead of source names.

        Raises:
            ValueError: k outside 1..1000, or neither a user nor a history, or a filter that cannot be read.
        """
        k, asked = check_k(k), self._asked(user_id, history)
        ranked = self._rank([asked], k=k, filters=filters)
        name = None if user_id is None else canonical_id(user_id)
        items = self._items(ranked, asked, k, explain)
        note = note_of(len(items), k, asked.note or self._cold_note(asked.rows, name))
        return RecommendationList(items, name, note, asked.ignored)

    def recommend_many(
        self,
        user_ids: Sequence[str] | None = None,
        *,
        histories: Sequence[Sequence[str] | None] | None = None,
        k: int = 10,
        filters: Filters = None,
    ) -> pd.DataFrame:
        """Lists for many users at once, the same as one by one: columns user_id, item_id, rank, score.

        Args:
            user_ids: known or unknown users; with histories, the names to give them.
            histories: per user item ids, oldest first; None takes the known users' own, or a known user's.

        Raises:
            ValueError: see `recommend`; or as many histories as users were expected.
        """
        if user_ids is None and histories is None:
            raise ValueError("recommend_many: expected user_ids or histories, got neither")
        given = None if histories is None else listed("histories", histories, "histories")
        names = [str(n) for n in range(len(given or ()))] if user_ids is None else listed("user_ids", user_ids, "ids")
        if given is not None and len(given) != len(names):
            raise ValueError(f"recommend_many: expected {len(names)} histories, one per user, got {len(given)}")
        given = given if given is not None else [None] * len(names)
        asked = [self._asked(name, history) for name, history in zip(names, given, strict=True)]
        ranked = self._rank(asked, k=k, filters=filters)
        real = ranked.rows >= 0
        place, _ = np.nonzero(real)
        ids = np.asarray([canonical_id(name) for name in names], dtype=object)
        return pd.DataFrame(
            {
                "user_id": ids[place],
                "item_id": self.item_ids.to_ids(ranked.rows[real]),
                "rank": (np.cumsum(real, axis=1))[real].astype(np.int32),
                "score": ranked.scores[real],
            }
        )

    def search(self, text: str, *, k: int = 10, filters: Filters = None) -> RecommendationList:
        """The k items whose texts are nearest to a text; the score is the cosine of the BERT vectors.

        Raises:
            ValueError: an empty text, k outside 1..1000, or a filter that cannot be read.
        """
        wanted = clean_text(text) if isinstance(text, str) else ""
        if not wanted:
            raise ValueError(f"search: expected some text, got {text!r}")
        k, catalogue = check_k(k), self.model.catalogue
        hits = catalogue.index.search(catalogue.encoder.encode([wanted]), k, allowed=self._allowed(filters))
        return self._plain_list(hits, k, skip=-1)

    def similar(self, item_id: str, *, k: int = 10, filters: Filters = None) -> RecommendationList:
        """The k items most like an item by the trained item vectors, itself left out; the score is their cosine.

        Raises:
            KeyError: an unknown item.
        """
        row = int(self.item_ids.to_rows([item_id])[0])
        dense = next(source for source in self.model.sources if isinstance(source, DenseSource))
        k = check_k(k)
        hits = dense.index.search(dense.item_vectors[[row]], k + 1, allowed=self._allowed(filters))
        return self._plain_list(hits, k, skip=row)

    def rerank(
        self, history: Sequence[str] | None, item_ids: Sequence[str], *, user_id: str | None = None
    ) -> RecommendationList:
        """Candidates from elsewhere in the final order for a history (item ids, oldest first) or for a user.

        The history counts where both are given, as in `recommend`; None takes the user's own.

        Raises:
            KeyError: an unknown candidate. ValueError: a candidate twice, or none; or neither a user nor a history.
        """
        candidates = listed("item_ids", item_ids, "item ids")
        wanted = self.item_ids.to_rows(candidates)
        if not len(wanted) or len(np.unique(wanted)) != len(wanted):
            raise ValueError(f"rerank: expected distinct candidates, at least one, got {candidates!r}")
        asked = self._asked(user_id, history)
        queries = self._queries([asked])
        only = np.zeros(len(self.item_ids), dtype=bool)
        only[wanted] = True
        found = self.model.recall(queries, only=only, depth=len(wanted), extra=[wanted])
        ranked = self.model.finish(queries, found)
        name = None if user_id is None else canonical_id(user_id)
        items = self._items(ranked, asked, len(wanted), False)
        return RecommendationList(items, name, asked.note or self._cold_note(asked.rows, name), asked.ignored)

    def _asked(self, user_id: str | None, history: Sequence[str] | None) -> _Asked:
        """Whose list is wanted: of a history that is given only its order is known, not how long ago it was."""
        if history is not None:
            given = listed("history", history, "item ids")
            asked = self.item_ids.to_rows(given, unknown="ignore")
            rows = asked[asked >= 0]
            strangers = [given[place] for place in np.flatnonzero(asked < 0)]
            ignored = tuple(one if isinstance(one, str) else brief(one) for one in strangers)
            known = user_id is not None and user_id in self.users
            note = f"by the history given, not by that of user {canonical_id(user_id)!r}" if known and len(rows) else ""
            return _Asked(rows, ignored=ignored, note=note)
        if user_id is None:
            raise ValueError("expected a user_id or a history, got neither")
        row = int(self.users.to_rows([user_id], unknown="ignore")[0])
        if row < 0:
            note = f"unknown user {canonical_id(user_id)!r}: the most popular items"
            return _Asked(np.empty(0, dtype=np.int64), note=note)
        return _Asked(np.asarray(self.histories[row], dtype=np.int64), self.visits[row])

    def _cold_note(self, rows: np.ndarray, user_id: str | None) -> str:
        if len(rows):
            return ""
        return f"no usable history{f' of user {user_id!r}' if user_id else ''}: the most popular items"

    def _queries(self, asked: Sequence[_Asked]) -> Queries:
        visits = visits_of([one.visit for one in asked])
        return self.model.catalogue.queries([one.rows for one in asked], keep_seen=self.config.keep_seen, visits=visits)

    def _rank(self, asked: Sequence[_Asked], *, k: int, filters: Filters) -> Ranked:
        wanted, model = check_k(k), self.model
        depth = max(wanted, model.depths.rerank)
        return model.rank(self._queries(asked), only=self._allowed(filters), depth=depth).cut(wanted)

    def _items(self, ranked: Ranked, asked: _Asked, k: int, explain: bool) -> tuple[Recommendation, ...]:
        model, names = self.model, self.model.source_names
        items = []
        for place, row in enumerate(ranked.rows[0][:k]):
            if row < 0:
                break
            bits = int(ranked.found_by[0, place])
            rerank_score = float(ranked.rerank_scores[0, place])
            items.append(
                Recommendation(
                    item_id=str(self.item_ids.to_ids([row])[0]),
                    rank=place + 1,
                    score=float(ranked.scores[0, place]),
                    title=model.catalogue.titles[row],
                    recall_score=float(ranked.recall_scores[0, place]),
                    rerank_score=None if np.isnan(rerank_score) else rerank_score,
                    reasons=explain_item(int(row), asked.rows, bits, model.sources, model.catalogue, visit=asked.visit)
                    if explain
                    else found_by(bits, names),
                )
            )
        return tuple(items)

    def _plain_list(self, hits: Hits, k: int, *, skip: int) -> RecommendationList:
        kept = [
            (int(row), float(score))
            for row, score in zip(hits.rows[0], hits.scores[0], strict=True)
            if row >= 0 and row != skip
        ][:k]
        titles = self.model.catalogue.titles
        items = tuple(
            Recommendation(str(self.item_ids.to_ids([row])[0]), rank, score, titles[row])
            for rank, (row, score) in enumerate(kept, start=1)
        )
        return RecommendationList(items, note=note_of(len(items), k))

    def check(self, *, k: int, filters: Filters = None) -> None:
        """Raise what `recommend` would say of these arguments, before any work is done."""
        check_k(k)
        self._allowed(filters)

    def _allowed(self, filters: Filters) -> np.ndarray | None:
        return None if filters is None else item_mask(self.model.catalogue.items.frame, filters)
