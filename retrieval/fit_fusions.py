"""The three fusions, fitted on the validation users of every world: recall, without GPT-2, with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rerank import Reranker
from retrieval.candidates import Candidates, feature_names, gather_candidates
from retrieval.catalogue import Catalogue
from retrieval.config import Config
from retrieval.details import details_of
from retrieval.fusion import CrossFitted, Fusion, FusionLists, cross_fit
from retrieval.head_start import HeadStart, choose_head_start, with_head_start
from retrieval.new_items import World
from retrieval.sources import Queries
from retrieval.stage_one import Validation, in_batches, sub_queries
from retrieval.two_stage import TwoStage, batch_size, context_of, final_feature_names

_DEEP, _DEEP_BY_TIME = 2, 4
"""The recall fusion learns from so many times the candidates that it shall pass on. By time users take many items, few
of which rank high anywhere: on three earlier moments of MovieLens-1M recall@100 is .364, .355, .285 with two, .363,
.362, .289 with four."""


def validation_queries(catalogue: Catalogue, validation: Validation) -> Queries:
    """The validation users' queries; where seen items may come again nothing is excluded."""
    return catalogue.queries(validation.histories, keep_seen=validation.keep_seen, visits=validation.visits)


@dataclass(frozen=True)
class FittedFusion:
    """A fusion as it is used, and as it was fitted: what comes beside it is fitted beside scores that favour nothing.

    Beside scores that favour new items, likelihood takes some of that back by whatever tells new items from others, as
    GPT-2's logit does.
    """

    bare: CrossFitted
    start: HeadStart | None

    @property
    def fusion(self) -> Fusion:
        """With the head start of new items."""
        return with_head_start(self.bare.fusion, self.start)


def fit_recall_fusion(catalogue: Catalogue, worlds: Sequence[World], config: Config) -> Fusion:
    """The fusion that orders the union of the sources, fitted on the validation users' unions.

    By time, lists that count alike and a penalty by recall@100 hold more and order worse: each of five moments of
    MovieLens-1M by fusions of the other four has +.0094 (+- .0031) of recall@100 and -.0019 (+- .0012) of NDCG@10 in
    the order made of these candidates, two moments of Online Retail II by two older ones -.0011 and -.0002.
    """
    parts, names = [], list[str]()
    deep = _DEEP_BY_TIME if config.lists.by_time else _DEEP
    for world in worlds:
        queries = validation_queries(catalogue, world.validation)
        details = details_of(catalogue, world.sources)
        names = feature_names(world.sources, details)  # the same in every world
        for part in in_batches(len(queries), batch_size(catalogue.n_items)):
            pool = gather_candidates(
                world.sources,
                sub_queries(queries, part),
                per_source=config.depths.per_source,
                details=details,
                allowed=world.allowed,
            )
            # Only the union's plausible part is learned from: what no source ranks high decides nothing at the top.
            ranks = pool.features[:, :, len(world.sources) : 2 * len(world.sources)]
            pool = pool.ordered(ranks.max(axis=2), depth=deep * config.depths.rerank)
            parts.append((pool.features, pool.rows))
    return _fitted(parts, worlds, names, config).fusion


@dataclass(frozen=True)
class Recalled:
    """A batch of validation users and what stage one passes on for them, by a model with a world's sources."""

    model: TwoStage
    queries: Queries
    candidates: Candidates

    def features(self, reranker: Reranker) -> np.ndarray:
        """Everything the final fusion reads of the candidates, with this reranker's logit."""
        model = replace(self.model, reranker=reranker)
        return model.final_features(self.candidates, model.rerank(self.queries, self.candidates))


def recall_worlds(model: TwoStage, worlds: Sequence[World]) -> list[Recalled]:
    """Stage one for the validation users of all worlds, in batches and in order."""
    found = []
    for world in worlds:
        tried = replace(model, sources=world.sources)
        queries = validation_queries(model.catalogue, world.validation)
        for part in in_batches(len(queries), batch_size(model.catalogue.n_items)):
            batch = sub_queries(queries, part)
            found.append(Recalled(tried, batch, tried.recall(batch, allowed=world.allowed)))
    return found


def fit_plain_fusion(model: TwoStage, found: list[Recalled], worlds: Sequence[World], config: Config) -> FittedFusion:
    """The best order of the candidates without GPT-2."""
    parts = [(one.candidates.features, one.candidates.rows) for one in found]
    return _fitted(parts, worlds, final_feature_names(model, reranked=False), config)


def fit_final_fusion(
    model: TwoStage,
    found: Sequence[tuple[Recalled, Reranker]],
    worlds: Sequence[World],
    config: Config,
    *,
    base: FittedFusion,
) -> Fusion:
    """The fusion of everything, with GPT-2's logit.

    Args:
        model: whose features these are. found: each with a GPT-2 that learned nothing of what is wanted of it.
        base: the one without it, whose first lists are these (see `cross_fit`).
    """
    parts = [(one.features(gpt2), one.candidates.rows) for one, gpt2 in found]
    return _fitted(parts, worlds, final_feature_names(model, reranked=True), config, base=base).fusion


def _fitted(
    parts: list[tuple[np.ndarray, np.ndarray]],
    worlds: Sequence[World],
    names: Sequence[str],
    config: Config,
    *,
    base: FittedFusion | None = None,
) -> FittedFusion:
    """The fusion of these lists; the head start of new items is chosen in the worlds that have some."""
    lists = _lists(parts, worlds)
    has_new = np.repeat([world.has_new for world in worlds], [len(world.validation) for world in worlds])
    if base is None:
        bare = cross_fit(lists, names, seed=config.seed)
        return FittedFusion(bare, choose_head_start(bare.fusion, lists.only(has_new)))
    scores = base.bare.scores[: len(lists), : lists.rows.shape[1]]
    bare = cross_fit(lists, names, base=replace(base.bare, scores=scores), seed=config.seed)
    # Where nothing counts beside the base both give the same lists; and what these are too few for, the base's told.
    beside = bare.fusion.by_feature[:, len(base.bare.fusion.names) :]
    own = choose_head_start(bare.fusion, lists.only(has_new)) if beside.any() else None
    return FittedFusion(bare, own or base.start)


def _lists(parts: list[tuple[np.ndarray, np.ndarray]], worlds: Sequence[World]) -> FusionLists:
    """Batches of features and rows as one padded set of lists."""
    depth = max(rows.shape[1] for _, rows in parts)
    features = [np.pad(f, ((0, 0), (0, depth - f.shape[1]), (0, 0))) for f, _ in parts]
    rows = [np.pad(r, ((0, 0), (0, depth - r.shape[1])), constant_values=-1) for _, r in parts]
    wanted = [taken for world in worlds for taken in world.validation.taken]
    contexts = np.concatenate([context_of(world.validation) for world in worlds])
    users = np.concatenate([world.validation.users for world in worlds])
    return FusionLists.of(np.concatenate(features), np.concatenate(rows), wanted, contexts, users)
