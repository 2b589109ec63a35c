"""Train the recall head: next-item prediction at every position of every history, softmax over the catalogue.

Frozen text vectors go in, so an epoch costs matrix products only: 8,400 users and 4,400 items take about 4 s on two
cores. Above FULL_SOFTMAX_ITEMS the softmax runs over the batch's targets and a uniform sample, corrected for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from retrieval.encoder.heads import HeadConfig, RecallHead
from retrieval.encoder.text_encoder import has_fast_bfloat16, resolve_device
from retrieval.ranks import target_ranks

FULL_SOFTMAX_ITEMS = 20_000
_SAMPLED_ITEMS = 8_192


@dataclass(frozen=True)
class HeadTraining:
    """How the head is trained.

    max_passes: passes over the data at the most. round_positions: validation comes after so many predicted positions
    (after a whole pass, where that is less). patience: rounds without a better validation figure before it stops.
    averaging: the weights that count are a moving average with this decay per step (Polyak and Juditsky 1992), so that
    a good moment to stop needs no learning-rate schedule of its own.
    """

    max_passes: float = 20.0
    round_positions: int = 60_000
    patience: int = 3
    batch_positions: int = 1_500
    learning_rate: float = 1e-3
    weight_decay: float = 0.2
    warmup_steps: int = 50
    averaging: float = 0.99
    label_smoothing: float = 0.1
    max_windows: int = 20
    seed: int = 0
    max_seconds: float | None = None


@dataclass(frozen=True)
class TrainedHead:
    """A head and how it came to be: one record per round, and the passes over the data that served validation best."""

    head: RecallHead
    passes: float
    curve: list[dict[str, float]] = field(default_factory=list)


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


def _loss(head: RecallHead, text: Tensor, padded: Tensor, rng: np.random.Generator, smoothing: float) -> Tensor:
    """Cross-entropy of the next item at every position; (Bengio and Senecal 2008) correction when it is sampled."""
    inputs, targets = padded[:, :-1], padded[:, 1:]
    known = (inputs >= 0) & (targets >= 0)
    wanted = targets[known]
    n_items = len(text)
    rows = torch.arange(n_items, device=text.device)
    vectors = head.item_vectors(text, rows) if n_items <= FULL_SOFTMAX_ITEMS else None
    if vectors is not None:
        users = head.states(vectors[inputs.clamp_min(0)], inputs < 0)[known]
        logits = (users @ vectors.T).float() * head.log_scale.exp()
        return torch.nn.functional.cross_entropy(logits, wanted, label_smoothing=smoothing)
    sample = torch.from_numpy(rng.choice(n_items, _SAMPLED_ITEMS, replace=False)).to(text.device)
    used, place = torch.unique(torch.cat([inputs[inputs >= 0], wanted]), return_inverse=True)
    in_vectors = head.item_vectors(text[used], used)
    lookup = torch.zeros_like(inputs)
    lookup[inputs >= 0] = place[: int((inputs >= 0).sum())]
    users = head.states(in_vectors[lookup], inputs < 0)[known]
    classes, wanted_place = torch.unique(wanted, return_inverse=True)
    others = sample[~torch.isin(sample, classes)]
    class_vectors = head.item_vectors(text[torch.cat([classes, others])], torch.cat([classes, others]))
    logits = (users @ class_vectors.T).float() * head.log_scale.exp()
    # A sampled item stands for n_items / n_sampled items; the targets are always there and stand for themselves.
    logits[:, len(classes) :] += math.log(n_items / _SAMPLED_ITEMS)
    return torch.nn.functional.cross_entropy(logits, wanted_place, label_smoothing=smoothing)


@torch.inference_mode()
def embed_items(head: RecallHead, text_vectors: np.ndarray, *, n_trained: int | None = None) -> np.ndarray:
    """Item vectors: float32 (n_items, dim), length 1. Rows from n_trained on have no residual (new items)."""
    head.eval()
    device = next(head.parameters()).device
    n_trained = head.residual.num_embeddings if n_trained is None else n_trained
    out = []
    for start in range(0, len(text_vectors), 16_384):
        text = torch.from_numpy(text_vectors[start : start + 16_384]).to(device)
        rows = torch.arange(start, start + len(text), device=device)
        out.append(head.item_vectors(text, torch.where(rows < n_trained, rows, -1)).float().cpu().numpy())
    return np.concatenate(out) if out else np.empty((0, head.config.dim), dtype=np.float32)


@torch.inference_mode()
def embed_users(head: RecallHead, item_vectors: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
    """User vectors: float32 (n_users, dim), length 1; all zero for an empty history.

    Users are run in an order of similar length but each vector depends on its own history only (to float32 rounding).
    """
    head.eval()
    device = next(head.parameters()).device
    items = torch.from_numpy(item_vectors).to(device)
    out = np.zeros((len(histories), item_vectors.shape[1]), dtype=np.float32)
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    order = [int(user) for user in np.argsort(lengths, kind="stable") if lengths[user]]
    for start in range(0, len(order), 256):
        users = order[start : start + 256]
        padded = pad_histories([histories[user] for user in users], head.config.history_items).to(device)
        vectors = head.user_vectors(items[padded.clamp_min(0)], padded < 0)
        out[users] = vectors.float().cpu().numpy()
    return out


def _validate(
    head: RecallHead, text: np.ndarray, histories: Sequence[np.ndarray], targets: np.ndarray, keep_seen: bool
) -> dict[str, float]:
    """NDCG@10 and recall@100 of the head alone on the validation targets."""
    items = embed_items(head, text)
    ranks = []
    for start in range(0, len(histories), 512):
        part = histories[start : start + 512]
        scores = embed_users(head, items, part) @ items.T
        if not keep_seen:
            for user, history in enumerate(part):
                scores[user, history] = -np.inf
        ranks.append(target_ranks(scores, targets[start : start + 512]))
    rank = np.concatenate(ranks)
    return {
        "ndcg@10": float(np.where(rank <= 10, 1 / np.log2(1 + rank), 0).mean()),
        "recall@100": float((rank <= 100).mean()),
    }


def train_head(
    histories: Sequence[np.ndarray],
    text_vectors: np.ndarray,
    *,
    config: HeadConfig,
    training: HeadTraining,
    validation: tuple[Sequence[np.ndarray], np.ndarray] | None = None,
    passes: float | None = None,
    keep_seen: bool = False,
    device: str = "auto",
    progress: str | None = None,
) -> TrainedHead:
    """Train a head on histories (int64 rows, oldest first) over text_vectors (float32 (n_items, text_dim), length 1).

    Args:
        validation: histories and one target row each; training stops early on recall@100 + NDCG@10 and the best round's
            weights are returned.
        passes: without validation: train exactly so long (a refit, with the passes found before).

    Raises:
        ValueError: no history has two items, so there is nothing to predict; or neither validation nor passes.
    """
    if validation is None and passes is None:
        raise ValueError("train_head: expected validation or passes, got neither")
    pieces = windows(histories, config.history_items, training.max_windows)
    if not pieces:
        raise ValueError("train_head: no history has 2 or more items; give more interactions")
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    place = resolve_device(device)
    head = RecallHead(config, text_dim=text_vectors.shape[1], n_items=len(text_vectors)).to(place)
    trainer = _Trainer(head, torch.from_numpy(text_vectors).to(place), pieces, training, rng)
    limit = training.max_passes if passes is None else passes
    total = max(1, round(limit * trainer.steps_per_pass))
    every = max(1, min(trainer.steps_per_pass, training.round_positions // training.batch_positions))
    curve: list[dict[str, float]] = []
    best: tuple[float, float, dict[str, Tensor]] | None = None
    started = time.monotonic()
    with tqdm(total=total, desc=progress or "", unit="step", disable=progress is None, mininterval=2) as bar:
        while trainer.step < total:
            steps = min(every, total - trainer.step)
            loss = trainer.run(steps)
            bar.update(steps)
            seconds = time.monotonic() - started
            record = {"passes": trainer.step / trainer.steps_per_pass, "loss": loss, "seconds": seconds}
            curve.append(record)
            if validation is not None:
                with trainer.averaged():
                    record |= _validate(head, text_vectors, *validation, keep_seen)
                    figure = record["ndcg@10"] + record["recall@100"]
                    if best is None or figure > best[0]:
                        best = (figure, record["passes"], {k: v.clone() for k, v in head.state_dict().items()})
                bar.set_postfix({name: f"{record[name]:.4f}" for name in ("loss", "ndcg@10", "recall@100")})
                since_best = sum(1 for past in curve if best is not None and past["passes"] > best[1])
                late = training.max_seconds is not None and seconds > training.max_seconds
                if late or since_best >= training.patience:
                    break
    if best is None:
        with trainer.averaged():
            best = (0.0, limit, {k: v.clone() for k, v in head.state_dict().items()})
    head.load_state_dict(best[2])
    return TrainedHead(head=head.eval(), passes=best[1], curve=curve)


class _Trainer:
    """The head, its optimiser and its averaged weights, moved on by a number of steps at a time."""

    def __init__(
        self,
        head: RecallHead,
        text: Tensor,
        pieces: list[np.ndarray],
        training: HeadTraining,
        rng: np.random.Generator,
    ) -> None:
        self.head, self.text, self.pieces, self.training, self.rng = head, text, pieces, training, rng
        self.lengths = np.array([len(piece) for piece in pieces])
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
            batch = [self.pieces[i] for i in self._queue.pop()]
            padded = pad_histories(batch, self.head.config.history_items + 1).to(place)
            for group in self._optimiser.param_groups:
                group["lr"] = self.training.learning_rate * min(1.0, (self.step + 1) / self.training.warmup_steps)
            with torch.autocast(place.type, torch.bfloat16, enabled=has_fast_bfloat16(place)):
                loss = _loss(self.head, self.text, padded, self.rng, self.training.label_smoothing)
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
