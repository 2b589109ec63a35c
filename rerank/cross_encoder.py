"""The face of sentence-transformers' `CrossEncoder` over the shared-context scorer: change one import and be faster.

For pairs that fit into `max_length` the scores are those of sentence-transformers in float32. Longer pairs are cut
differently on purpose: a query keeps its beginning and at most half of the room, and what a document loses does not
depend on the other documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from torch import nn
from transformers import GPT2ForSequenceClassification, PreTrainedConfig, PreTrainedTokenizerBase

from rerank.encode import Encoded
from rerank.files import read_json
from rerank.model import check_supported, frame_id, load_classifier
from rerank.precision import resolve_device, resolve_dtype
from rerank.prompt import Template, Tokens, candidate_ids
from rerank.scorer import Scorer
from rerank.storage import SOFT

Activation = Callable[[torch.Tensor], torch.Tensor]
ACTIVATIONS: dict[str, Activation] = {"Sigmoid": torch.sigmoid, "Identity": nn.Identity()}


class CrossEncoder:
    """`predict(pairs)` and `rank(query, documents)` for any GPT-2 classifier with one label.

    Pairs that share their first text share its computation, wherever they stand among the others.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        model: GPT2ForSequenceClassification | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        device: str = "auto",
        precision: str = "float32",
    ) -> None:
        """Load a directory or hub name, or take a `model` and its `tokenizer` as they are.

        activation_fn: applied to the logits; by default what sentence-transformers saved with the model (the sigmoid or
            none), else the sigmoid.

        Raises:
            ValueError: another saved activation, a max_length below 1, or no GPT-2 classifier with one label.
        """
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length: expected at least 1, got {max_length!r}")
        if model_name_or_path is not None:
            if (Path(model_name_or_path) / SOFT).is_file():
                raise ValueError(f"{model_name_or_path}: this reranker reads vectors too; use Reranker.load")
            if any((Path(model_name_or_path) / name).is_file() for name in ("CURRENT", "manifest.json")):
                raise ValueError(
                    f"{model_name_or_path}: expected a model, this is a bundle; its reranker is asked by "
                    "Recommender.rerank"
                )
            model, tokenizer = load_classifier(model_name_or_path)
        if model is None or tokenizer is None:
            raise ValueError("expected a model directory with a tokenizer, or both model= and tokenizer=")
        check_supported(model.config, str(model_name_or_path or "model"))
        place = resolve_device(device)
        model = model.eval()
        nn.Module.to(model, place)
        n_positions = int(model.config.n_positions)
        self.max_length = min(max_length or n_positions, n_positions, int(tokenizer.model_max_length))
        self.activation_fn: Activation = activation_fn or saved_activation(model.config, model_name_or_path)
        self.template = Template.of_pairs(tokenizer)
        self.tokens = Tokens(tokenizer, tidy=False)
        self.scorer = Scorer(model, None, dtype=resolve_dtype(precision, place))
        self._filler = (frame_id(tokenizer, "unk") or 0,)

    @overload
    def predict(
        self,
        sentences: Sequence[tuple[str, str] | list[str]] | tuple[str, str],
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        *,
        apply_softmax: bool | None = False,
        convert_to_numpy: Literal[True] = True,
        convert_to_tensor: Literal[False] = False,
    ) -> np.ndarray: ...

    @overload
    def predict(
        self,
        sentences: Sequence[tuple[str, str] | list[str]] | tuple[str, str],
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        *,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]: ...

    def predict(
        self,
        sentences: Sequence[tuple[str, str] | list[str]] | tuple[str, str],
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        *,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
        """float32 (n_pairs,) in the order given; for one pair (two str) a single number, as sentence-transformers does.

        A tensor if `convert_to_tensor`, a list of tensors if not `convert_to_numpy`. batch_size, show_progress_bar and
        apply_softmax are accepted and ignored: packing needs no batches, one label no softmax.

        Raises:
            ValueError: a pair is not two str; its place is named.
        """
        if len(sentences) == 2 and isinstance(sentences[0], str) and isinstance(sentences[1], str):
            pair = [(sentences[0], sentences[1])]
            return self.predict(
                pair,
                activation_fn=activation_fn,
                convert_to_numpy=convert_to_numpy,
                convert_to_tensor=convert_to_tensor,
            )[0]
        scores = (activation_fn or self.activation_fn)(torch.from_numpy(self._logits(sentences)))
        if convert_to_tensor:
            return scores
        return scores.numpy() if convert_to_numpy else list(scores)

    def _logits(self, pairs: Sequence[tuple[str, str] | list[str] | str]) -> np.ndarray:
        """float32 (n_pairs,), in the order given."""
        by_query: dict[str, list[int]] = {}
        for row, pair in enumerate(pairs):
            if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise ValueError(f"pair {row}: expected (query, document), two str, got {pair!r:.80}")
            by_query.setdefault(pair[0], []).append(row)
        batch = [self._encode(query, [pairs[row][1] for row in rows]) for query, rows in by_query.items()]
        scores = np.zeros(len(pairs), dtype=np.float32)
        for rows, found in zip(by_query.values(), self.scorer.score_many(batch), strict=True):
            scores[rows] = found
        return scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        activation_fn: Activation | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> list[dict[str, int | float | str]]:
        """Best first, equal scores in the order given: dicts of `corpus_id`, `score` and, if asked for, `text`.

        batch_size and show_progress_bar are accepted and ignored.
        """
        if not len(documents):
            return []
        logits = self._logits([(query, document) for document in documents])
        scores = (activation_fn or self.activation_fn)(torch.from_numpy(logits)).numpy()
        order = np.argsort(-scores, kind="stable")[:top_k]
        ranked: list[dict[str, int | float | str]] = []
        for row in order:
            entry: dict[str, int | float | str] = {"corpus_id": int(row), "score": float(scores[row])}
            if return_documents:
                entry["text"] = documents[int(row)]
            ranked.append(entry)
        return ranked

    def _encode(self, query: str, documents: Sequence[str]) -> Encoded:
        template = self.template
        frame = len(template.opening) + len(template.closing)
        words = self.tokens.ids([query])[0]
        found = self.tokens.ids(documents)
        room = max(self.max_length - frame, 1)
        longest = room - room // 2
        ids = np.concatenate([template.opening, words[:longest], template.closing]).astype(np.int64)
        return Encoded(
            context_vectors=None,
            context_ids=ids,
            candidate_vectors=None,
            candidate_features=None,
            candidate_ids=[
                candidate_ids(document, template, budget=self.max_length - len(ids), filler=self._filler)
                for document in found
            ],
            n_candidates=len(documents),
        )


def saved_activation(config: PreTrainedConfig, source: str | Path | None) -> Activation:
    """The activation sentence-transformers saved with a model: the sigmoid if it says nothing.

    Raises ValueError for another one than the sigmoid and the identity: its name is code of whoever wrote the file.
    """
    own = getattr(config, "sentence_transformers", None) or {}
    name = own.get("activation_fn") or getattr(config, "sbert_ce_default_activation_function", None)
    file = Path(source) / "config_sentence_transformers.json" if source is not None else None
    if file is not None and file.is_file():
        name = read_json(file).get("activation_fn") or name
    kind = "Sigmoid" if name is None else str(name).rpartition(".")[2]
    if kind not in ACTIVATIONS:
        raise ValueError(f"{source}: expected an activation of {sorted(ACTIVATIONS)}, got {name!r}; give activation_fn")
    return ACTIVATIONS[kind]
