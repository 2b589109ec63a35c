"""One optimiser step of a next-item model at a time: windows of histories in, a loss out, averaged weights kept.

Softmax over the catalogue; above FULL_SOFTMAX_ITEMS over the batch's targets and a uniform sample, corrected for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from rerank import HistoryModel
from rerank.precision import has_bfloat16
from retrieval.encoder.head_config import HeadTraining
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.seasons import Timing
from retrieval.encoder.softmax_loss import softmax_loss

NextItemModel = RecallHead | HistoryModel
"""What learns to say, at every place of a history, which item comes next."""
FULL_SOFTMAX_ITEMS = 20_000
_SAMPLED_ITEMS = 8_192


def windows(histories: Sequence[np.ndarray], length: int, max_windows: int) -> list[np.ndarray]:
    """Histories cut into pieces of at most length + 1 items, newest first; neighbours overlap by one, so
    that every item but the first is predicted exactly once."""
    pieces = []
    for history in histories:
        end = len(history)
        for _ in range(max_windows):
            if end < 2:
                break
            start = max(0, end - length - 1)
            pieces.append(np.asarray(history[start:end]))
            end = start + 1 if start else 0
    return pieces


def windows_of_places(places: Sequence[np.ndarray], length: int, max_windows: int) -> list[np.ndarray]:
    """Places of histories, int64, one beside every item, cut as `windows` cuts the items; counted from each start."""
    starts = windows([np.arange(len(own)) for own in places], length, max_windows)
    return [own - start[0] for own, start in zip(windows(places, length, max_windows), starts, strict=True)]


def pad_histories(histories: Sequence[np.ndarray], length: int) -> Tensor:
    """int64 (n, longest): the newest `length` rows of every history at the right, -1 at the left where none is."""
    longest = max(1, min(length, max((len(history) for history in histories), default=1)))
    padded = np.full((len(histories), longest), -1, dtype=np.int64)
    for row, history in enumerate(histories):
        newest = history[-longest:]
        if len(newest):
            padded[row, -len(newest) :] = newest
    return torch.from_numpy(padded)


def _batches(lengths: np.ndarray, positions: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One pass: shuffled batches of windows of similar length, each of about so many positions."""
    order = np.argsort(lengths + 2 * rng.random(len(lengths)), kind="stable")
    batch = np.cumsum(lengths[order] - 1) // positions
    batches = np.split(order, np.flatnonzero(np.diff(batch)) + 1)
    rng.shuffle(batches)  # pyright: ignore[reportArgumentType]
    return batches


def later_places(
    known: np.ndarray, rng: np.random.Generator, first: np.ndarray | None = None, *, near: float = 1.0
) -> np.ndarray:
    """For every place but the last one of the places after it, at random: int64 (n, length - 1).

    Args:
        known: bool (n, length), False at padding.
        first: int64 (n, length - 1), the first place after each that may be drawn, `length` where there is none.
        near: there, any place after it is drawn so often, and else -1 stands for none.
    """
    n, length = known.shape
    begin = np.broadcast_to(np.arange(1, length), (n, length - 1))
    alone = np.zeros_like(begin, dtype=bool) if first is None else first >= length
    begin = begin if first is None else np.where(alone, begin, first)
    after = begin + np.floor(rng.random((n, length - 1)) * (length - begin)).astype(np.int64)
    if first is None:
        return after
    kept = np.where(alone & (rng.random((n, length - 1)) >= near), -1, after)
    return kept if ((kept >= 0) & known[:, :-1]).any() else after


def _at(padded: Tensor, places: np.ndarray) -> Tensor:
    """What stands in each row at these places of it: int64 (n, length), (n, m) -> (n, m), -1 where a place is -1."""
    wanted = torch.from_numpy(places).to(padded.device)
    return padded.gather(1, wanted.clamp_min(0)).masked_fill(wanted < 0, -1)


def _pad_first(apart: Sequence[np.ndarray], length: int) -> np.ndarray:
    """What `first_apart` says of windows, as `later_places` wants it of the padded ones: int64 (n, length - 1)."""
    first = np.full((len(apart), length), length, dtype=np.int64)
    for row, own in enumerate(apart):
        first[row, length - len(own) :] = np.where(own < len(own), own + length - len(own), length)
    return first[:, :-1]


def _loss(
    head: NextItemModel,
    text: Tensor,
    taken: Tensor,
    inputs: Tensor,
    targets: Tensor,
    rng: np.random.Generator,
    smoothing: float,
    season: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Cross-entropy of the target at every position; (Bengio and Senecal 2008) correction when it is sampled.

    Args:
        taken: int64 (n,), rising: the rows that occur at all. Only they are classes: an item that cannot be right would
            teach that its text is wrong, and new items of such texts would not be found.
        inputs, targets: int64 (n_users, length), -1 at padding.
        season: the targets' eras, as targets, and `Seasons.popularity`.
    """
    known = (inputs >= 0) & (targets >= 0)
    wanted = targets[known]
    n_items = len(taken)
    if n_items <= FULL_SOFTMAX_ITEMS:
        vectors = head.item_vectors(text[taken], taken)
        users = head.states(vectors[torch.searchsorted(taken, inputs.clamp_min(0))], inputs < 0)[known]
        wanted, users = torch.searchsorted(taken, wanted), users * head.log_scale.exp()
        if season is not None:  # as further numbers of the vectors: a user's say which era's popularity counts
            eras, popularity = season
            users = torch.cat([users, torch.nn.functional.one_hot(eras[known], len(popularity)).to(users.dtype)], 1)
            vectors = torch.cat([vectors, popularity[:, taken].T.to(vectors.dtype)], 1)
        return softmax_loss(users, vectors, wanted, smoothing=smoothing)
    sample = taken[torch.from_numpy(rng.choice(n_items, _SAMPLED_ITEMS, replace=False)).to(text.device)]
    used, place = torch.unique(torch.cat([inputs[inputs >= 0], wanted]), return_inverse=True)
    in_vectors = head.item_vectors(text[used], used)
    lookup = torch.zeros_like(inputs)
    lookup[inputs >= 0] = place[: int((inputs >= 0).sum())]
    users = head.states(in_vectors[lookup], inputs < 0)[known]
    classes, wanted_place = torch.unique(wanted, return_inverse=True)
    others = sample[~torch.isin(sample, classes)]
    rows = torch.cat([classes, others])
    logits = (users @ head.item_vectors(text[rows], rows).T).float() * head.log_scale.exp()
    if season is not None:
        eras, popularity = season
        logits += popularity[:, rows][eras[known]]
    # A sampled item stands for n_items / n_sampled items; the targets are always there and stand for themselves.
    logits[:, len(classes) :] += math.log(n_items / _SAMPLED_ITEMS)
    return torch.nn.functional.cross_entropy(logits, wanted_place, label_smoothing=smoothing)


class HeadTrainer:
    """The model, its optimiser and its averaged weights, moved on by a number of steps at a time."""

    def __init__(
        self,
        head: NextItemModel,
        text: Tensor,
        pieces: list[np.ndarray],
        training: HeadTraining,
        rng: np.random.Generator,
        timing: Timing,
    ) -> None:
        """timing: of the pieces."""
        self.apart, seasons = timing.apart, timing.seasons
        self.seasons = seasons and (seasons.eras, torch.from_numpy(seasons.popularity).to(text.device))
        self.head, self.text, self.pieces, self.training, self.rng = head, text, pieces, training, rng
        self.lengths = np.array([len(piece) for piece in pieces])
        if isinstance(head, RecallHead):
            counts = np.bincount(np.concatenate(pieces), minlength=len(text))
            head.count_interactions(torch.from_numpy(counts).to(text.device, torch.float32))
        self.taken = torch.from_numpy(np.unique(np.concatenate(pieces)).astype(np.int64)).to(text.device)
        self.steps_per_pass = len(_batches(self.lengths, training.batch_positions, np.random.default_rng(0)))
        self.step = 0
        self._queue: list[np.ndarray] = []
        self._average = {name: value.detach().clone() for name, value in head.state_dict().items()}
        self._optimiser = torch.optim.AdamW(
            head.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )

    def run(self, steps: int) -> float:
        """So many steps; returns their mean loss."""
        self.head.train()
        place = self.text.device
        total = 0.0
        for _ in range(steps):
            if not self._queue:
                self._queue = _batches(self.lengths, self.training.batch_positions, self.rng)
            chosen = self._queue.pop()
            padded = self._padded(self.pieces, chosen)
            places = self._places(padded, chosen)
            targets = _at(padded, places)
            season = None
            if self.seasons is not None:
                eras, popularity = self.seasons
                season = _at(self._padded(eras, chosen), places), popularity
            for group in self._optimiser.param_groups:
                group["lr"] = self.training.learning_rate * min(1.0, (self.step + 1) / self.training.warmup_steps)
            with torch.autocast(place.type, torch.bfloat16, enabled=has_bfloat16(place)):
                smoothing = self.training.label_smoothing
                loss = _loss(self.head, self.text, self.taken, padded[:, :-1], targets, self.rng, smoothing, season)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
            self._optimiser.step()
            self.step += 1
            # Early on the average must not remember the random start.
            decay = min(self.training.averaging, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, value in self.head.state_dict().items():
                    self._average[name].lerp_(value, 1 - decay)
            total += loss.item()
        return total / steps

    def _padded(self, parts: Sequence[np.ndarray], chosen: np.ndarray) -> Tensor:
        """What stands beside the items of these pieces, or these: int64 (n, length), -1 at padding."""
        length = self.head.config.history_items + 1
        return pad_histories([parts[i] for i in chosen], length).to(self.text.device)

    def _places(self, padded: Tensor, chosen: np.ndarray) -> np.ndarray:
        """Where the targets of these pieces stand: int64 (n, length - 1), -1 for none."""
        n, length = padded.shape
        if not self.training.later:
            return np.broadcast_to(np.arange(1, length), (n, length - 1)).copy()
        known = (padded >= 0).cpu().numpy()
        if self.apart is None:
            return later_places(known, self.rng)
        first = _pad_first([self.apart[i] for i in chosen], length)
        return later_places(known, self.rng, first, near=self.training.near)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The head with its averaged weights; the trained ones come back after."""
        trained = {name: value.clone() for name, value in self.head.state_dict().items()}
        self.head.load_state_dict(self._average)
        try:
            yield
        finally:
            self.head.load_state_dict(trained)
            self.head.train()
