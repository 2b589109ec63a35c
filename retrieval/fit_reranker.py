"""Stage two from its lists: the cross-encoder, and the history model beside it."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from rerank import HistoryModel, Reranker, train_reranker
from retrieval.config import Config
from retrieval.encoder.train import train_next_item
from retrieval.fit_fusions import validation_queries
from retrieval.new_items import World
from retrieval.rerank_lists import LazyLists, RerankList, list_of
from retrieval.stage_one import CHOOSING_USERS, in_batches, sub_queries
from retrieval.two_stage import TwoStage, batch_size, final_feature_names, item_tokens

log = logging.getLogger(__name__)


def stopping_lists(model: TwoStage, stop: World, config: Config) -> LazyLists:
    """The candidates of the validation users of `stop`, where stage one found what they took."""
    catalogue, users = model.catalogue, stop.validation
    held: list[RerankList] = []
    queries = validation_queries(catalogue, users)
    for part in in_batches(len(queries), batch_size(catalogue.n_items)):
        candidates = model.recall(sub_queries(queries, part), allowed=stop.allowed)
        histories = users.histories[part]
        for user, taken in enumerate(users.taken[part]):
            if np.isin(taken, candidates.rows[user]).any():
                held.append(list_of(candidates, user, histories[user], taken, model.trained_vectors))
    return LazyLists(catalogue, held, history_items=max(config.rerank.max_history_items, 1))


def train_on_lists(
    model: TwoStage,
    lists: list[RerankList],
    validation: LazyLists,
    config: Config,
    *,
    progress: bool = False,
    checkpoints: Path | None = None,
) -> Reranker | None:
    """Train GPT-2 on the lists, stopped early by the validation lists; None when there are no lists of either kind."""
    catalogue = model.catalogue
    if not lists or not len(validation):
        return None
    soft = config.rerank.vector_dim > 0
    rerank = replace(
        config.rerank,
        vector_dim=catalogue.text_vectors.shape[1] + model.trained_vectors.shape[1] if soft else 0,
        n_features=len(final_feature_names(model, reranked=False)) + 1 if soft else 0,
        prior=config.rerank.prior and soft,
        seed=config.seed,
    )
    trained = train_reranker(
        LazyLists(catalogue, lists, history_items=max(rerank.max_history_items, 1)),
        validation=validation,
        config=rerank,
        encoder=catalogue.encoder.model,
        device=config.device,
        progress=(lambda line: print(line, file=sys.stderr, flush=True)) if progress else False,
        checkpoint_directory=checkpoints,
    )
    reranker, keep = trained.reranker, config.depths.all_blocks
    if 0 < keep < config.depths.rerank and len(validation) >= 2 and reranker.config.n_layer >= 2:
        report = reranker.fit_cascade(validation, n_blocks=reranker.config.n_layer // 2, keep=keep)
        log.info("cascade %s: %s", "on" if report.accepted else "off", report)
    return reranker


def train_history_model(
    model: TwoStage, histories: list[np.ndarray], stop: World, config: Config, *, progress: bool = False
) -> HistoryModel:
    """GPT-2 as a language model of these histories, stopped early by the validation users of `stop`."""
    users = stop.validation.single(1, seed=config.seed).slice(CHOOSING_USERS, config.seed)
    tokens = item_tokens(model.catalogue, model.trained_vectors, slice(None))
    shape = replace(config.history, vector_dim=tokens.shape[1])
    trained = train_next_item(
        lambda: HistoryModel(shape),
        histories,
        tokens,
        training=replace(config.history_training, seed=config.seed, later=config.lists.by_time),
        validation=(users.histories, users.targets),
        keep_seen=users.keep_seen,
        device=config.device,
        progress="history model" if progress else None,
    )
    log.info("history model: %s passes, %s", trained.passes, trained.curve[-1])
    return trained.head
