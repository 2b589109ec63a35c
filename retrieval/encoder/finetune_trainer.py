"""The sentence-transformers trainer as Tandem runs it: checkpoints of safetensors and JSON only, validated by recall.

The hooks overridden here are the ones of transformers 5 and sentence-transformers 6 that would otherwise pickle the
optimiser, the random state and the arguments. A resumed run gives the weights of an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from retrieval.encoder.finetune_config import FinetuneConfig
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.ranks import rank_gains, target_ranks

log = logging.getLogger(__name__)

# Ties in recall are broken by NDCG@10, weighted so low that no number of validation users lets it decide otherwise.
_TIE_WEIGHT = 1e-7
_SCORE_BYTES = 2**28
_STATE, _OPTIMISER, _RANDOM, _SCHEDULE = (
    "trainer_state.json",
    "optimizer.safetensors",
    "random_state.safetensors",
    "scheduler.json",
)


@dataclass(frozen=True)
class ContentValidation:
    """Recall of the bare encoder: the history's text against all item texts, by exact search.

    history_texts, histories (item rows, oldest first), targets (int64 (n_users,)): one entry per user.
    keep_seen: what stands in a history may be right.
    """

    item_texts: Sequence[str]
    history_texts: Sequence[str]
    histories: Sequence[np.ndarray]
    targets: np.ndarray
    keep_seen: bool

    def measure(self, encoder: TextEncoder, *, progress: str | None = None) -> dict[str, float]:
        """`recall@100` and `ndcg@10` over the users, and `figure`, the one number to choose by."""
        items = encoder.encode(self.item_texts, progress=progress)
        users = encoder.encode(self.history_texts)
        step = max(1, _SCORE_BYTES // (4 * len(items)))
        ranks = []
        for start in range(0, len(users), step):
            scores = users[start : start + step] @ items.T
            if not self.keep_seen:
                for user, history in enumerate(self.histories[start : start + step]):
                    scores[user, history] = -np.inf
            ranks.append(target_ranks(scores, self.targets[start : start + step]))
        rank = np.concatenate(ranks)
        recall = float((rank <= 100).mean())
        ndcg = float(rank_gains(rank).mean())
        return {"recall@100": recall, "ndcg@10": ndcg, "figure": recall + _TIE_WEIGHT * ndcg}


class RecallEvaluator(SentenceEvaluator):
    """A ContentValidation as the trainer calls it."""

    def __init__(self, validation: ContentValidation, *, precision: str) -> None:
        super().__init__()
        self.primary_metric = "figure"
        self._validation, self._precision = validation, precision

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """The figures of the model as it is now; a model that gives broken vectors counts as the worst there is."""
        was_training = model.training
        try:
            return self._validation.measure(TextEncoder(model, name="in training", precision=self._precision))
        except ValueError as error:
            log.warning("fine-tuning diverged: %s", error)
            return {"recall@100": 0.0, "ndcg@10": 0.0, "figure": -1.0}
        finally:
            model.train(was_training)


class SafeTrainer(SentenceTransformerTrainer):
    """SentenceTransformerTrainer without a pickle on disk, a model card or a word to any hub."""

    def add_model_card_callback(self, default_args_dict: dict[str, object]) -> None:
        """No model card: a bundle's manifest says what was trained on what."""

    def evaluate(
        self, eval_dataset: object = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Leaves the random state as it was: how often one looks must not change what is learned."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            return super().evaluate(ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        self.model.save(str(output_dir or self.args.output_dir), create_model_card=False, safe_serialization=True)

    def _stepped(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """What moves with every step. The library's types also allow DeepSpeed's stand-ins, which are not used here."""
        return cast(torch.optim.Optimizer, self.optimizer), cast(
            torch.optim.lr_scheduler.LRScheduler, self.lr_scheduler
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:  # of several processes the first one writes
            return
        optimizer, schedule = self._stepped()
        state = optimizer.state_dict()["state"]
        # clone: safetensors refuses tensors that share memory.
        tensors = {
            f"{number}|{name}": torch.as_tensor(value).detach().cpu().clone()
            for number, entry in state.items()
            for name, value in entry.items()
        }
        save_file(tensors, str(Path(output_dir) / _OPTIMISER))
        (Path(output_dir) / _SCHEDULE).write_text(json.dumps(schedule.state_dict()), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer, schedule = self._stepped()
        state: dict[int, dict[str, torch.Tensor]] = {}
        for label, value in load_file(str(Path(checkpoint) / _OPTIMISER)).items():
            number, _, name = label.partition("|")
            state.setdefault(int(number), {})[name] = value
        schedule.load_state_dict(json.loads((Path(checkpoint) / _SCHEDULE).read_text(encoding="utf-8")))
        groups = optimizer.state_dict()["param_groups"]
        for group, rate in zip(groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _save_rng_state(self, output_dir: str) -> None:
        if not self.args.should_save:
            return
        states = {"cpu": torch.get_rng_state()}
        if self.args.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.args.device)
        save_file(states, str(Path(output_dir) / _RANDOM))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        states = load_file(str(Path(checkpoint) / _RANDOM))
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and self.args.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.args.device)

    def _load_best_model(self) -> None:
        # The library's own version only logs when it fails, and would hand on weights nobody chose.
        best = Path(str(self.state.best_model_checkpoint)).name
        self._load_from_checkpoint(str(Path(str(self.args.output_dir)) / best))


class StopEarly(TrainerCallback):
    """Stops when so many evaluations brought nothing better, or when the time is over; then evaluates and saves."""

    def __init__(self, *, patience: int, max_seconds: float | None, evaluate: bool) -> None:
        self._patience, self._max_seconds, self._evaluate = patience, max_seconds, evaluate
        self._started = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """The clock of this process starts; a resumed run has its whole time again, but not its patience: the library
        forgets that a run had ended by it."""
        self._started = time.monotonic()
        control.should_training_stop |= self._has_lost_patience(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Out of time: one last evaluation and checkpoint."""
        if self._max_seconds is not None and time.monotonic() - self._started > self._max_seconds:
            control.should_training_stop = True
            control.should_evaluate, control.should_save = self._evaluate, True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """The figures so far stand in the state, so that a resumed run counts on."""
        control.should_training_stop |= self._has_lost_patience(state)

    def _has_lost_patience(self, state: TrainerState) -> bool:
        figures = [entry["figure"] for entry in evaluations(state)]
        return bool(figures) and len(figures) - 1 - int(np.argmax(figures)) >= self._patience


class ProgressBar(TrainerCallback):
    """One bar over all steps, with the last loss and recall."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: tqdm | None = None
        self._shown: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Opens the bar where the run stands."""
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self._label, unit="step", mininterval=2)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """One step on."""
        if self._bar is not None:
            self._bar.update(1)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Shows the figures just logged."""
        last = state.log_history[-1] if state.log_history else {}
        for key, name in (("loss", "loss"), ("eval_recall@100", "recall@100")):
            if key in last:
                self._shown[name] = f"{last[key]:.4f}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()


def evaluations(state: TrainerState) -> list[dict[str, float]]:
    """Step, recall@100, ndcg@10 and figure of every evaluation, oldest first."""
    names = ("recall@100", "ndcg@10", "figure")
    entries = [entry for entry in state.log_history if "eval_figure" in entry]
    return [{"step": entry["step"], **{name: entry[f"eval_{name}"] for name in names}} for entry in entries]


def last_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint of a run; what a killed run left half-written is removed."""
    whole: list[tuple[int, Path]] = []
    for place in directory.glob("checkpoint-*"):
        try:
            step = int(json.loads((place / _STATE).read_text(encoding="utf-8"))["global_step"])
        except (OSError, ValueError, KeyError):  # the state is written last
            shutil.rmtree(place, ignore_errors=True)
            continue
        whole.append((step, place))
    return max(whole)[1] if whole else None


def training_arguments(
    config: FinetuneConfig, run: Path, *, n_pairs: int, device: torch.device, bfloat16: bool, validated: bool
) -> SentenceTransformerTrainingArguments:
    """The trainer's arguments; a checkpoint is written with every validation (after every epoch without one)."""
    steps_per_epoch = max(1, math.ceil(n_pairs / config.batch_size))
    every = config.evaluate_steps or steps_per_epoch
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return SentenceTransformerTrainingArguments(
        output_dir=str(run),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,
        lr_scheduler_type="linear",
        bf16=bfloat16,
        use_cpu=device.type == "cpu",
        eval_strategy="steps" if validated else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=validated,
        metric_for_best_model="figure" if validated else None,
        greater_is_better=True if validated else None,
        logging_steps=max(1, every // 10),
        disable_tqdm=True,
        report_to="none",
        seed=config.seed,
        dataloader_pin_memory=device.type == "cuda",
    )
