"""Interactions in, a fitted two-stage recommender out.

Part of them is held out as validation inside this function, everybody's newest or the newest of all (`held_out`):
settings, early stopping and fusions are chosen there, then the sources are fitted again on everything. Whoever measures
on later interactions passes only what came before them, so no evaluated target can be seen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from rerank import Reranker
from retrieval.catalogue import Catalogue
from retrieval.clock import Clock, Say
from retrieval.config import Config
from retrieval.data import Interactions, Items
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.encoder.train import TrainedHead
from retrieval.fit_fusions import fit_final_fusion, fit_plain_fusion, fit_recall_fusion, recall_worlds
from retrieval.fit_lists import cross_fitted_lists
from retrieval.fit_reranker import ByTime, Teacher
from retrieval.fit_steps import (
    catalogue_of,
    choose_head,
    finetuned,
    load_encoder,
    sources_in_space,
    sources_on,
    world_with_new_items,
)
from retrieval.held_out import HeldOut, held_out_of, stopping_users
from retrieval.histories import Shown, Timeline, histories_of, shown_of
from retrieval.moments import Moment, earlier_moments
from retrieval.new_items import World, could_be_right
from retrieval.source_choice import choose_settings
from retrieval.sources import Source
from retrieval.sources.popular import count_items
from retrieval.stage_one import SourceSettings
from retrieval.two_stage import TwoStage, trained_vectors_of

log = logging.getLogger(__name__)


@dataclass
class Fitted:
    """A recommender and how it came to be.

    model_without_rerank: the same fusion without GPT-2, to tell what the reranker adds.
    seconds: wall time per step. record: figures for the bundle and the report.
    """

    model: TwoStage
    model_without_rerank: TwoStage
    settings: SourceSettings
    seconds: dict[str, float] = field(default_factory=dict)
    record: dict[str, object] = field(default_factory=dict)

    @property
    def validation_ndcg(self) -> float:
        """NDCG@10 of the final list on validation users the fusion was not fitted on (cross-validated)."""
        return self.model.final_fusion.figures["fused"]["held_out"]


def fit(
    items: Items,
    interactions: Interactions,
    config: Config,
    *,
    encoder: TextEncoder | None = None,
    say: Say = lambda message: None,
    progress: bool = False,
    checkpoints: Path | None = None,
    settings: SourceSettings | None = None,
) -> Fitted:
    """Fit everything on these interactions.

    Args:
        say: told in one line what begins. progress: show bars too.
        checkpoints: a directory for the reranker's checkpoints; an interrupted fit goes on from there.
        settings: of an earlier fit, taken over instead of chosen.

    Raises:
        ValueError: too little data (see `hold_out`, `train_head`), or interactions over another item table.
    """
    interactions.require_items(items.ids)
    clock = Clock(say)
    held = held_out_of(interactions, config)
    encoder, finetuning = finetuned(
        encoder or load_encoder(config),
        items,
        held,
        config,
        clock,
        progress=progress,
        checkpoints=checkpoints,
    )
    with clock.step("embed", f"embed {len(items):,} items"):
        catalogue = catalogue_of(items, encoder, config, progress=progress)
    tuned = finetuning is not None and bool(finetuning["kept"])
    found = _fit_recall(catalogue, held, config, settings, clock, progress, finetuned=tuned)
    draft, settings, head = found.model, found.settings, found.head
    plain, full = _fit_second_stage(found, held, interactions, config, clock, progress, checkpoints)
    with clock.step("refit", "fit head and sources again on all interactions"):
        sources = _sources_again(draft, interactions, settings, config, progress=progress)
    model, without = _with_sources(full, sources, known=held.base), replace(plain, sources=sources)
    record: dict[str, object] = {
        "n_validation_users": len(np.unique(held.asked.users)),
        "finetune": finetuning,
        "recall_fusion": draft.recall_fusion.figures,
        "final_fusion": model.final_fusion.figures,
        "final_fusion_without_rerank": without.final_fusion.figures,
        "blend": asdict(model.reranker.history.blend) if model.reranker and model.reranker.history else None,
        "head_curve": head.curve,
        "source_settings": asdict(settings),
    }
    return Fitted(model, without, settings, clock.seconds, record)


@dataclass(frozen=True)
class _Recall:
    """Stage one, fitted: a two-stage model without a second stage.

    worlds: for whatever is fitted on validation later: the real one first, then those with new items.
    moments: earlier ones, where validation is by time.
    """

    model: TwoStage
    worlds: list[World]
    moments: list[Moment]
    settings: SourceSettings
    head: TrainedHead


def _fit_recall(
    catalogue: Catalogue,
    held: HeldOut,
    config: Config,
    settings: SourceSettings | None,
    clock: Clock,
    progress: bool,
    *,
    finetuned: bool,
) -> _Recall:
    """Settings, head, sources and the fusion that orders their union; finetuned: whether BERT learned of histories."""
    base, validation, asked = held.base, held.validation, held.asked
    with clock.step("choose", "choose neighbour and EASE settings on validation"):
        settings = settings or choose_settings(
            catalogue, base, validation, by_time=held.by_time, finetuned=finetuned, seed=config.seed
        )
    with clock.step("train_encoder", "train the recall head"):
        label = "recall head" if progress else None
        head, settings = choose_head(
            catalogue, base, settings, config, validation=validation, by_time=held.by_time, progress=label
        )
    with clock.step("build", "fit the candidate sources"):
        label = "recall" if progress else None
        sources = sources_on(catalogue, base, head.head, settings, config, by_time=held.by_time, label=label)
        allowed = could_be_right([*base, *asked.taken], catalogue.n_items, new_items=config.lists.new_items)
        real = World(sources, asked, allowed, has_new=config.lists.by_time)
        worlds, moments = [real], list[Moment]()
        # By time some items are new to the sources as it is; everybody's newest items were all taken before.
        if not config.lists.by_time:
            worlds += world_with_new_items(catalogue, held, real, head.head, settings, config)
        if held.earlier is not None:
            space = trained_vectors_of(sources)
            moments = earlier_moments(
                catalogue, held.earlier, settings, config, space=space, ahead=held.ahead, progress=progress
            )
    with clock.step("fusion", "fit the recall fusion on validation"):
        fusion = fit_recall_fusion(catalogue, [*worlds, *(moment.world for moment in moments)], config)
    # There is no second stage yet: the recall fusion stands in for the final one.
    model = TwoStage(catalogue, sources, config.depths, fusion, None, fusion)
    return _Recall(model, worlds, moments, settings, head)


def _fit_second_stage(
    recall: _Recall,
    held: HeldOut,
    interactions: Interactions,
    config: Config,
    clock: Clock,
    progress: bool,
    checkpoints: Path | None,
) -> tuple[TwoStage, TwoStage]:
    """The best model without GPT-2; and with it, which learns to correct recall's score from lists of the past."""
    draft, moments = recall.model, recall.moments
    stop = stopping_users(recall.worlds[0].validation, share=config.lists.stop_share, seed=config.seed)
    stopped, left = zip(*(world.parted(stop) for world in recall.worlds), strict=True)
    # What is true of one moment need not be so at another, and few users come back after any: by time two weigh GPT-2.
    n_earlier = 1 if len(moments) > 1 else 0
    worlds = [*left, *(moment.world for moment in moments[:n_earlier])]
    # What GPT-2 learns from, or is stopped by, cannot tell what GPT-2 is worth, but it can weigh everything else.
    told = [*(moment.world for moment in moments[n_earlier:]), *stopped]
    with clock.step("fusion", "fit the fusion without GPT-2 on validation"):
        found = [recall_worlds(draft, [world]) for world in worlds]
        without = fit_plain_fusion(draft, [*chain(*found), *recall_worlds(draft, told)], [*worlds, *told], config)
        plain = replace(draft, final_fusion=without.fusion)
    if not config.use_reranker:
        return plain, plain
    teacher = Teacher(draft, stopped[0], config, clock, progress, checkpoints)
    by_time = None
    if held.moment is None:
        rerankers = [_by_folds(recall, held, shown_of(interactions), teacher)] * len(worlds)
    else:
        by_time = ByTime([Moment(held.moment, recall.worlds[0]), *moments], interactions, teacher, recall.settings)
        rerankers = [by_time.at(number) for number in range(len(worlds))]
    reranker = rerankers[0]
    if reranker is None:  # by time, where times are so coarse that there is no earlier moment
        clock.say("no list to learn from: the fusion without GPT-2 stands")
        return plain, plain
    with clock.step("fusion", "fit the final fusion on validation"):
        beside = [(one, gpt2) for parts, gpt2 in zip(found, rerankers, strict=True) if gpt2 for one in parts]
        weighing = [world for world, gpt2 in zip(worlds, rerankers, strict=True) if gpt2]
        fusion = fit_final_fusion(draft, beside, weighing, config, base=without)
    full = replace(draft, reranker=reranker, final_fusion=fusion)
    if by_time is not None and full.rerank_counts:
        full = replace(full, reranker=by_time.now(reranker) or reranker)
    return plain, full


def _by_folds(recall: _Recall, held: HeldOut, shown: list[Shown] | None, teacher: Teacher) -> Reranker | None:
    """GPT-2 from lists of everybody's earlier positions; all of validation is later."""
    config, progress = teacher.config, teacher.progress
    with teacher.clock.step("lists", "make the reranker's training lists"):
        lists = cross_fitted_lists(held.base, shown, recall.model, recall.settings, config, progress=progress)
    return teacher.train(lists, held.base)


def refit(fitted: Fitted, interactions: Interactions, config: Config, *, progress: bool = False) -> TwoStage:
    """The same settings, reranker and fusions, with head and sources fitted on these interactions (same items)."""
    sources = _sources_again(fitted.model, interactions, fitted.settings, config, progress=progress)
    return replace(fitted.model, sources=sources)


def _with_sources(model: TwoStage, sources: tuple[Source, ...], *, known: Sequence[np.ndarray]) -> TwoStage:
    """The model with newer sources; GPT-2 goes on reading the vectors of its own time (see `train_recall_head`).

    known: histories of the items that GPT-2 knew then.
    """
    if model.reranker is None:
        return replace(model, sources=sources)
    taken = count_items(known, model.catalogue.n_items) > 0
    return replace(model, sources=sources, learned_vectors=np.where(taken[:, None], model.trained_vectors, 0))


def _sources_again(
    model: TwoStage, interactions: Interactions, settings: SourceSettings, config: Config, *, progress: bool
) -> tuple[Source, ...]:
    """The model's sources fitted on these interactions, in the space of its item vectors."""
    return sources_in_space(
        model.catalogue,
        histories_of(interactions),
        settings,
        config,
        space=model.trained_vectors,
        by_time=Timeline.of(interactions) if config.lists.by_time else None,
        label="recall" if progress else None,
    )
