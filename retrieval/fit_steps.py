"""The steps of a fit, each a function of what came before: head, sources, lists, reranker, fusion."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from rerank import Reranker, train_reranker
from retrieval.catalogue import Catalogue, make_catalogue, render_items
from retrieval.clock import Clock
from retrieval.config import Config
from retrieval.data import Items
from retrieval.encoder.cache import VectorCache
from retrieval.encoder.finetune import FinetuneReport, finetune_encoder, wants_finetuning
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.encoder.train import TrainedHead
from retrieval.fit_fusions import validation_queries
from retrieval.fusion import Fusion
from retrieval.new_items import (
    World,
    choose_new,
    could_be_right,
    forget,
    forget_validation,
    positions_among,
)
from retrieval.rerank_lists import LazyLists, RerankList, Shown, choose_positions, list_of, make_lists
from retrieval.sources import Source
from retrieval.stage_one import (
    SourceSettings,
    Validation,
    fit_head,
    fit_sources,
    in_batches,
    sub_queries,
)
from retrieval.two_stage import (
    TwoStage,
    batch_size,
    final_feature_names,
    trained_vectors_of,
)

log = logging.getLogger(__name__)

_EMPTY = np.empty(0, dtype=np.int64)


def load_encoder(config: Config) -> TextEncoder:
    """The configured text encoder, with its cache."""
    cache = Path(config.encoder.cache) if config.encoder.cache else None
    encoder = TextEncoder.load(
        config.encoder.name,
        device=config.device,
        precision=config.encoder.precision,
        backend=config.encoder.backend,
        workers=config.encoder.workers,
        cache_directory=cache,
    )
    # A fit reads the same validation histories several times.
    if encoder.cache is None:
        encoder.cache = VectorCache(None, dim=encoder.dim)
    return encoder


def catalogue_of(items: Items, encoder: TextEncoder, config: Config, *, progress: bool = False) -> Catalogue:
    """The items' texts, vectors and index, as the configuration says."""
    return make_catalogue(
        items,
        encoder,
        text_config=config.text,
        family=config.index.family,
        seed=config.seed,
        device=config.device,
        progress=progress,
    )


def train_recall_head(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    config: Config,
    *,
    validation: Validation | None = None,
    passes: float | None = None,
    progress: str | None = None,
) -> TrainedHead:
    """The recall head on these histories; `passes` fixes how long, for a refit without validation."""
    return fit_head(
        catalogue,
        histories,
        config=config.head,
        training=replace(config.head_training, seed=config.seed),
        validation=validation,
        passes=passes,
        device=config.device,
        progress=progress,
    )


def sources_on(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    head: TrainedHead,
    settings: SourceSettings,
    config: Config,
) -> tuple[Source, ...]:
    """All candidate sources, fitted on these histories."""
    return fit_sources(
        catalogue,
        histories,
        head.head,
        settings,
        keep_seen=config.keep_seen,
        family=config.index.family,
        seed=config.seed,
        device=config.device,
    )


def world_with_new_items(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    real: World,
    head: TrainedHead,
    settings: SourceSettings,
    config: Config,
) -> list[World]:
    """The real world's validation as if some items were new: one world, or none where there are to be no new items.

    A quarter of the users is enough: lists without a new item teach nothing of them.
    """
    new = choose_new(catalogue.n_items, config.lists.new_items, config.seed)
    n_users = len(real.validation.targets)
    left = forget_validation(real.validation, new, max_users=n_users // 4, seed=config.seed)
    if not new.any() or not len(left.targets):
        return []
    return [World(sources_on(catalogue, forget(histories, new), head, settings, config), left, real.allowed)]


def cross_fitted_lists(
    catalogue: Catalogue,
    histories: list[np.ndarray],
    shown: list[Shown] | None,
    recall_fusion: Fusion,
    settings: SourceSettings,
    config: Config,
    *,
    progress: bool = False,
) -> list[RerankList]:
    """The reranker's training lists from these histories (validation targets are not in them); see `rerank_lists`."""
    rng = np.random.default_rng(config.seed)
    fold = rng.permutation(len(histories)) % config.lists.folds
    allowed = could_be_right(histories, catalogue.n_items, new_items=config.lists.new_items)
    made: list[RerankList] = []
    for number in range(config.lists.folds):
        # What a fold's sources have not seen: its users, and some items that are new to them.
        new = choose_new(catalogue.n_items, config.lists.new_items, config.seed + 1 + number)
        others = [history if fold[user] != number else _EMPTY for user, history in enumerate(histories)]
        others = forget(others, new)
        label = f"fold {number + 1}/{config.lists.folds}" if progress else None
        head = train_recall_head(
            catalogue, others, config, passes=settings.head_passes, progress=label and f"{label} head"
        )
        sources = sources_on(catalogue, others, head, settings, config)
        users = np.flatnonzero(fold == number)
        positions = choose_positions(histories, users, per_user=config.lists.per_user, shown=shown, rng=rng)
        positions = positions_among(positions, new)
        limit = 3 * config.lists.max_lists // config.lists.folds
        if len(positions) > limit:
            positions = [positions[i] for i in np.sort(rng.choice(len(positions), limit, replace=False))]
        made += make_lists(
            catalogue,
            sources,
            recall_fusion,
            positions,
            trained_vectors=trained_vectors_of(sources),
            allowed=allowed,
            per_source=config.depths.per_source,
            depth=config.depths.rerank,
            keep_seen=config.keep_seen,
            max_lists=-(-config.lists.max_lists // config.lists.folds),
            progress=label and f"{label} lists",
        )
    rng.shuffle(made)  # pyright: ignore[reportArgumentType]
    return made


def train_on_lists(
    model: TwoStage,
    lists: list[RerankList],
    stop: World,
    config: Config,
    *,
    progress: bool = False,
    checkpoints: Path | None = None,
) -> Reranker | None:
    """Train GPT-2 on the lists, stopped early by the validation users of `stop`; None when there are no lists."""
    catalogue, users = model.catalogue, stop.validation
    held: list[RerankList] = []
    queries = validation_queries(catalogue, users)
    for part in in_batches(len(queries), batch_size(model.catalogue.n_items)):
        candidates = model.recall(sub_queries(queries, part), allowed=stop.allowed)
        histories = users.histories[part]
        for user, target in enumerate(users.targets[part]):
            if target in candidates.rows[user]:
                held.append(list_of(candidates, user, histories[user], target, model.trained_vectors))
    if not lists or not held:
        return None
    soft = config.rerank.vector_dim > 0
    rerank = replace(
        config.rerank,
        vector_dim=catalogue.text_vectors.shape[1] + model.trained_vectors.shape[1] if soft else 0,
        n_features=len(final_feature_names(model, reranked=False)) + 1 if soft else 0,
        prior=config.rerank.prior and soft,
        seed=config.seed,
    )
    items = max(rerank.max_history_items, 1)
    validation = LazyLists(catalogue, held, history_items=items)
    trained = train_reranker(
        LazyLists(catalogue, lists, history_items=items),
        validation=validation,
        config=rerank,
        encoder=catalogue.encoder.model,
        device=config.device,
        progress=(lambda line: print(line, file=sys.stderr, flush=True)) if progress else False,
        checkpoint_directory=checkpoints,
    )
    reranker, keep = trained.reranker, config.depths.all_blocks
    if 0 < keep < config.depths.rerank and len(held) >= 2 and reranker.config.n_layer >= 2:
        report = reranker.fit_cascade(validation, n_blocks=reranker.config.n_layer // 2, keep=keep)
        log.info("cascade %s: %s", "on" if report.accepted else "off", report)
    return reranker


def finetuned(
    encoder: TextEncoder,
    items: Items,
    base: list[np.ndarray],
    validation: Validation,
    config: Config,
    clock: Clock,
    *,
    progress: bool,
    checkpoints: Path | None,
) -> tuple[TextEncoder, dict[str, object] | None]:
    """BERT itself, trained on the histories before the held-out items, where the configuration wants that."""
    if not wants_finetuning(config.encoder.finetune, device=config.device):
        return encoder, None
    reports: list[FinetuneReport] = []
    with clock.step("finetune", "fine-tune the text encoder"):
        texts, titles = render_items(items, config.text)
        encoder = finetune_encoder(
            encoder,
            texts,
            base,
            text_config=config.text,
            config=replace(config.finetune, seed=config.seed),
            titles=titles,
            validation=(validation.histories, validation.targets),
            keep_seen=validation.keep_seen,
            device=config.device,
            output_directory=checkpoints / "encoder" if checkpoints else None,
            progress="fine-tune" if progress else None,
            report=reports.append,
        )
    clock.say(str(reports[0]))
    return encoder, asdict(reports[0])
