"""The steps of a fit, each a function of what came before: head, sources, lists, reranker, fusion."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from retrieval.catalogue import Catalogue, make_catalogue, render_items
from retrieval.clock import Clock
from retrieval.config import Config
from retrieval.data import Items
from retrieval.encoder.align import align_head
from retrieval.encoder.cache import VectorCache
from retrieval.encoder.finetune import FinetuneReport, finetune_encoder, wants_finetuning
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.encoder.train import TrainedHead
from retrieval.new_items import (
    World,
    choose_new,
    could_be_right,
    forget,
    forget_validation,
    positions_among,
)
from retrieval.rerank_lists import RerankList, Shown, choose_positions, make_lists
from retrieval.sources import Source
from retrieval.stage_one import (
    SourceSettings,
    Validation,
    fit_head,
    fit_sources,
)
from retrieval.two_stage import TwoStage, trained_vectors_of

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
    space: np.ndarray | None = None,
    progress: str | None = None,
) -> TrainedHead:
    """The recall head on these histories.

    Args:
        passes: fixes how long, where there is no validation.
        space: float32 (n_items, dim), the vectors that GPT-2 learns, or learned, to read: the head is turned to lie
            nearest to them. On MovieLens-1M, the newest items held out once more, NDCG@10 of a history model was .1407
            with the vectors it was trained with, .1298 with those of a new head, .1388 once they were turned. (Two
            passes more for the head before, instead of a new one, are no way: recall@100 on Amazon Scientific .325
            instead of .344.)
    """
    trained = fit_head(
        catalogue,
        histories,
        config=config.head,
        training=replace(config.head_training, seed=config.seed),
        validation=validation,
        passes=passes,
        device=config.device,
        progress=progress,
    )
    if space is not None:
        align_head(trained.head, catalogue.text_vectors, space)
    return trained


def sources_on(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    head: RecallHead,
    settings: SourceSettings,
    config: Config,
) -> tuple[Source, ...]:
    """All candidate sources, fitted on these histories."""
    return fit_sources(
        catalogue,
        histories,
        head,
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
    head: RecallHead,
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
    histories: list[np.ndarray],
    shown: list[Shown] | None,
    draft: TwoStage,
    settings: SourceSettings,
    config: Config,
    *,
    progress: bool = False,
) -> list[RerankList]:
    """The reranker's training lists from these histories (validation targets are not in them); see `rerank_lists`.

    Args:
        draft: whose recall fusion orders the lists, and in the space of whose item vectors they are written.
    """
    catalogue, rng = draft.catalogue, np.random.default_rng(config.seed)
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
            catalogue,
            others,
            config,
            passes=settings.head_passes,
            space=draft.trained_vectors,
            progress=label and f"{label} head",
        )
        sources = sources_on(catalogue, others, head.head, settings, config)
        users = np.flatnonzero(fold == number)
        positions = choose_positions(histories, users, per_user=config.lists.per_user, shown=shown, rng=rng)
        positions = positions_among(positions, new)
        limit = 3 * config.lists.max_lists // config.lists.folds
        if len(positions) > limit:
            positions = [positions[i] for i in np.sort(rng.choice(len(positions), limit, replace=False))]
        made += make_lists(
            catalogue,
            sources,
            draft.recall_fusion,
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
