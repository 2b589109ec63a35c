"""Stage two from its lists: the cross-encoder, and the history model beside it; by time at several moments."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from rerank import HistoryModel, Reranker, train_reranker
from rerank.checkpoint import OtherCheckpointError, remove_checkpoint
from retrieval.clock import Clock
from retrieval.config import Config
from retrieval.data import Interactions, time_split
from retrieval.encoder.seasons import Timing
from retrieval.encoder.train import train_next_item
from retrieval.fit_fusions import validation_queries
from retrieval.fit_steps import seasons_of, timing_of
from retrieval.held_out import without_later
from retrieval.histories import Timeline, histories_of
from retrieval.moments import Moment, rolling_lists
from retrieval.new_items import World
from retrieval.rerank_lists import LazyLists, RerankList, list_of
from retrieval.stage_one import CHOOSING_USERS, SourceSettings, in_batches, sub_queries
from retrieval.two_stage import TwoStage, batch_size, final_feature_names, item_tokens, trained_vectors_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """What every training of GPT-2 in one fit has in common.

    model: stage one, whose correction is learned. stop: the validation users who stop a training.
    checkpoints: a directory; an interrupted training goes on from there.
    """

    model: TwoStage
    stop: World
    config: Config
    clock: Clock
    progress: bool = False
    checkpoints: Path | None = None

    @cached_property
    def checks(self) -> LazyLists:
        """The lists of `stop`."""
        return stopping_lists(self.model, self.stop, self.config)

    def train(
        self,
        lists: list[RerankList],
        histories: list[np.ndarray],
        *,
        vectors: np.ndarray | None = None,
        timing: Timing | None = None,
        like: Reranker | None = None,
        purpose: str = "",
    ) -> Reranker | None:
        """GPT-2 from these lists and, as a history model, from these histories; None without a list to learn from.

        Args:
            vectors, timing: see `train_history_model`.
            like: takes its blend over, where what is learned from reaches into the time the checks ask about.
            purpose: which of several trainings it is, and its checkpoints' name.
        """
        config, clock = self.config, self.clock
        with clock.step("train_reranker", f"train the reranker on {len(lists):,} lists{purpose and f' ({purpose})'}"):
            # A folder of its own: it is replaced as a whole, and fine-tuning has one beside it.
            place = self.checkpoints / (purpose or "reranker") if self.checkpoints else None
            reranker = train_on_lists(self.model, lists, self.checks, config, progress=self.progress, checkpoints=place)
        # A reranker that reads words alone is also asked without vectors, and a history model reads nothing else.
        wanted = config.use_history_model and (like is None or like.history is not None)
        if reranker is not None and wanted and reranker.config.vector_dim:
            blend = like.history.blend if like and like.history else None
            with clock.step("train_reranker", f"train GPT-2 on the histories{purpose and f' ({purpose})'}"):
                history = train_history_model(
                    self.model,
                    histories,
                    self.stop,
                    config,
                    vectors=vectors,
                    timing=timing,
                    progress=self.progress,
                )
                clock.say(f"GPT-2's score: {reranker.add_history(history, self.checks, blend=blend)}")
        return reranker


@dataclass(frozen=True)
class ByTime:
    """GPT-2 as it could have been at any of these moments, and as it can be now: of what users take it forgets soon.

    moments: newest first, validation's before the earlier ones. interactions: all that may be learned from.
    settings: of stage one.
    """

    moments: Sequence[Moment]
    interactions: Interactions
    teacher: Teacher
    settings: SourceSettings

    def at(self, number: int) -> Reranker | None:
        """What it would have said at one of the moments: it learned nothing of what was taken from then on, and only
        when to stop and how to weigh its two parts of those who stop all trainings."""
        moment = self.moments[number]
        until = time_split(self.interactions, at=moment.at).train
        purpose = f"moment {number}" if number else "validation"
        # The item vectors of a later moment have seen what this one asks for.
        vectors = trained_vectors_of(moment.world.sources)
        return self._learned(self.moments[number + 1 :], until, vectors, purpose)

    def now(self, like: Reranker) -> Reranker | None:
        """For serving: of everything, except what those took later who stop its training; like: see `Teacher.train`."""
        stop = self.teacher.stop.validation.users
        known = without_later(self.interactions, stop, self.moments[0].at)
        return self._learned(self.moments, known, self.teacher.model.trained_vectors, "serving", like)

    def _learned(
        self,
        moments: Sequence[Moment],
        known: Interactions,
        vectors: np.ndarray,
        purpose: str,
        like: Reranker | None = None,
    ) -> Reranker | None:
        teacher = self.teacher
        with teacher.clock.step("lists", f"make the reranker's training lists ({purpose})"):
            lists = rolling_lists(moments, known, teacher.model, teacher.config, progress=teacher.progress)
        histories, by_time = histories_of(known), Timeline.of(known)
        seasons = seasons_of(histories, by_time, self.settings, known.n_items)
        timing = timing_of(by_time, self.settings, seasons)
        return teacher.train(lists, histories, vectors=vectors, timing=timing, like=like, purpose=purpose)


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
    train = partial(
        train_reranker,
        LazyLists(catalogue, lists, history_items=max(rerank.max_history_items, 1)),
        validation=validation,
        config=rerank,
        encoder=catalogue.encoder.model,
        device=config.device,
        progress=(lambda line: print(line, file=sys.stderr, flush=True)) if progress else False,
        checkpoint_directory=checkpoints,
    )
    try:
        trained = train()
    except OtherCheckpointError as error:  # last night's fit was killed, and there is newer data
        log.warning("%s: a checkpoint of other data or another configuration; GPT-2 begins anew", error.directory)
        remove_checkpoint(error.directory)
        trained = train()
    reranker, keep = trained.reranker, config.depths.all_blocks
    if 0 < keep < config.depths.rerank and len(validation) >= 2 and reranker.config.n_layer >= 2:
        report = reranker.fit_cascade(validation, n_blocks=reranker.config.n_layer // 2, keep=keep)
        log.info("cascade %s: %s", "on" if report.accepted else "off", report)
    return reranker


def train_history_model(
    model: TwoStage,
    histories: list[np.ndarray],
    stop: World,
    config: Config,
    *,
    vectors: np.ndarray | None = None,
    timing: Timing | None = None,
    progress: bool = False,
) -> HistoryModel:
    """GPT-2 as a language model of these histories, stopped early by the validation users of `stop`.

    Args:
        vectors: float32 (n_items, dim), what the recall head learned of the items; the model's own, if not given.
        timing: see `train_next_item`.
    """
    vectors = model.trained_vectors if vectors is None else vectors
    users = stop.validation.single(1, seed=config.seed).slice(CHOOSING_USERS, config.seed)
    tokens = item_tokens(model.catalogue, vectors, slice(None))
    shape = replace(config.history, vector_dim=tokens.shape[1])
    trained = train_next_item(
        lambda: HistoryModel(shape),
        histories,
        tokens,
        training=replace(config.history_training, seed=config.seed, later=config.lists.by_time),
        validation=(users.histories, users.targets),
        timing=timing,
        keep_seen=users.keep_seen,
        device=config.device,
        progress="history model" if progress else None,
    )
    log.info("history model: %s passes, %s", trained.passes, trained.curve[-1])
    return trained.head
