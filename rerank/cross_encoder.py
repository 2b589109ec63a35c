"""The face of sentence-transformers' `CrossEncoder` over the shared-context scorer: change one import and be faster.

For pairs that fit into `max_length` the scores are those of sentence-transformers in float32. Longer pairs are cut
differently on purpose: a query keeps its beginning and at most half of the room, and what a document loses does not
depend on the other documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerBase

from rerank.encode import Encoded
from rerank.model import check_supported, frame_id, load_classifier
from rerank.precision import resolve_device, resolve_dtype
from rerank.prompt import Template, Tokens, candidate_ids
from rerank.scorer import Scorer
from rerank.storage import SOFT

Activation = Callable[[torch.Tensor], torch.Tensor]


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

        activation_fn: applied to the logits; the sigmoid by default, as in sentence-transformers.
        """
        if model_name_or_path is not None:
            if (Path(model_name_or_path) / SOFT).is_file():
                raise ValueError(f"{model_name_or_path}: this reranker reads vectors too; use Reranker.load")
            model, tokenizer = load_classifier(model_name_or_path)
        if model is None or tokenizer is None:
            raise ValueError("expected a model directory with a tokenizer, or both model= and tokenizer=")
        check_supported(model.config, str(model_name_or_path or "model"))
        place = resolve_device(device)
        model = model.eval()
        nn.Module.to(model, place)
        n_positions = int(model.config.n_positions)
        self.max_length = min(max_length or n_positions, n_positions, int(tokenizer.model_max_length))
        self.activation_fn: Activation = activation_fn or torch.sigmoid
        self.template = Template.of_pairs(tokenizer)
        self.tokens = Tokens(tokenizer, tidy=False)
        self.scorer = Scorer(model, None, dtype=resolve_dtype(precision, place))
        self._filler = (frame_id(tokenizer, "unk") or 0,)

    def predict(
        self,
        sentences: Sequence[tuple[str, str] | list[str]] | tuple[str, str],
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
    ) -> np.ndarray:
        """float32 (n_pairs,) in the order given; for one pair (two str) a single number, as sentence-transformers does.

        batch_size and show_progress_bar are accepted and ignored: packing needs neither.
        """
        if len(sentences) == 2 and isinstance(sentences[0], str) and isinstance(sentences[1], str):
            return self.predict([(sentences[0], sentences[1])], activation_fn=activation_fn)[0]
        for row, pair in enumerate(sentences):
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(f"pair {row}: expected (query, document), got {pair!r:.80}")
        by_query: dict[str, list[int]] = {}
        for row, (query, _) in enumerate(sentences):
            by_query.setdefault(query, []).append(row)
        batch = [self._encode(query, [sentences[row][1] for row in rows]) for query, rows in by_query.items()]
        scores = np.zeros(len(sentences), dtype=np.float32)
        for rows, found in zip(by_query.values(), self.scorer.score_many(batch), strict=True):
            scores[rows] = found
        return (activation_fn or self.activation_fn)(torch.from_numpy(scores)).numpy()

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        activation_fn: Activation | None = None,
    ) -> list[dict[str, int | float | str]]:
        """Best first, equal scores in the order given: dicts of `corpus_id`, `score` and, if asked for, `text`."""
        if not len(documents):
            return []
        scores = self.predict([(query, document) for document in documents], activation_fn=activation_fn)
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
