"""SASRec: a causal transformer over item ids (Kang and McAuley 2018), trained with cross-entropy over the catalogue.

The loss is the softmax that Klenitskiy and Vasilev (2023) found stronger than one sampled negative; above
FULL_SOFTMAX_ITEMS items it runs over the batch's targets and a shared uniform sample. It reads no text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.encoder.steps import windows
from retrieval.encoder.text_encoder import resolve_device
from retrieval.yardsticks.base import Scorer, Task, Tuned, sample_validation, validation_ndcg

FULL_SOFTMAX_ITEMS = 6_000
SAMPLED_ITEMS = 2_048
BATCH_POSITIONS = 1_500
SHORT, LONG = 50, 100  # items that are read: SHORT where nine users in ten have no more
# Width and dropout tried in turn; many interactions on a CPU get the first only.
GRID = ((64, 0.2), (64, 0.5), (128, 0.5))
MANY_INTERACTIONS = 200_000
PUBLISHED_SIZE = ((64, 0.5),)
# By name of the data folder. Leave-last-out, trained without each user's last two items and told the second last when
# asked, all items ranked, seen ones masked or not.
PUBLISHED = {
    "amazon_beauty_titles": {
        "ndcg@10": 0.0318,
        "recall@10": 0.0605,
        "source": "Rajput et al. 2023 (TIGER), table 1, from Zhou et al. 2020 (S3-Rec); one sampled negative, so a "
        "softmax should be above it",
    }
}
STOPPING_USERS = 2_000  # validation users that say when to stop; all of them choose among the configurations
_MAX_WINDOWS = 100  # of one history


@dataclass(frozen=True)
class SASRecConfig:
    """Size and training. patience: rounds (passes, or round_positions if less) without a better validation NDCG@10.

    max_seconds: of one training with validation, at the most.
    """

    dim: int = 64
    dropout: float = 0.2
    n_layers: int = 2
    n_heads: int = 2
    history_items: int = SHORT
    learning_rate: float = 1e-3
    max_rounds: int = 100
    round_positions: int = 200_000
    patience: int = 6
    max_seconds: float = 900.0


class SASRec(nn.Module):
    """Item and position embeddings, causal blocks with the norm before them, item embeddings again as the output."""

    def __init__(self, n_items: int, config: SASRecConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(n_items, config.dim)
        self.positions = nn.Embedding(config.history_items, config.dim)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.n_heads, 4 * config.dim, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """States (n, length, dim) after each item of int64 rows (n, length), oldest first, padded at the new end."""
        n_places = rows.shape[1]
        # Positions count from the newest item, as in a window that is filled from the right.
        age = (lengths[:, None] - 1 - torch.arange(n_places, device=rows.device)).clamp_min(0)
        x = self.dropout(self.items(rows) * self.config.dim**0.5 + self.positions(age))
        mask = nn.Transformer.generate_square_subsequent_mask(n_places, device=rows.device)
        return self.norm(self.blocks(x, mask=mask, is_causal=True))


def fit_sasrec(task: Task) -> Tuned:
    """The configuration and the number of rounds that served validation best, trained again on everything."""
    return _fit(task, refit=True)


def fit_sasrec_as_published(task: Task) -> Tuned:
    """The size most papers use, without the last training on everything: for a check against PUBLISHED."""
    return _fit(task, refit=False, grid=PUBLISHED_SIZE)


def _fit(task: Task, *, refit: bool, grid: tuple[tuple[int, float], ...] | None = None) -> Tuned:
    device = resolve_device(task.device)
    lengths = [len(history) for history in task.base if len(history) > 1]
    n_read = SHORT if np.quantile(lengths or [0], 0.9) <= SHORT else LONG
    many = sum(lengths) > MANY_INTERACTIONS and str(device) == "cpu"
    best: tuple[float, int, SASRecConfig, SASRec] | None = None
    for dim, dropout in grid or (GRID[:1] if many else GRID):
        config = SASRecConfig(dim=dim, dropout=dropout, history_items=n_read)
        model, rounds, figure = train_sasrec(task.base, task.n_items, config, seed=task.seed, device=device, task=task)
        if best is None or figure > best[0]:
            best = (figure, rounds, config, model)
    assert best is not None  # noqa: S101 - the grid is never empty
    figure, rounds, config, model = best
    if refit:
        model, _, _ = train_sasrec(task.histories, task.n_items, config, seed=task.seed, device=device, rounds=rounds)
    settings = {"dim": config.dim, "dropout": config.dropout, "history_items": n_read, "rounds": rounds}
    return Tuned(_scorer(model), settings, figure)


def train_sasrec(
    histories: Sequence[np.ndarray],
    n_items: int,
    config: SASRecConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    task: Task | None = None,
    rounds: int | None = None,
) -> tuple[SASRec, int, float]:
    """Train on histories, stopped by the validation of `task`, or for `rounds`.

    Returns:
        The model, its rounds and its NDCG@10 on validation (0 without).

    Raises:
        ValueError: no history has two items; or neither a task nor rounds.
    """
    pieces = windows(histories, config.history_items, _MAX_WINDOWS)
    if not pieces or (task is None and rounds is None):
        raise ValueError("train_sasrec: expected histories of 2 or more items, and a task or rounds")
    outside = torch.get_rng_state()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SASRec(n_items, config).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
    batches = _endless_batches(pieces, rng)
    n_positions = sum(len(piece) - 1 for piece in pieces)
    steps = max(1, min(n_positions, config.round_positions) // BATCH_POSITIONS)
    stop = None if task is None else sample_validation(task, STOPPING_USERS)
    best_figure, best_round, best_state = -1.0, 0, {}
    started = time.monotonic()
    for number in range(1, (rounds or config.max_rounds) + 1):
        model.train()
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            _loss(model, next(batches), rng).backward()
            optimiser.step()
        if stop is None:
            continue
        figure = validation_ndcg(_scorer(model), stop)
        if figure > best_figure:
            best_figure, best_round = figure, number
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        if number - best_round >= config.patience or time.monotonic() - started > config.max_seconds:
            break
    if task is not None:
        model.load_state_dict(best_state)
    torch.set_rng_state(outside)
    return model.eval(), best_round or (rounds or 0), 0.0 if task is None else validation_ndcg(_scorer(model), task)


def _endless_batches(pieces: list[np.ndarray], rng: np.random.Generator):
    """Batches of windows of similar length, BATCH_POSITIONS predicted items each, in a new random order every pass."""
    while True:
        order = rng.permutation(len(pieces))
        sizes = np.array([len(pieces[place]) - 1 for place in order])
        pools = np.split(order, np.flatnonzero(np.diff(np.cumsum(sizes) // (20 * BATCH_POSITIONS))) + 1)
        batches = []
        for pool in pools:
            pool = pool[np.argsort([len(pieces[place]) for place in pool], kind="stable")]
            filled = np.cumsum([len(pieces[place]) - 1 for place in pool]) // BATCH_POSITIONS
            batches += np.split(pool, np.flatnonzero(np.diff(filled)) + 1)
        for place in rng.permutation(len(batches)):
            yield [pieces[piece] for piece in batches[place]]


def _pad(histories: Sequence[np.ndarray], n_read: int) -> tuple[Tensor, Tensor]:
    """The newest n_read rows of each history, padded with 0 at the new end, and their lengths."""
    kept = [history[-n_read:] for history in histories]
    lengths = np.array([len(history) for history in kept], dtype=np.int64)
    rows = np.zeros((len(kept), max(1, int(lengths.max(initial=1)))), dtype=np.int64)
    for place, history in enumerate(kept):
        rows[place, : len(history)] = history
    return torch.from_numpy(rows), torch.from_numpy(lengths)


def _loss(model: SASRec, batch: list[np.ndarray], rng: np.random.Generator) -> Tensor:
    """Cross-entropy of the next item at every place of every window."""
    device = model.items.weight.device
    rows, lengths = _pad([piece[:-1] for piece in batch], model.config.history_items)
    targets, _ = _pad([piece[1:] for piece in batch], model.config.history_items)
    real = torch.arange(rows.shape[1])[None, :] < lengths[:, None]
    states = model(rows.to(device), lengths.to(device))[real.to(device)]  # (n_positions, dim)
    wanted = targets[real].to(device)
    n_items = model.items.num_embeddings
    if n_items <= FULL_SOFTMAX_ITEMS:
        return nn.functional.cross_entropy(states @ model.items.weight.T, wanted)
    sample = torch.from_numpy(rng.choice(n_items, SAMPLED_ITEMS, replace=False)).to(device)
    own = (states * model.items(wanted)).sum(dim=1, keepdim=True)
    others = (states @ model.items(sample).T).masked_fill(sample[None, :] == wanted[:, None], -torch.inf)
    return nn.functional.cross_entropy(torch.cat([own, others], dim=1), torch.zeros_like(wanted))


def _scorer(model: SASRec) -> Scorer:
    """Scores by the state after the newest item; an empty history scores every item -inf."""

    @torch.inference_mode()
    def score(users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        model.eval()
        device = model.items.weight.device
        scores = np.full((len(histories), model.items.num_embeddings), -np.inf, dtype=np.float32)
        order = [user for user in np.argsort([len(h) for h in histories], kind="stable") if len(histories[user])]
        for start in range(0, len(order), 256):
            part = order[start : start + 256]
            rows, lengths = _pad([histories[user] for user in part], model.config.history_items)
            states = model(rows.to(device), lengths.to(device))
            newest = states[torch.arange(len(part)), lengths.to(device) - 1]
            scores[part] = (newest @ model.items.weight.T).float().cpu().numpy()
        return scores

    return score
