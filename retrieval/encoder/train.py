"""Train the recall head: next-item prediction at every position of every history, softmax over the catalogue.

Frozen text vectors go in, so an epoch costs matrix products only: 8,400 users and 4,400 items take about 4 s on two
cores. Above FULL_SOFTMAX_ITEMS the softmax runs over the batch's targets and a uniform sample, corrected for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
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

    patience: epochs without a better validation figure before training stops.
    """

    epochs: int = 12
    batch_users: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    label_smoothing: float = 0.0
    max_windows: int = 20
    patience: int = 3
    seed: int = 0
    max_seconds: float | None = None


@dataclass(frozen=True)
class TrainedHead:
    """A head and how it came to be: one record per epoch, and the number of epochs that served validation best."""

    head: RecallHead
    epochs: int
    curve: list[dict[str, float]] = field(default_factory=list)


def windows(histories: Sequence[np.ndarray], length: int, max_windows: int) -> list[np.ndarray]:
    """Histories cut into pieces of at most length + 1 items, newest first; neighbours overlap by one, so that
    every item but a user's first is predicted exactly once."""
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
    """int64 (n, longest): the newest `length` rows of every history at the right, -1 at the left where there is none."""
    longest = max(1, min(length, max((len(history) for history in histories), default=1)))
    padded = np.full((len(histories), longest), -1, dtype=np.int64)
    for row, history in enumerate(histories):
        newest = history[-longest:]
        if len(newest):
            padded[row, -len(newest) :] = newest
    return torch.from_numpy(padded)


def _batches(lengths: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled batches of windows of similar length (padding stays small)."""
    order = np.argsort(lengths + 2 * rng.random(len(lengths)), kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(batches)
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
    keep_seen: bool = False,
    device: str = "auto",
    progress: str | None = None,
) -> TrainedHead:
    """Train a head on histories (int64 rows, oldest first) over text_vectors (float32 (n_items, text_dim), length 1).

    Args:
        validation: histories and one target row each; training stops early on recall@100 + NDCG@10 and the best epoch's
            weights are returned. None trains all `training.epochs` (a refit, with the epochs found before).

    Raises:
        ValueError: no history has two items, so there is nothing to predict.
    """
    pieces = windows(histories, config.history_items, training.max_windows)
    if not pieces:
        raise ValueError("train_head: no history has 2 or more items; give more interactions")
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    place = resolve_device(device)
    head = RecallHead(config, text_dim=text_vectors.shape[1], n_items=len(text_vectors)).to(place)
    text = torch.from_numpy(text_vectors).to(place)
    lengths = np.array([len(piece) for piece in pieces])
    steps = training.epochs * math.ceil(len(pieces) / training.batch_users)
    optimiser = torch.optim.AdamW(head.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, steps, training.warmup))
    curve: list[dict[str, float]] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    started = time.monotonic()
    bar = tqdm(total=steps, desc=progress or "", unit="step", disable=progress is None, mininterval=2)
    for epoch in range(1, training.epochs + 1):
        head.train()
        total = 0.0
        batches = _batches(lengths, training.batch_users, rng)
        for batch in batches:
            padded = pad_histories([pieces[i] for i in batch], config.history_items + 1).to(place)
            with torch.autocast(place.type, torch.bfloat16, enabled=has_fast_bfloat16(place)):
                loss = _loss(head, text, padded, rng, training.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
            bar.update()
        record = {"epoch": epoch, "loss": total / len(batches), "seconds": time.monotonic() - started}
        if validation is not None:
            record |= _validate(head, text_vectors, *validation, keep_seen)
            figure = record["ndcg@10"] + record["recall@100"]
            if best is None or figure > best[0]:
                best = (
                    figure,
                    epoch,
                    {name: value.detach().clone() for name, value in head.state_dict().items()},
                )
        curve.append(record)
        bar.set_postfix({name: f"{value:.4f}" for name, value in record.items() if name not in ("epoch", "seconds")})
        late = training.max_seconds is not None and record["seconds"] > training.max_seconds
        if late or (best is not None and epoch - best[1] >= training.patience):
            break
    bar.close()
    if best is not None:
        head.load_state_dict(best[2])
    return TrainedHead(head=head.eval(), epochs=best[1] if best else len(curve), curve=curve)


def _warm_cosine(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to a twentieth."""
    if step < warmup * steps:
        return (step + 1) / (warmup * steps + 1)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
