"""The one flow: history -> queries -> candidates -> rerank -> one score -> ranked list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rerank import Reranker, RerankInput
from retrieval.candidates import Candidates, feature_names, gather_candidates
from retrieval.catalogue import Catalogue
from retrieval.config import Depths
from retrieval.details import Details, details_of
from retrieval.fusion import Fusion
from retrieval.sources import DenseSource, PopularSource, Queries, Source
from retrieval.stage_one import Validation, in_batches, sub_queries

BATCH_USERS = 128
# A source over a matrix holds one number per user and item; with a copy for the search, 32 million take 256 MB.
_BATCH_CELLS = 32_000_000


@dataclass(frozen=True)
class Ranked:
    """Final lists, best first.

    rows: int64 (n_users, depth), -1 where a user has fewer.
    scores: float32 (n_users, depth), the calibrated score in (0, 1); nan at padding.
    recall_scores, rerank_scores: float32 (n_users, depth); rerank scores are nan where GPT-2 does not count.
    found_by: uint32 (n_users, depth), bit s for source s of `source_names`.
    cold: bool (n_users,), true for users without a history: their list is the popular one.
    """

    rows: np.ndarray
    scores: np.ndarray
    recall_scores: np.ndarray
    rerank_scores: np.ndarray
    found_by: np.ndarray
    cold: np.ndarray

    def cut(self, depth: int) -> Ranked:
        """The first `depth` places of every list."""
        return Ranked(
            self.rows[:, :depth],
            self.scores[:, :depth],
            self.recall_scores[:, :depth],
            self.rerank_scores[:, :depth],
            self.found_by[:, :depth],
            self.cold,
        )


@dataclass(frozen=True)
class TwoStage:
    """Everything fitted, put together. `rank` is the flow; everything else is a part of it.

    recall_fusion: orders the union of the sources, and is the score that GPT-2 corrects. final_fusion: the one score,
        of everything. learned_vectors: float32 (n_items, dim), the item vectors beside which GPT-2 was trained, 0 for
        items that it did not know; None where these are the sources' own.
    """

    catalogue: Catalogue
    sources: tuple[Source, ...]
    depths: Depths
    recall_fusion: Fusion
    reranker: Reranker | None
    final_fusion: Fusion
    learned_vectors: np.ndarray | None = None

    @property
    def source_names(self) -> list[str]:
        """The sources' names, by bit of `found_by`."""
        return [source.name for source in self.sources]

    @cached_property
    def trained_vectors(self) -> np.ndarray:
        """The item vectors that GPT-2 reads: float32 (n_items, dim), length 1. Those it learned to read, also when the
        recall head is another since; and that one's, turned to them, of items that GPT-2 did not know."""
        own = trained_vectors_of(self.sources)
        if self.learned_vectors is None:
            return own
        return np.where(self.learned_vectors.any(axis=1, keepdims=True), self.learned_vectors, own)

    @cached_property
    def details(self) -> Details:
        """What the fusions and GPT-2 are told of a candidate beside the sources' scores."""
        return details_of(self.catalogue, self.sources).among(self.recall_fusion.names)

    @cached_property
    def rerank_counts(self) -> bool:
        """Whether GPT-2 has a say in the final order: there is one, and the final fusion, once it was asked about it,
        did not leave it out."""
        if self.reranker is None or "rerank_score" not in self.final_fusion.names:
            return self.reranker is not None
        return bool(self.final_fusion.by_feature[:, self.final_fusion.names.index("rerank_score")].any())

    def rank(self, queries: Queries, *, only: np.ndarray | None = None, depth: int | None = None) -> Ranked:
        """The final lists of these users: of so many candidates as `depth`, by default `depths.rerank`.

        only: bool (n_items,), a filter. It changes which items are in a list, not what is thought of them.
        """
        parts = []
        for part in in_batches(len(queries), batch_size(self.catalogue.n_items)):
            batch = sub_queries(queries, part)
            parts.append(self.finish(batch, self.recall(batch, only=only, depth=depth)))
        return _stack(parts)

    def finish(self, queries: Queries, candidates: Candidates) -> Ranked:
        """Stage two and the one score: candidates in, final lists out."""
        logits = self.rerank(queries, candidates)
        scores = self.fuse(queries, candidates, logits)
        order = np.argsort(-np.where(candidates.rows >= 0, scores, -np.inf), axis=1, kind="stable")
        rows = np.take_along_axis(candidates.rows, order, axis=1)
        probability = self.final_fusion.probability(np.take_along_axis(scores, order, axis=1))
        cold = _without_history(queries)
        probability = np.where(cold[:, None], self.popular.shares[np.maximum(rows, 0)], probability)
        return Ranked(
            rows=rows,
            scores=np.where(rows >= 0, probability, np.nan).astype(np.float32),
            recall_scores=np.take_along_axis(candidates.scores, order, axis=1),
            rerank_scores=np.take_along_axis(logits, order, axis=1),
            found_by=np.take_along_axis(candidates.found_by, order, axis=1),
            cold=cold,
        )

    def recall(
        self,
        queries: Queries,
        *,
        allowed: np.ndarray | None = None,
        only: np.ndarray | None = None,
        depth: int | None = None,
        extra: Sequence[np.ndarray] | None = None,
    ) -> Candidates:
        """Stage one: the candidates with the best recall scores first, `depths.rerank` per user or so many as `depth`.

        allowed, only, extra: see `gather_candidates`.
        """
        depth = depth or self.depths.rerank
        pool = gather_candidates(
            self.sources,
            queries,
            per_source=self.depths.per_source,
            details=self.details,
            allowed=allowed,
            only=only,
            n_best=max(depth, self.depths.per_source),
            extra=extra,
        )
        scores = self.recall_fusion.score(pool.features, context_of(queries))
        return pool.ordered(self._popular_for_cold(queries, pool, scores), depth=depth)

    def rerank(self, queries: Queries, candidates: Candidates) -> np.ndarray:
        """Stage two: GPT-2's logit per candidate, float32 (n_users, depth); nan at padding, and everywhere where GPT-2
        does not count: then it is not asked."""
        logits = np.full(candidates.rows.shape, np.nan, dtype=np.float32)
        if self.reranker is None or not self.rerank_counts:
            return logits
        some = np.any(candidates.rows >= 0, axis=1)  # nobody, where everything is filtered out
        users = [user for user in range(len(queries)) if len(queries.histories[user]) and some[user]]
        inputs = [self.rerank_input_of(self.reranker, queries, candidates, user) for user in users]
        for user, scores in zip(users, self.reranker.score_many(inputs), strict=True):
            logits[user, : len(scores)] = scores
        return logits

    def rerank_input_of(self, reranker: Reranker, queries: Queries, candidates: Candidates, user: int) -> RerankInput:
        """One user of a batch as `reranker` reads them, padding left out."""
        rows = candidates.rows[user]
        return rerank_input(
            self.catalogue,
            self.trained_vectors,
            queries.histories[user],
            rows[rows >= 0],
            rerank_features(candidates.features[user], candidates.scores[user]),
            history_items=reranker.config.max_history_items,
        )

    def fuse(self, queries: Queries, candidates: Candidates, logits: np.ndarray) -> np.ndarray:
        """One log-odds per candidate from recall features and rerank logit: float32 (n_users, depth)."""
        scores = self.final_fusion.score(self.final_features(candidates, logits), context_of(queries))
        return self._popular_for_cold(queries, candidates, scores)

    def final_features(self, candidates: Candidates, logits: np.ndarray) -> np.ndarray:
        """The candidates' features, and what GPT-2 says beside them as `rerank_score`: float32 (n_users, depth, n).

        That is the logit without what it holds of the recall score, where GPT-2 corrects it: the recall fusion was
        fitted on the very lists that the final one is fitted on, so that its score would seem to be worth more there
        than it is, and it gives new items a head start that is not GPT-2's. (With the whole recall score taken off
        where a history model leaves .62 of it, GPT-2 adds +.0001 +- .0006 to NDCG@10 on MovieLens-1M's validation;
        with .62 of it +.0019 +- .0009.) Nor is it measured among the candidates of the list, as it would then depend on
        which these are.
        """
        if self.reranker is None:
            return candidates.features
        known = np.isfinite(logits) & (candidates.rows >= 0)
        said = logits - self.reranker.prior_weight * np.where(known, candidates.scores, 0)
        return np.concatenate([candidates.features, np.where(known, said, 0)[:, :, None]], axis=2, dtype=np.float32)

    def _popular_for_cold(self, queries: Queries, candidates: Candidates, scores: np.ndarray) -> np.ndarray:
        """Users without a history get the popular order: the other sources know nothing of them."""
        popular = self.popular.scores[np.maximum(candidates.rows, 0)]
        return np.where(_without_history(queries)[:, None], popular, scores).astype(np.float32)

    @property
    def popular(self) -> PopularSource:
        """The source of counts, which is always there."""
        return next(source for source in self.sources if isinstance(source, PopularSource))


def _without_history(queries: Queries) -> np.ndarray:
    """Of whom nothing is known: bool (n_users,)."""
    return np.array([len(history) == 0 for history in queries.histories], dtype=bool)


def batch_size(n_items: int) -> int:
    """How many users are worked on at a time: fewer over a large catalogue, so that memory stays bounded."""
    return max(1, min(BATCH_USERS, _BATCH_CELLS // max(1, n_items)))


def context_of(asked: Queries | Validation) -> np.ndarray:
    """What the fusions know of a user besides the candidates: log(1 + history length), and how long ago that was (see
    `Queries`): float32 (n_users, 2), nan where it is not known."""
    lengths = np.log1p([len(history) for history in asked.histories])
    away = np.full(len(lengths), np.nan) if asked.visits is None else asked.visits[:, 0]
    return np.stack([lengths, away], axis=1).astype(np.float32)


def final_feature_names(model: TwoStage, *, reranked: bool) -> list[str]:
    """The names of the columns of `TwoStage.final_features`."""
    names = feature_names(model.sources, model.details)
    return [*names, "rerank_score"] if reranked else names


def trained_vectors_of(sources: Sequence[Source]) -> np.ndarray:
    """The item vectors of the recall head among these sources: float32 (n_items, dim), length 1."""
    return next(source.item_vectors for source in sources if isinstance(source, DenseSource))


def rerank_features(features: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What the reranker is told of a user's candidates: (n, n_features), (n,) -> float32 (n, n_features + 1).

    The recall score stands last: it is the prior that GPT-2 corrects.
    """
    return np.concatenate([features, scores[:, None]], axis=1, dtype=np.float32)


def rerank_input(
    catalogue: Catalogue,
    trained_vectors: np.ndarray,
    history: np.ndarray,
    rows: np.ndarray,
    features: np.ndarray,
    *,
    history_items: int,
) -> RerankInput:
    """One user's list as the reranker reads it: titles and vectors, newest history first.

    features: `rerank_features`, with n >= len(rows); the first len(rows) belong to the rows.
    """
    newest = history[::-1][: max(history_items, catalogue.text_config.history_items)]

    return RerankInput(
        context_texts=tuple(catalogue.titles[row] for row in newest),
        candidate_texts=tuple(catalogue.titles[row] for row in rows),
        context_vectors=item_tokens(catalogue, trained_vectors, newest),
        candidate_vectors=item_tokens(catalogue, trained_vectors, rows),
        candidate_features=features[: len(rows)],
    )


def item_tokens(catalogue: Catalogue, trained_vectors: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """Items as GPT-2 reads them, float32 (n, vector_dim): what they say (their text vectors) and who takes them (the
    recall head's vectors of them)."""
    return np.concatenate([catalogue.text_vectors[rows], trained_vectors[rows]], axis=1)


def _stack(parts: list[Ranked]) -> Ranked:
    """Join batches of lists, padded to the longest."""
    depth = max((part.rows.shape[1] for part in parts), default=0)

    def joined(name: str, fill: float) -> np.ndarray:
        arrays = [getattr(part, name) for part in parts]
        padded = [np.pad(a, ((0, 0), (0, depth - a.shape[1])), constant_values=fill) for a in arrays]
        return np.concatenate(padded) if padded else np.empty((0, 0))

    return Ranked(
        rows=joined("rows", -1).astype(np.int64),
        scores=joined("scores", np.nan),
        recall_scores=joined("recall_scores", np.nan),
        rerank_scores=joined("rerank_scores", np.nan),
        found_by=joined("found_by", 0).astype(np.uint32),
        cold=np.concatenate([part.cold for part in parts]) if parts else np.empty(0, dtype=bool),
    )
