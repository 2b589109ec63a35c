"""Interactions in, a fitted two-stage recommender out.

The newest interaction of every user (of a sample, where there are many) is held out as validation inside this function:
settings, early stopping and fusions are chosen there, then the sources are fitted again on everything. Whoever measures
on later interactions passes only what came before them, so no evaluated target can be seen.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from retrieval.catalogue import Catalogue
from retrieval.clock import Clock, Say
from retrieval.config import Config
from retrieval.data import Interactions, Items
from retrieval.encoder.finetune import wants_finetuning
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.encoder.train import TrainedHead
from retrieval.fit_fusions import fit_final_fusion, fit_plain_fusion, fit_recall_fusion, recall_worlds
from retrieval.fit_reranker import stopping_lists, train_history_model, train_on_lists
from retrieval.fit_steps import (
    catalogue_of,
    cross_fitted_lists,
    finetuned,
    load_encoder,
    sources_on,
    train_recall_head,
    world_with_new_items,
)
from retrieval.new_items import World, could_be_right
from retrieval.rerank_lists import Shown
from retrieval.source_choice import choose_settings
from retrieval.sources import Source
from retrieval.stage_one import SourceSettings, Validation
from retrieval.two_stage import TwoStage

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


def histories_of(interactions: Interactions) -> list[np.ndarray]:
    """Item rows per user row, int64, oldest first."""
    rows, offsets = interactions.item_rows.astype(np.int64), interactions.offsets
    return [rows[offsets[user] : offsets[user + 1]] for user in range(interactions.n_users)]


def shown_of(interactions: Interactions) -> list[Shown] | None:
    """Per user row what was shown and not taken, and when; None when the data has no impressions."""
    negatives = interactions.negatives
    if not len(negatives):
        return None
    starts = np.searchsorted(negatives.user_rows, np.arange(interactions.n_users + 1))
    rows, offsets = negatives.item_rows.astype(np.int64), interactions.offsets
    result = []
    for user in range(interactions.n_users):
        own = slice(starts[user], starts[user + 1])
        taken_at = interactions.times[offsets[user] : offsets[user + 1]]
        result.append(Shown(rows[own], np.searchsorted(taken_at, negatives.times[own], side="left")))
    return result


def hold_out(
    histories: list[np.ndarray], *, max_users: int, keep_seen: bool, seed: int
) -> tuple[list[np.ndarray], Validation]:
    """The newest item of at most max_users users (with 2 or more items) as targets; the others keep theirs.

    Raises:
        ValueError: nobody has 2 items.
    """
    eligible = np.array([user for user, history in enumerate(histories) if len(history) >= 2], dtype=np.int64)
    if not len(eligible):
        raise ValueError("fit: no user has 2 or more interactions, so nothing can be held out; give more interactions")
    if len(eligible) > max_users:
        eligible = np.sort(np.random.default_rng(seed).choice(eligible, max_users, replace=False))
    base = list(histories)
    for user in eligible:
        base[user] = histories[user][:-1]
    targets = np.array([histories[user][-1] for user in eligible], dtype=np.int64)
    return base, Validation([base[user] for user in eligible], targets, keep_seen)


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
        ValueError: too little data (see `hold_out`, `train_head`).
    """
    clock = Clock(say)
    histories = histories_of(interactions)
    base, validation = hold_out(
        histories, max_users=config.lists.validation_users, keep_seen=config.keep_seen, seed=config.seed
    )
    encoder, finetuning = finetuned(
        encoder or load_encoder(config),
        items,
        base,
        validation,
        config,
        clock,
        progress=progress,
        checkpoints=checkpoints,
    )
    with clock.step("embed", f"embed {len(items):,} items"):
        catalogue = catalogue_of(items, encoder, config, progress=progress)
    draft, worlds, settings, head = _fit_recall(catalogue, base, validation, config, settings, clock, progress)
    plain, full = _fit_second_stage(
        draft, base, worlds, shown_of(interactions), settings, config, clock, progress, checkpoints
    )
    with clock.step("refit", "fit head and sources again on all interactions"):
        sources = _sources_again(draft, histories, settings, config, progress=progress)
    model, without = replace(full, sources=sources), replace(plain, sources=sources)
    record: dict[str, object] = {
        "n_validation_users": len(validation.targets),
        "finetune": finetuning,
        "recall_fusion": draft.recall_fusion.figures,
        "final_fusion": model.final_fusion.figures,
        "final_fusion_without_rerank": without.final_fusion.figures,
        "blend": asdict(model.reranker.history.blend) if model.reranker and model.reranker.history else None,
        "head_curve": head.curve,
        "source_settings": asdict(settings),
    }
    return Fitted(model, without, settings, clock.seconds, record)


def _fit_recall(
    catalogue: Catalogue,
    base: list[np.ndarray],
    validation: Validation,
    config: Config,
    settings: SourceSettings | None,
    clock: Clock,
    progress: bool,
) -> tuple[TwoStage, list[World], SourceSettings, TrainedHead]:
    """Settings, head, sources and the fusion that orders their union: a two-stage model without a second stage.

    The worlds are for whatever is fitted on validation later: the real one first, then those with new items.
    """
    with clock.step("choose", "choose neighbour and EASE settings on validation"):
        finetuned = wants_finetuning(config.encoder.finetune, device=config.device)
        settings = settings or choose_settings(catalogue, base, validation, finetuned=finetuned, seed=config.seed)
    with clock.step("train_encoder", "train the recall head"):
        label = "recall head" if progress else None
        head = train_recall_head(catalogue, base, config, validation=validation, progress=label)
        settings = replace(settings, head_passes=head.passes)
    with clock.step("build", "fit the candidate sources"):
        sources = sources_on(catalogue, base, head.head, settings, config)
        allowed = could_be_right([*base, validation.targets], catalogue.n_items, new_items=config.lists.new_items)
        real = World(sources, validation, allowed)
        worlds = [real, *world_with_new_items(catalogue, base, real, head.head, settings, config)]
    with clock.step("fusion", "fit the recall fusion on validation"):
        fusion = fit_recall_fusion(catalogue, worlds, config)
    # There is no second stage yet: the recall fusion stands in for the final one.
    return TwoStage(catalogue, sources, config.depths, fusion, None, fusion), worlds, settings, head


def _fit_second_stage(
    draft: TwoStage,
    base: list[np.ndarray],
    worlds: list[World],
    shown: list[Shown] | None,
    settings: SourceSettings,
    config: Config,
    clock: Clock,
    progress: bool,
    checkpoints: Path | None,
) -> tuple[TwoStage, TwoStage]:
    """The best model without GPT-2; and with it, which learns to correct recall's score from cross-fitted lists."""
    real, *others = worlds
    stop, rest = split_validation(real.validation, share=config.lists.stop_share, seed=config.seed)
    worlds = [replace(real, validation=rest), *others]
    with clock.step("fusion", "fit the fusion without GPT-2 on validation"):
        found = recall_worlds(draft, worlds)
        plain = replace(draft, final_fusion=fit_plain_fusion(draft, found, worlds, config))
    if not config.use_reranker:
        return plain, plain
    with clock.step("lists", "make the reranker's training lists"):
        lists = cross_fitted_lists(base, shown, draft, settings, config, progress=progress)
    with clock.step("train_reranker", f"train the reranker on {len(lists):,} lists"):
        stopping = replace(real, validation=stop)
        held = stopping_lists(draft, stopping, config)
        reranker = train_on_lists(draft, lists, held, config, progress=progress, checkpoints=checkpoints)
    if reranker is None:
        return plain, plain
    # A reranker that reads words alone is also asked without vectors, and a history model reads nothing else.
    if config.use_history_model and reranker.config.vector_dim:
        with clock.step("train_reranker", "train GPT-2 on the histories"):
            history = train_history_model(draft, base, stopping, config, progress=progress)
            clock.say(f"beside the cross-encoder: {reranker.add_history(history, held)}")
    with clock.step("fusion", "fit the final fusion on validation"):
        draft = replace(draft, reranker=reranker)
        return plain, replace(draft, final_fusion=fit_final_fusion(draft, found, worlds, config))


def refit(fitted: Fitted, interactions: Interactions, config: Config, *, progress: bool = False) -> TwoStage:
    """The same settings, reranker and fusions, with head and sources fitted on these interactions (same items)."""
    histories = histories_of(interactions)
    return replace(
        fitted.model, sources=_sources_again(fitted.model, histories, fitted.settings, config, progress=progress)
    )


def _sources_again(
    model: TwoStage, histories: list[np.ndarray], settings: SourceSettings, config: Config, *, progress: bool
) -> tuple[Source, ...]:
    """The model's sources fitted on these histories, in the space of its item vectors."""
    label = "recall head" if progress else None
    passes, space = settings.head_passes, model.trained_vectors
    head = train_recall_head(model.catalogue, histories, config, passes=passes, space=space, progress=label)
    return sources_on(model.catalogue, histories, head.head, settings, config)


def split_validation(validation: Validation, *, share: float, seed: int) -> tuple[Validation, Validation]:
    """Two disjoint parts: the first stops the reranker's training, the second fits the final fusion."""
    order = np.random.default_rng(seed).permutation(len(validation.targets))
    cut = min(max(1, round(share * len(order))), len(order) - 1) if len(order) > 1 else 0
    first, second = np.sort(order[:cut]), np.sort(order[cut:])

    def part(users: np.ndarray) -> Validation:
        return Validation([validation.histories[u] for u in users], validation.targets[users], validation.keep_seen)

    return part(first), part(second)
