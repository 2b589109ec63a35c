"""The size of the recall head, and how it is trained: every choice, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass

HALF_DROPPED = 50


@dataclass(frozen=True)
class HeadConfig:
    """The size and the regularisation of the head.

    dim: length of item and user vectors. history_items: the newest so many items are read.
    The size is validation's choice: beside 256 numbers and two layers a pass takes a fifth of the time, and recall@100
        is .340 (.329) on Amazon Scientific and, after 100 s of one core, .572 (.543) on Online Retail II.
        Two heads of other seeds side by side are not worth twice the vectors: on Amazon Scientific without its newest
        items the candidates hold .380 (.373) of the targets, but NDCG@10 of the fusion is .1115 (.1120, +- .0006).
    residual_dropout: share of items without interactions whose residual is dropped in a training step; it is half of
        that for an item with HALF_DROPPED interactions, a third with twice as many, and so on.
    """

    dim: int = 128
    n_layers: int = 1
    n_heads: int = 4
    history_items: int = 50
    dropout: float = 0.1
    residual_dropout: float = 0.5
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.dim % self.n_heads:
            raise ValueError(f"dim: expected a multiple of n_heads={self.n_heads}, got {self.dim}")


@dataclass(frozen=True)
class HeadTraining:
    """How the head, or the history model, is trained.

    max_passes: passes over the data at the most. round_positions: validation comes after so many predicted positions
    (after a whole pass, where that is less). patience: rounds without a better validation figure before it stops.
    averaging: the weights that count are a moving average with this decay per step (Polyak and Juditsky 1992), so that
    a good moment to stop needs no learning-rate schedule of its own. max_seconds ends training, but not before
    min_passes: on a machine that is busy with other things a head would learn next to nothing.
    later: at every place any later item of the window, at random, is right, instead of the next one (the dense
    all-action loss of Pancha et al. 2022): for what users take in the long run. On Online Retail II, a tenth of the
    training time held out, a head has NDCG@10 .215 and recall@100 .301 with it, .164 and .275 without.
    near: of items of a later visit, where there is one (see `retrieval.histories.first_apart`); a place after which
    there is none counts so often. What goes on within a visit says little of what people come back for: on MovieLens-1M
    a head has NDCG@10 .148 and recall@100 .350 with it, .100 and .260 with any later item.
    """

    max_passes: float = 20.0
    round_positions: int = 200_000
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
    min_passes: float = 0.0
    later: bool = False
    near: float = 0.1

    def out_of_time(self, seconds: float, passes: float) -> bool:
        """Whether training ends for want of time."""
        return self.max_seconds is not None and seconds > self.max_seconds and passes >= self.min_passes
