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
from retrieval.encoder.finetune import finetune_encoder, wants_finetuning
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.seasons import Seasons, Timing
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.encoder.train import TrainedHead
from retrieval.held_out import HeldOut
from retrieval.histories import Timeline
from retrieval.new_items import (
    World,
    choose_new,
    forget,
    forget_validation,
)
from retrieval.sources import Source
from retrieval.sources.recent import recent_counts
from retrieval.stage_one import (
    FurtherHead,
    SourceSettings,
    Validation,
    fit_head,
    fit_sources,
)

log = logging.getLogger(__name__)


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
    timing: Timing | None = None,
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
        timing: see `train_next_item`.
    """
    trained = fit_head(
        catalogue,
        histories,
        config=config.head,
        training=replace(config.head_training, seed=config.seed, later=config.lists.by_time),
        validation=validation,
        passes=passes,
        timing=timing,
        device=config.device,
        progress=progress,
    )
    if space is not None:
        align_head(trained.head, catalogue.text_vectors, space)
    return trained


def choose_head(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    settings: SourceSettings,
    config: Config,
    *,
    validation: Validation,
    by_time: Timeline | None,
    progress: str | None = None,
) -> tuple[TrainedHead, SourceSettings]:
    """The recall head, and the settings with how long it learned.

    By time it learns twice, of later visits alone and of any later item, and validation says which is kept. Where most
    users were here once, the items of one visit say little of what the few come back for (on MovieLens-1M recall@100 of
    the head is .350 without them and .260 with them); where everybody comes back they may say more.
    """
    found = {}
    for later_visits in (True, False) if by_time else (settings.later_visits,):
        timing = timing_of(by_time, replace(settings, later_visits=later_visits))
        found[later_visits] = train_recall_head(
            catalogue, histories, config, validation=validation, timing=timing, progress=progress
        )
        log.info("later visits %s: NDCG@10 + recall@100 %.4f", later_visits, found[later_visits].figure)
    best = max(found, key=lambda later_visits: found[later_visits].figure)
    return found[best], replace(settings, head_passes=found[best].passes, later_visits=best)


def timing_of(by_time: Timeline | None, settings: SourceSettings, seasons: Seasons | None = None) -> Timing:
    """What `train_next_item` is told of visits, nothing where any later item is right, and of these seasons."""
    return Timing(by_time.apart if by_time is not None and settings.later_visits else None, seasons)


def seasons_of(histories: Sequence[np.ndarray], by_time: Timeline, settings: SourceSettings, n_items: int) -> Seasons:
    """How popular items were when these were taken, and are now."""
    lately = recent_counts(by_time.items, n_items, share=settings.recent_share)
    return Seasons.of(histories, by_time.eras, lately)


def further_heads(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    settings: SourceSettings,
    config: Config,
    *,
    by_time: Timeline,
    label: str | None = None,
) -> list[FurtherHead]:
    """By time two heads beside the recall head, each trained as long as it: `taste` of the same later items but beside
    the seasons, `second` of those of the other kind. label: see `sources_in_space`."""
    seasons = seasons_of(histories, by_time, settings, catalogue.n_items)
    other = replace(settings, later_visits=not settings.later_visits)
    told = {
        "taste": (timing_of(by_time, settings, seasons), seasons.now),
        "second": (timing_of(by_time, other), np.zeros_like(seasons.now)),
    }
    found = []
    for name, (timing, beside) in told.items():
        progress = None if label is None else f"{label} {name}".strip()
        trained = train_recall_head(
            catalogue, histories, config, passes=settings.head_passes, timing=timing, progress=progress
        )
        found.append(FurtherHead(name, trained.head, beside))
    return found


def sources_on(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    head: RecallHead,
    settings: SourceSettings,
    config: Config,
    *,
    by_time: Timeline | None = None,
    label: str | None = None,
) -> tuple[Source, ...]:
    """All candidate sources, fitted on these histories; by_time: see `fit_sources`; label: see `sources_in_space`."""
    further = list[FurtherHead]()
    if by_time is not None:
        further = further_heads(catalogue, histories, settings, config, by_time=by_time, label=label)
    return fit_sources(
        catalogue,
        histories,
        head,
        settings,
        keep_seen=config.keep_seen,
        by_time=by_time,
        further=further,
        family=config.index.family,
        seed=config.seed,
        device=config.device,
    )


def sources_in_space(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    settings: SourceSettings,
    config: Config,
    *,
    space: np.ndarray,
    by_time: Timeline | None = None,
    label: str | None = None,
) -> tuple[Source, ...]:
    """All candidate sources with a recall head of their own, trained as long as the settings say.

    Args:
        space: see `train_recall_head`. by_time: see `fit_sources`. label: before the heads' progress bars; None: no
            bars.
    """
    progress = None if label is None else f"{label} head".strip()
    timing = timing_of(by_time, settings)
    head = train_recall_head(
        catalogue, histories, config, passes=settings.head_passes, space=space, timing=timing, progress=progress
    )
    return sources_on(catalogue, histories, head.head, settings, config, by_time=by_time, label=label)


def world_with_new_items(
    catalogue: Catalogue,
    held: HeldOut,
    real: World,
    head: RecallHead,
    settings: SourceSettings,
    config: Config,
) -> list[World]:
    """The real world's validation as if some items were new: one world, or none where there are to be no new items.

    A quarter of the users is enough: lists without a new item teach nothing of them.
    """
    new = choose_new(catalogue.n_items, config.lists.new_items, config.seed)
    n_users = len(real.validation)
    left = forget_validation(real.validation, new, max_users=n_users // 4, seed=config.seed)
    if not new.any() or not len(left):
        return []
    sources = sources_on(catalogue, forget(held.base, new), head, settings, config)
    return [World(sources, left, real.allowed, has_new=True)]


def finetuned(
    encoder: TextEncoder,
    items: Items,
    held: HeldOut,
    config: Config,
    clock: Clock,
    *,
    progress: bool,
    checkpoints: Path | None,
) -> tuple[TextEncoder, dict[str, object] | None]:
    """BERT itself, trained on the histories before the held-out items, where the configuration wants that."""
    if not wants_finetuning(config.encoder.finetune, device=config.device):
        return encoder, None
    reports, validation = [], held.validation
    with clock.step("finetune", "fine-tune the text encoder"):
        texts, titles = render_items(items, config.text)
        encoder = finetune_encoder(
            encoder,
            texts,
            held.base,
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
