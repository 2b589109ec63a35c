"""Minutes in, a configuration whose fit takes about so long out: lists, epochs, validation users, passes over the data.

The speeds were measured on two CPU cores (2026-11) at the default shapes; other machines differ, so the plan keeps a
tenth of the time back. Nothing here looks at the clock: the same arguments and the same machine give the same
configuration.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from retrieval.config import Config, ListsConfig
from retrieval.encoder.steps import FULL_SOFTMAX_ITEMS
from retrieval.encoder.text_encoder import resolve_device

RERANK_LISTS_PER_S = 120.0  # training, lists of 100 candidates with soft tokens
SCORE_LISTS_PER_S = 400.0  # scoring such lists
MAKE_LISTS_PER_S = 180.0  # candidates of all sources at one position
HEAD_S_PER_PASS = 2.0  # at 60,000 interactions over 4,400 items
_HEAD_INTERACTIONS, _HEAD_ITEMS = 60_000, 4_400
_USABLE = 0.9
_HEAD_SHARE, _HISTORY_SHARE, _VALIDATION_SHARE = 0.4, 0.15, 0.15  # of the time; the reranker's lists have the rest
_HEAD_SHARE_BY_TIME = 0.6
_FEW_FOLDS, _FEW_MOMENTS = 2, 4
_TRAININGS_BY_TIME = 3  # of GPT-2 (see `ByTime`)
_ENOUGH_PASSES = 10  # of the head; only then is it trained for more than _FEW_FOLDS folds
_FEW_INTERACTIONS = 100_000  # of more, one round of folds gives lists enough
_MIN_LISTS, _MIN_VALIDATION, _MIN_PASSES = 500, 500, 2
_FEW_LISTS = 4_000  # so many new lists teach more than a second look at fewer
_MAX_EPOCHS = 4
_MAX_PASSES = 40.0


def within_budget(
    config: Config, n_interactions: int, n_items: int, minutes: float, *, speed: float | None = None
) -> Config:
    """The configuration with lists, epochs, validation users, passes and seconds for a fit of `minutes`.

    A very short time, or a machine that is busy, still leaves the least that can be trained, and then the fit takes
    longer. Fine-tuning BERT is not planned for.

    Args:
        speed: how many times faster than two CPU cores the machine is; None asks `machine_speed` about this one.

    Raises:
        ValueError: minutes or speed not above 0, or no interactions or items.
    """
    speed = machine_speed(config.device) if speed is None else speed
    if not minutes > 0 or not speed > 0:
        raise ValueError(f"budget: expected minutes and speed above 0, got minutes={minutes!r} and speed={speed!r}")
    if n_interactions < 1 or n_items < 1:
        raise ValueError(
            f"budget: expected interactions and items, got n_interactions={n_interactions!r}, n_items={n_items!r}"
        )
    usable_s = 60 * minutes * _USABLE * speed  # in seconds of two cores
    pass_s = head_pass_s(n_interactions, n_items)
    head_share = _HEAD_SHARE_BY_TIME if config.lists.by_time else _HEAD_SHARE
    all_heads_s, enough_s = usable_s * head_share, _ENOUGH_PASSES * pass_s
    # The head is trained with validation, without each of the folds or until each of the moments, and on everything;
    # by time with validation in two ways (see `choose_head`), and two further heads stand beside each. By folds the
    # one on everything is paid by the tenth that is kept back.
    n_whole, per_part = (7, 3) if config.lists.by_time else (1, 1)
    lists = _parts_of(config.lists, n_interactions, (int(all_heads_s / enough_s) - n_whole) // per_part)
    n_heads = n_whole + per_part * (lists.moments if lists.by_time else lists.folds * lists.rounds)
    head_s = all_heads_s / n_heads
    if (lists.folds, lists.moments) != (config.lists.folds, config.lists.moments):
        head_s = max(min(head_s, enough_s), _MIN_PASSES * pass_s)
    max_passes = float(min(_MAX_PASSES, max(_MIN_PASSES, round(head_s / pass_s))))
    history_s = usable_s * _HISTORY_SHARE if config.use_reranker and config.use_history_model else 0.0
    rest_s = max(0.0, usable_s - n_heads * head_s - history_s)
    n_trainings = _TRAININGS_BY_TIME if lists.by_time else 1
    max_lists, epochs = _lists_and_epochs(rest_s * (1 - _VALIDATION_SHARE) / n_trainings, n_interactions)
    # Each validation user is recalled twice (recall fusion, final fusion) and scored about twice.
    per_user_s = 2 / MAKE_LISTS_PER_S + 2 / SCORE_LISTS_PER_S
    users = round(max(usable_s * _VALIDATION_SHARE / 2, rest_s * _VALIDATION_SHARE) / per_user_s)
    users = min(10_000, max(_MIN_VALIDATION, users))
    return replace(
        config,
        lists=replace(lists, max_lists=max_lists, validation_users=users),
        rerank=replace(config.rerank, epochs=epochs),
        head_training=replace(
            config.head_training, max_passes=max_passes, max_seconds=head_s / speed, min_passes=_MIN_PASSES
        ),
        history_training=replace(config.history_training, max_seconds=history_s / n_trainings / speed),
    )


def _parts_of(lists: ListsConfig, n_interactions: int, affordable: int) -> ListsConfig:
    """So many moments, or folds and rounds, as heads of enough passes can be trained for; few, where hardly any can."""
    if lists.by_time:
        return replace(lists, moments=min(lists.moments, max(_FEW_MOMENTS, affordable)))
    folds = lists.folds if lists.folds <= affordable else min(_FEW_FOLDS, lists.folds)
    rounds = min(lists.rounds, max(1, affordable // folds)) if n_interactions < _FEW_INTERACTIONS else 1
    return replace(lists, folds=folds, rounds=rounds)


def machine_speed(device: str) -> float:
    """How many times faster than two CPU cores this machine is taken to be: by its threads, from a half to four.

    The head's small matrices do not use many threads. A GPU is planned as two cores: what is faster ends early.
    """
    if resolve_device(device).type != "cpu":
        return 1.0
    return min(4.0, max(0.5, torch.get_num_threads() / 2))


def head_pass_s(n_interactions: int, n_items: int) -> float:
    """Seconds of one pass of the recall head on two cores: half of it grows with the items its softmax runs over.

    Beyond FULL_SOFTMAX_ITEMS the softmax is sampled and no longer grows.
    """
    items = min(n_items, FULL_SOFTMAX_ITEMS) / _HEAD_ITEMS
    return HEAD_S_PER_PASS * n_interactions / _HEAD_INTERACTIONS * (0.5 + 0.5 * items)


def _lists_and_epochs(seconds: float, n_interactions: int) -> tuple[int, int]:
    """New lists first, then a second epoch, and further ones only when every interaction has its list."""
    epochs = 1
    lists = seconds / (1 / MAKE_LISTS_PER_S + epochs / RERANK_LISTS_PER_S)
    for more in range(2, _MAX_EPOCHS + 1):
        fewer = seconds / (1 / MAKE_LISTS_PER_S + more / RERANK_LISTS_PER_S)
        if fewer < (_FEW_LISTS if more == 2 else n_interactions):
            break
        epochs, lists = more, fewer
    return max(_MIN_LISTS, min(n_interactions, int(lists))), epochs
