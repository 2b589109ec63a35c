"""Histories and item texts in, training pairs for BERT out: (history text, next item's text, hard negatives' texts).

A pair is a past moment of one user: what came before it as one text, newest first, and the item taken next. Hard
negatives are what the encoder itself ranks near the history although the user never took it (Xiong et al. 2021, ANCE,
mined once). The very first ranks are left out: there stands what the user may well like and has not met yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexes import build_index
from retrieval.encoder.finetune_config import FinetuneConfig
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.text import TextConfig, cut_to_tokens, history_text

_SEARCH_QUERIES = 1_024


@dataclass(frozen=True)
class Pairs:
    """Training pairs as rows and texts, all in one order.

    users, positives: int64 (n_pairs,); positives are the item rows taken next.
    negatives: int64 (n_pairs, n_negatives), item rows that pair's user never took.
    history_texts: the text before each positive.
    """

    users: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    history_texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positives)

    def columns(self, item_texts: Sequence[str], *, max_tokens: int) -> dict[str, list[str]]:
        """The texts as the losses read them: anchor, positive, negatives, in this order of the columns."""
        # An item stands in many pairs; it is cut once.
        used = np.unique(np.concatenate([self.positives, self.negatives.ravel()]))
        cut = {row: cut_to_tokens(item_texts[row], max_tokens) for row in map(int, used)}
        columns = {
            "history": [cut_to_tokens(text, max_tokens) for text in self.history_texts],
            "item": [cut[int(row)] for row in self.positives],
        }
        for place, rows in enumerate(self.negatives.T, start=1):
            columns[f"negative_{place}"] = [cut[int(row)] for row in rows]
        return columns


def history_text_of(history: np.ndarray, titles: Sequence[str], text_config: TextConfig) -> str:
    """The text of a history (item rows, oldest first), newest item first."""
    newest = history[::-1][: text_config.history_items]
    return history_text([titles[int(row)] for row in newest], text_config)


def sample_positions(
    histories: Sequence[np.ndarray], *, max_pairs: int, per_user: int, keep_seen: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Moments with something before them: users and places in their histories, both int64 (n,), in random order.

    Args:
        per_user: of one user so many at random at the most, so that a few heavy users do not fill the batches.
        keep_seen: also moments at which the user took something again.
    """
    users, places = [], []
    for user, history in enumerate(histories):
        later = np.arange(1, len(history))
        if not keep_seen:
            first = np.zeros(len(history), dtype=bool)
            first[np.unique(history, return_index=True)[1]] = True
            later = later[first[1:]]
        if len(later) > per_user:
            later = rng.choice(later, per_user, replace=False)
        users.append(np.full(len(later), user, dtype=np.int64))
        places.append(later.astype(np.int64))
    all_users = np.concatenate(users) if users else np.empty(0, dtype=np.int64)
    all_places = np.concatenate(places) if places else np.empty(0, dtype=np.int64)
    order = rng.permutation(len(all_users))[:max_pairs]
    return all_users[order], all_places[order]


def mine_negatives(
    query_vectors: np.ndarray,
    item_vectors: np.ndarray,
    positives: np.ndarray,
    taken: Sequence[np.ndarray],
    *,
    n_negatives: int,
    ranks: tuple[int, int],
    margin: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Items near each query that its user never took: int64 (n_queries, n_negatives), distinct within a row.

    Drawn at random from the given ranks (from 1, both ends included) of an exact search. An item whose cosine with the
    positive is above 1 - margin is no negative: it may be the same thing in another colour. Where too few are left, the
    row is filled with random items the user never took; where the user took nearly everything, with -1.

    Args:
        query_vectors: float32 (n_queries, dim). item_vectors: float32 (n_items, dim); both of length 1.
        taken: item rows per query, everything its user ever took.
    """
    found = np.full((len(positives), n_negatives), -1, dtype=np.int64)
    if not n_negatives:
        return found
    index = build_index(item_vectors, family="exact")
    low, high = ranks
    for start in range(0, len(positives), _SEARCH_QUERIES):
        hits = index.search(query_vectors[start : start + _SEARCH_QUERIES], min(high, len(item_vectors)))
        for pair, rows in enumerate(hits.rows[:, low - 1 :], start=start):
            near_positive = item_vectors[rows] @ item_vectors[positives[pair]] > 1 - margin
            kept = rows[~near_positive & ~np.isin(rows, taken[pair])]
            chosen = rng.permutation(kept)[:n_negatives]
            if len(chosen) < n_negatives:
                chosen = _fill(chosen, taken[pair], len(item_vectors), n_negatives, rng)
            found[pair, : len(chosen)] = chosen
    return found


def _fill(
    chosen: np.ndarray, taken: np.ndarray, n_items: int, n_negatives: int, rng: np.random.Generator
) -> np.ndarray:
    """The chosen rows and random others, neither chosen nor taken; n_negatives in all where there are enough."""
    refused = np.union1d(chosen, taken)
    # A small draw nearly always holds enough; only for a user who took most of a small catalogue all rows are listed.
    draw = np.unique(rng.integers(n_items, size=16 * n_negatives))
    free = np.setdiff1d(draw, refused)
    if len(free) < n_negatives - len(chosen):
        free = np.setdiff1d(np.arange(n_items), refused)
    return np.concatenate([chosen, rng.permutation(free)[: n_negatives - len(chosen)]])


def make_pairs(
    encoder: TextEncoder,
    item_texts: Sequence[str],
    titles: Sequence[str],
    histories: Sequence[np.ndarray],
    *,
    text_config: TextConfig,
    config: FinetuneConfig,
    keep_seen: bool,
    progress: str | None = None,
) -> Pairs:
    """Sample moments, write their texts and mine their negatives; nothing outside `histories` is read.

    Raises:
        ValueError: no history has two different items, or nobody left enough items untaken.
    """
    rng = np.random.default_rng(config.seed)
    users, places = sample_positions(
        histories, max_pairs=config.max_pairs, per_user=config.pairs_per_user, keep_seen=keep_seen, rng=rng
    )
    if not len(users):
        raise ValueError("fine-tuning: no history has 2 or more different items; give more interactions")
    before = [histories[user][:place] for user, place in zip(users, places, strict=True)]
    texts = [history_text_of(history, titles, text_config) for history in before]
    positives = np.array([histories[user][place] for user, place in zip(users, places, strict=True)], dtype=np.int64)
    negatives = np.empty((len(users), 0), dtype=np.int64)
    if config.hard_negatives:
        negatives = mine_negatives(
            encoder.encode(texts, progress=progress),
            encoder.encode(item_texts, progress=progress),
            positives,
            [histories[user] for user in users],
            n_negatives=config.hard_negatives,
            ranks=(config.first_rank, config.last_rank),
            margin=config.margin,
            rng=rng,
        )
    whole = np.flatnonzero((negatives >= 0).all(axis=1) & np.array([bool(text) for text in texts]))
    if not len(whole):
        raise ValueError(
            f"fine-tuning: no user left {config.hard_negatives} items untaken; set finetune.hard_negatives lower, or 0"
        )
    return Pairs(users[whole], positives[whole], negatives[whole], tuple(texts[pair] for pair in whole))
