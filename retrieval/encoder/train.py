"""Train a next-item model (the recall head, the history model): every position of every history, stopped by validation.

Frozen text vectors go in, so an epoch costs matrix products only: 8,400 users and 4,400 items take about 4 s on two
cores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from retrieval.encoder.heads import HeadConfig, RecallHead
from retrieval.encoder.seasons import Seasons, Timing
from retrieval.encoder.steps import HeadTrainer, HeadTraining, NextItemModel, pad_histories, windows, windows_of_places
from retrieval.encoder.text_encoder import resolve_device
from retrieval.ranks import rank_gains, target_ranks

Model = TypeVar("Model", bound=NextItemModel)


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """A model and how it came to be: one record per round, and the passes over the data that served validation best."""

    head: Model
    passes: float
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def figure(self) -> float:
        """NDCG@10 + recall@100 of the best round on validation; 0 without validation."""
        return max(
            (record["ndcg@10"] + record["recall@100"] for record in self.curve if "ndcg@10" in record), default=0
        )


TrainedHead = Trained[RecallHead]


@torch.inference_mode()
def embed_items(head: NextItemModel, text_vectors: np.ndarray) -> np.ndarray:
    """Item vectors: float32 (n_items, dim), length 1. Rows beyond the head's own items have no residual: nothing was
    learned of them."""
    head.eval()
    device = next(head.parameters()).device
    out: list[np.ndarray] = []
    for start in range(0, max(1, len(text_vectors)), 16_384):
        text = torch.from_numpy(text_vectors[start : start + 16_384]).to(device)
        rows = torch.arange(start, start + len(text), device=device)
        out.append(head.item_vectors(text, rows).float().cpu().numpy())
    return np.concatenate(out)


@torch.inference_mode()
def embed_users(head: NextItemModel, item_vectors: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
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
        newest = head.states(items[padded.clamp_min(0)], padded < 0)[:, -1]
        out[users] = newest.float().cpu().numpy()
    return out


def _validate(
    head: NextItemModel,
    text: np.ndarray,
    histories: Sequence[np.ndarray],
    targets: np.ndarray,
    keep_seen: bool,
    seasons: Seasons | None,
) -> dict[str, float]:
    """NDCG@10 and recall@100 of the head (beside today's popularity, where there are seasons) on the targets."""
    items = embed_items(head, text)
    now = None if seasons is None else seasons.now / head.log_scale.exp().item()
    ranks = []
    for start in range(0, len(histories), 512):
        part = histories[start : start + 512]
        scores = embed_users(head, items, part) @ items.T
        if now is not None:
            scores += now
        if not keep_seen:
            for user, history in enumerate(part):
                scores[user, history] = -np.inf
        ranks.append(target_ranks(scores, targets[start : start + 512]))
    rank = np.concatenate(ranks)
    return {
        "ndcg@10": float(rank_gains(rank).mean()),
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
    timing: Timing | None = None,
    keep_seen: bool = False,
    device: str = "auto",
    progress: str | None = None,
) -> TrainedHead:
    """A recall head over text_vectors (float32 (n_items, text_dim), length 1); see `train_next_item`."""
    n_items, text_dim = text_vectors.shape
    return train_next_item(
        lambda: RecallHead(config, text_dim=text_dim, n_items=n_items),
        histories,
        text_vectors,
        training=training,
        validation=validation,
        passes=passes,
        timing=timing,
        keep_seen=keep_seen,
        device=device,
        progress=progress,
    )


def train_next_item(
    make: Callable[[], Model],
    histories: Sequence[np.ndarray],
    vectors: np.ndarray,
    *,
    training: HeadTraining,
    validation: tuple[Sequence[np.ndarray], np.ndarray] | None = None,
    passes: float | None = None,
    timing: Timing | None = None,
    keep_seen: bool = False,
    device: str = "auto",
    progress: str | None = None,
) -> Trained[Model]:
    """Train a model on histories (int64 rows, oldest first) of items with these vectors, float32 (n_items, dim).

    Args:
        make: a new model; its random numbers follow the training's seed.
        validation: histories and one target row each; the round with the best recall@100 + NDCG@10 is returned.
        passes: without validation: train exactly so long (a refit, with the passes found before).
        timing: of these histories, where it is known; else any later item is right, and popularity is learned.

    Raises:
        ValueError: no history has two items, so there is nothing to predict; neither validation nor passes; or a loss
            that is not finite.
    """
    if validation is None and passes is None:
        raise ValueError("train_next_item: expected validation or passes, got neither")
    _require_pairs(histories)
    timing = timing or Timing()
    outside = torch.get_rng_state()  # the caller's random numbers go on as if nothing had been drawn
    torch.manual_seed(training.seed)
    place, rng = resolve_device(device), np.random.default_rng(training.seed)
    head = make().to(place)
    trainer = _trainer_of(head, histories, torch.from_numpy(vectors).to(place), training, rng, timing)
    limit = training.max_passes if passes is None else passes
    total, every = max(1, round(limit * trainer.steps_per_pass)), _round_steps(trainer, training)
    started, curve = time.monotonic(), list[dict[str, float]]()
    best = _Best(figure=-1.0, passes=limit, state={})
    with tqdm(total=total, desc=progress or "", unit="step", disable=progress is None, mininterval=2) as bar:
        while trainer.step < total:
            steps = min(every, total - trainer.step)
            record = {"loss": trainer.run(steps), "passes": trainer.step / trainer.steps_per_pass}
            record["seconds"] = time.monotonic() - started
            _require_finite(record, training)
            curve.append(record)
            bar.update(steps)
            if validation is not None:
                with trainer.averaged():
                    record |= _validate(head, vectors, *validation, keep_seen, timing.seasons)
                    best = best.better(record["ndcg@10"] + record["recall@100"], record["passes"], head)
                bar.set_postfix({name: f"{record[name]:.4f}" for name in ("loss", "ndcg@10", "recall@100")})
                late = training.out_of_time(record["seconds"], record["passes"])
                if late or sum(past["passes"] > best.passes for past in curve) >= training.patience:
                    break
    with trainer.averaged():
        best = best if best.state else best.better(0.0, limit, head)
    head.load_state_dict(best.state)
    torch.set_rng_state(outside)
    return Trained(head=head.eval(), passes=best.passes, curve=curve)


def can_learn(histories: Sequence[np.ndarray]) -> bool:
    """Whether any of these histories has a next item to learn from."""
    return any(len(history) >= 2 for history in histories)


def _require_pairs(histories: Sequence[np.ndarray]) -> None:
    if not can_learn(histories):
        raise ValueError(
            "training: no user has 2 or more interactions with items of the table left (of a validation user the "
            "newest is held out); give more interactions"
        )


def _require_finite(record: dict[str, float], training: HeadTraining) -> None:
    if not math.isfinite(record["loss"]):
        raise ValueError(
            f"training: expected a finite loss, got {record['loss']} after {record['passes']:.2f} passes; lower the "
            f"learning_rate {training.learning_rate:g}"
        )


def _round_steps(trainer: HeadTrainer, training: HeadTraining) -> int:
    """Steps until validation."""
    return max(1, min(trainer.steps_per_pass, training.round_positions // training.batch_positions))


def _trainer_of(
    head: NextItemModel,
    histories: Sequence[np.ndarray],
    vectors: Tensor,
    training: HeadTraining,
    rng: np.random.Generator,
    timing: Timing,
) -> HeadTrainer:
    """Over the windows of these histories."""
    length, most = head.config.history_items, training.max_windows
    apart, seasons = timing.apart, timing.seasons
    cut = Timing(
        None if apart is None else windows_of_places(apart, length, most),
        None if seasons is None else replace(seasons, eras=windows(seasons.eras, length, most)),
    )
    return HeadTrainer(head, vectors, windows(histories, length, most), training, rng, cut)


@dataclass(frozen=True)
class _Best:
    """The weights that served validation best so far, and after how many passes."""

    figure: float
    passes: float
    state: dict[str, Tensor]

    def better(self, figure: float, passes: float, head: NextItemModel) -> _Best:
        """This one, or a copy of the model's weights where the figure is higher."""
        if figure <= self.figure:
            return self
        return _Best(figure, passes, {name: value.clone() for name, value in head.state_dict().items()})
