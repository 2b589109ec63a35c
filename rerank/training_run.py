"""One training from its first step to its best weights: steps, validations, early stopping, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rerank.assemble import Embedder
from rerank.blocks import LiveBlock
from rerank.checkpoint import OtherCheckpointError, load_checkpoint, optimizer_state, restore_optimizer, save_checkpoint
from rerank.config import RerankConfig
from rerank.encode import Encoded, Encoder
from rerank.engine import run_candidates, run_context
from rerank.inputs import TrainingList
from rerank.losses import LOSSES
from rerank.metrics import ndcg_at_10
from rerank.model import Words, blocks_of
from rerank.precision import resolve_device, resolve_dtype
from rerank.reranker import Reranker
from rerank.scorer import Scorer, joined_priors
from rerank.training_setup import digest_of, feature_statistics, first_models, freeze_blocks, make_optimizer


@dataclass(frozen=True)
class Validation:
    """One look at the validation lists."""

    step: int
    seconds: float
    train_loss: float
    ndcg_at_10: float


@dataclass(frozen=True)
class TrainingResult:
    """The reranker with the best validated weights, and how training went."""

    reranker: Reranker
    history: tuple[Validation, ...]
    best_step: int
    best_ndcg_at_10: float
    stopped: str
    """`epochs`, `patience` or `max_seconds`."""
    averaged: bool
    lists_per_second: float


Progress = Callable[[str], None]


class TrainingRun:
    """The state of one training."""

    def __init__(
        self,
        lists: Sequence[TrainingList],
        validation: Sequence[TrainingList],
        config: RerankConfig,
        words: Words | None,
        start: Reranker | None,
        device: str,
        max_seconds: float | None,
        say: Progress,
    ) -> None:
        self.lists, self.config, self.max_seconds = lists, config, max_seconds
        self.say: Progress = say
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(config.precision, self.device)
        gpt2, tokenizer, soft, template = first_models(config, words, start)
        self.tokenizer = tokenizer
        self.model = nn.ModuleDict({"gpt2": gpt2, **({"soft": soft} if soft is not None else {})}).to(self.device)
        self.gpt2, self.soft = gpt2, soft
        self.encoder = Encoder(config, tokenizer, n_positions=gpt2.config.n_positions, template=template)
        if soft is not None and config.n_features and start is None:
            soft.fit_features(*feature_statistics(lists, config.n_features))
        entries = [validation[i] for i in range(len(validation))]
        self.validation = [self.encoder.encode(entry.input) for entry in entries]
        self.validation_labels = [entry.labels for entry in entries]
        # Fresh weights follow from the seed and the words; fitted to the width, words may round otherwise elsewhere.
        fresh = start is None and config.model == "gpt2-mini"
        embeddings = words.embeddings if words is not None else None
        given = {} if embeddings is None else {"words": torch.from_numpy(np.asarray(embeddings))}
        self.beginning: Mapping[str, torch.Tensor] = given if fresh else self.model.state_dict()
        freeze_blocks(gpt2, config.freeze)
        self.names = {p: name for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(self.names, config)
        self.steps_per_epoch = -(-len(lists) // config.batch_lists)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.step, self.spent, self.bad = 0, 0.0, 0
        self.best, self.best_step = -1.0, 0
        self.best_state: dict[str, torch.Tensor] = {}
        self.recent: list[dict[str, torch.Tensor]] = []
        self.history: list[Validation] = []
        self.checkpoint: Path | None = None
        self.data = self.stopped = ""

    def fit(self) -> TrainingResult:
        """Run to the end of the epochs, of patience or of the time; a run that had ended gives its result again."""
        self.started = time.perf_counter() - self.spent
        first_step, first_second = self.step, self.spent
        every = max(1, self.steps_per_epoch // self.config.validations_per_epoch)
        losses: list[float] = []
        while not self.stopped:
            losses.append(self._train_step())
            self.spent = time.perf_counter() - self.started
            out_of_time = self.max_seconds is not None and self.spent >= self.max_seconds
            if self.step % every == 0 or self.step == self.total_steps or out_of_time:
                self._validate(float(np.mean(losses)))
                losses = []
                self.stopped = self._reason_to_stop(out_of_time)
                # After the decision, so that a run that had ended is not trained on.
                if self.checkpoint is not None:
                    self._save(self.checkpoint)
        seen = (self.step - first_step) * self.config.batch_lists
        speed = seen / max(self.spent - first_second, 1e-9)
        return self._result(self.stopped, speed)

    def _reason_to_stop(self, out_of_time: bool) -> str:
        """Empty while training goes on."""
        if out_of_time:
            return "max_seconds"
        if self.bad >= self.config.patience:
            return "patience"
        return "epochs" if self.step == self.total_steps else ""

    def _train_step(self) -> float:
        config = self.config
        epoch, within = divmod(self.step, self.steps_per_epoch)
        order = np.random.default_rng((config.seed, epoch)).permutation(len(self.lists))
        chosen = order[within * config.batch_lists : (within + 1) * config.batch_lists]
        entries = [self.lists[int(row)] for row in chosen]
        batch = [self.encoder.encode(entry.input) for entry in entries]
        labels = torch.from_numpy(np.concatenate([entry.labels for entry in entries])).to(self.device)
        if not len(labels):
            self.step += 1
            return 0.0
        # Dropout of step n is the same whether or not the run was interrupted before it.
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        self.model.train()
        scores = self.scores(batch)
        owner = np.repeat(np.arange(len(batch)), [encoded.n_candidates for encoded in batch])
        loss = LOSSES[config.loss](scores, labels, torch.from_numpy(owner).to(self.device))
        if not torch.isfinite(loss):
            raise ValueError(f"step {self.step}: expected a finite loss, got {loss.item()}; lower lr {config.lr}")
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.names, config.clip_norm)
            self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def scores(self, batch: Sequence[Encoded]) -> torch.Tensor:
        """float32 (all candidates of the batch,), differentiable."""
        dropout = self.config.dropout if self.model.training else 0.0
        blocks = [LiveBlock(block, dtype=self.dtype, dropout=dropout) for block in blocks_of(self.gpt2)]
        embedder = Embedder(self.gpt2, self.soft)
        contexts, candidates = embedder.layouts(batch)
        context_rows = F.dropout(embedder.contexts(batch, contexts), dropout)
        rows = F.dropout(embedder.candidates(batch, candidates), dropout)
        states = run_context(blocks, context_rows, contexts)
        last = self.gpt2.transformer.ln_f(run_candidates(blocks, rows, candidates, states))
        found = self.gpt2.score(last).squeeze(-1)
        return found + torch.from_numpy(joined_priors(batch)).to(found.device)

    def _rate(self) -> float:
        """Linear warm-up, then half a cosine to zero, over steps or over the time budget, whichever ends first."""
        done = self.step / self.total_steps
        if self.max_seconds:
            done = max(done, (time.perf_counter() - self.started) / self.max_seconds)
        if done < self.config.warmup:
            return min(1.0, max(done, 1 / self.total_steps) / self.config.warmup)
        share = (done - self.config.warmup) / max(1 - self.config.warmup, 1e-9)
        return 0.5 * (1 + float(np.cos(np.pi * min(share, 1.0))))

    def _validate(self, train_loss: float) -> None:
        found = self._ndcg()
        state = _trained_state(self.model)
        self.history.append(Validation(self.step, round(self.spent, 2), train_loss, found))
        if found > self.best:
            self.best, self.best_step, self.best_state, self.bad = found, self.step, state, 0
        else:
            self.bad += 1
        if self.config.average_last > 1:
            self.recent = [*self.recent, state][-self.config.average_last :]
        self.say(
            f"step {self.step}/{self.total_steps}  {self.spent:.0f} s  loss {train_loss:.4f}  "
            f"NDCG@10 of validation lists {found:.4f}{' *' if self.bad == 0 else ''}"
        )

    def _ndcg(self) -> float:
        self.model.eval()
        scorer = Scorer(self.gpt2, self.soft, dtype=self.dtype)
        return ndcg_at_10(scorer.score_many(self.validation), self.validation_labels)

    def _result(self, stopped: str, speed: float) -> TrainingResult:
        averaged = False
        if len(self.recent) > 1:
            mean = {k: torch.stack([state[k].float() for state in self.recent]).mean(0) for k in self.recent[0]}
            self.model.load_state_dict(mean)
            found = self._ndcg()
            self.say(f"average of the last {len(self.recent)}: NDCG@10 of validation lists {found:.4f}")
            if found >= self.best:
                self.best, self.best_state, averaged = found, mean, True
        if self.best_state:
            self.model.load_state_dict(self.best_state)
        config = replace(
            self.config,
            n_layer=self.gpt2.config.n_layer,
            n_embd=self.gpt2.config.n_embd,
            n_head=self.gpt2.config.n_head,
            n_positions=self.gpt2.config.n_positions,
        )
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        reranker = Reranker(
            self.gpt2,
            self.tokenizer,
            self.soft,
            config,
            template=self.encoder.template,
            device=str(self.device),
            precision=config.precision,
        )
        return TrainingResult(reranker, tuple(self.history), self.best_step, self.best, stopped, averaged, speed)

    def _save(self, directory: Path) -> None:
        tensors = {"model": self.model.state_dict(), "best": self.best_state}
        tensors["optimizer"] = optimizer_state(self.optimizer, self.names)
        tensors.update({f"recent{i}": state for i, state in enumerate(self.recent)})
        facts = {
            "config": self.config.to_dict(),
            "data": self.data,
            "step": self.step,
            "spent": self.spent,
            "bad": self.bad,
            "stopped": self.stopped,
            "best": self.best,
            "best_step": self.best_step,
            "history": [vars(entry) for entry in self.history],
        }
        save_checkpoint(directory, tensors, facts)

    def resume(self, directory: Path) -> None:
        """Take up an earlier run's state if there is one, and save there from now on.

        Raises OtherCheckpointError, a ValueError, if it was another configuration, other data or another start.
        """
        self.checkpoint = directory
        self.data = digest_of(
            self.lists, self.validation, self.validation_labels, encoder=self.encoder, weights=self.beginning
        )
        found = load_checkpoint(directory)
        if found is None:
            return
        tensors, facts = found
        if (facts["config"], facts.get("data")) != (self.config.to_dict(), self.data):
            raise OtherCheckpointError(directory)
        self.model.load_state_dict(tensors["model"])
        restore_optimizer(self.optimizer, tensors["optimizer"], self.names)
        self.best_state = tensors["best"]
        self.recent = [tensors[f"recent{i}"] for i in range(sum(name.startswith("recent") for name in tensors))]
        self.step, self.spent, self.bad = facts["step"], facts["spent"], facts["bad"]
        self.best, self.best_step, self.stopped = facts["best"], facts["best_step"], facts["stopped"]
        self.history = [Validation(**entry) for entry in facts["history"]]
        self.say(f"resumed at step {self.step} from {directory}")


def _trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
