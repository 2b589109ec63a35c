"""GPT-2 with one score head, and the projections that let vectors and numbers stand beside words.

`gpt2` is the pre-trained model; `gpt2-mini` is the same architecture, smaller, with a WordPiece vocabulary and the word
embeddings of a BERT encoder as initial values (no package registry carries GPT-2's weights).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from rerank.config import RerankConfig

INIT_STD = 0.02  # GPT-2's own initial standard deviation
PRIOR_HEAD = 0.1
"""How small the score head begins where a prior is added to its score: the first order is almost the prior's."""

FEATURE_LIMIT = 1e4
"""Standardised features are cut here: a single value far outside what was trained on would overflow to NaN."""


@dataclass(frozen=True)
class Words:
    """A vocabulary and what its words mean to begin with."""

    tokenizer: PreTrainedTokenizerBase
    embeddings: np.ndarray | None = None
    """float32 (n_words, dim), or None for random initial values."""


def blocks_of(gpt2: GPT2ForSequenceClassification) -> list[GPT2Block]:
    """The transformer blocks, first to last."""
    return [block for block in gpt2.transformer.h if isinstance(block, GPT2Block)]


def frame_id(tokenizer: PreTrainedTokenizerBase | None, name: str) -> int | None:
    """The id of a tokenizer's `cls`, `sep`, `pad` or `unk` token, None if it has none."""
    found = getattr(tokenizer, f"{name}_token_id", None)
    return int(found) if isinstance(found, int) else None


class SoftTokens(nn.Module):
    """Vectors and candidate features as tokens of GPT-2's width.

    The context begins with one learned token, so that a user without history has something to read. Features are
    standardised with the mean and the standard deviation of the training data, which are saved with the weights.
    """

    feature_mean: torch.Tensor
    feature_scale: torch.Tensor

    def __init__(self, vector_dim: int, n_features: int, width: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(width))
        self.context = nn.Linear(vector_dim, width)
        self.candidate = nn.Linear(vector_dim, width)
        self.features = nn.Linear(n_features, width, bias=False) if n_features else None
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_scale", torch.ones(n_features))
        nn.init.normal_(self.start, std=INIT_STD)
        for layer in (self.context, self.candidate, self.features):
            if layer is not None:
                nn.init.normal_(layer.weight, std=2 * INIT_STD)
        nn.init.zeros_(self.context.bias)
        nn.init.zeros_(self.candidate.bias)

    def fit_features(self, mean: np.ndarray, scale: np.ndarray) -> None:
        """Set what features are standardised with: float (n_features,) each; a scale of 0 (a constant) counts as 1."""
        scale = np.where(np.asarray(scale) > 1e-12, scale, 1.0)
        self.feature_mean.copy_(torch.as_tensor(mean, dtype=torch.float32))
        self.feature_scale.copy_(torch.as_tensor(scale, dtype=torch.float32))

    def embed_context(self, vectors: torch.Tensor) -> torch.Tensor:
        """(n, vector_dim) -> (n, width)."""
        return self.context(vectors)

    def embed_candidates(self, vectors: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """(n, vector_dim), (n, n_features) -> (n, width)."""
        rows = self.candidate(vectors)
        if self.features is not None:
            if features is None:
                raise ValueError(f"this reranker needs {self.features.in_features} candidate features, got none")
            standard = (features - self.feature_mean) / self.feature_scale
            rows = rows + self.features(standard.clamp(-FEATURE_LIMIT, FEATURE_LIMIT))
        return rows


def build_model(
    config: RerankConfig, words: Words | None = None
) -> tuple[GPT2ForSequenceClassification, PreTrainedTokenizerBase | None, SoftTokens | None]:
    """A model to train, its tokenizer (None for soft tokens alone) and its soft tokens (None for words alone).

    `config.model` `gpt2-mini` needs `words` as soon as a word budget is set. Random parts follow `config.seed`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.model == "gpt2-mini":
            gpt2, tokenizer = _build_mini(config, words)
        else:
            gpt2, tokenizer = load_classifier(config.model, to_train=True)
        soft = None
        if config.vector_dim:
            soft = SoftTokens(config.vector_dim, config.n_features, gpt2.config.n_embd)
    if config.prior:
        with torch.no_grad():
            gpt2.score.weight.mul_(PRIOR_HEAD)
    return gpt2, tokenizer, soft


def _build_mini(
    config: RerankConfig, words: Words | None
) -> tuple[GPT2ForSequenceClassification, PreTrainedTokenizerBase | None]:
    uses_words = config.candidate_tokens > 0 or config.history_tokens > 0
    if uses_words and words is None:
        raise ValueError(
            "gpt2-mini with word budgets needs a vocabulary: pass words=Words(tokenizer, embeddings) or "
            "words=words_of_encoder(DIRECTORY)"
        )
    tokenizer = words.tokenizer if words is not None and uses_words else None
    embeddings = words.embeddings if words is not None and tokenizer is not None else None
    # An encoder may have more embedding rows than words, for speed; never fewer.
    n_words = max(1, len(tokenizer) if tokenizer is not None else 0, len(embeddings) if embeddings is not None else 0)
    shape = GPT2Config(
        vocab_size=n_words,
        n_positions=config.n_positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        bos_token_id=frame_id(tokenizer, "cls"),
        eos_token_id=frame_id(tokenizer, "sep"),
        pad_token_id=frame_id(tokenizer, "pad") if tokenizer is not None else 0,
    )
    shape.num_labels = 1
    gpt2 = GPT2ForSequenceClassification(shape)
    if embeddings is not None:
        fitted = torch.from_numpy(fit_width(embeddings, config.n_embd))
        with torch.no_grad():
            gpt2.transformer.wte.weight[: len(fitted)] = fitted
    return gpt2, tokenizer


def fit_width(embeddings: np.ndarray, width: int) -> np.ndarray:
    """float32 (n_words, width): the strongest directions of wider embeddings; narrower ones are filled with zeros."""
    embeddings = np.asarray(embeddings, dtype=np.float32)
    dim = embeddings.shape[1]
    if dim == width:
        return embeddings
    if dim < width:
        return np.pad(embeddings, ((0, 0), (0, width - dim)))
    _, directions = np.linalg.eigh(embeddings.T @ embeddings)  # ascending eigenvalues
    return np.ascontiguousarray(embeddings @ directions[:, ::-1][:, :width]).astype(np.float32)


class LoadedEncoder(Protocol):
    """What is used of a loaded `SentenceTransformer`: its tokenizer and, in its first module, its word embeddings."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The encoder's own, whose ids are rows of its word embeddings."""
        ...

    def __getitem__(self, index: int, /) -> nn.Module: ...


def words_of_encoder(encoder: str | Path | LoadedEncoder) -> Words:
    """Tokenizer and word embeddings of a sentence-transformers model: a directory with safetensors weights, or loaded.

    Raises FileNotFoundError if the weights are not there and ValueError if they hold no word embeddings.
    """
    if not isinstance(encoder, (str, Path)):
        words = next((m for name, m in encoder[0].named_modules() if name.endswith("word_embeddings")), None)
        if not isinstance(words, nn.Embedding):
            raise ValueError("the encoder has no module named word_embeddings; is it a BERT?")
        return Words(encoder.tokenizer, words.weight.detach().float().cpu().numpy())
    directory = Path(encoder)
    modules = directory / "modules.json"
    if modules.is_file():
        directory = directory / json.loads(modules.read_text(encoding="utf-8"))[0]["path"]
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: expected the encoder's weights here (.bin weights are refused)")
    with safe_open(str(weights), framework="numpy") as tensors:
        names = [name for name in tensors.keys() if name.endswith("word_embeddings.weight")]  # noqa: SIM118
        if not names:
            raise ValueError(f"{weights}: no tensor named *word_embeddings.weight; is this a BERT encoder?")
        embeddings = tensors.get_tensor(names[0]).astype(np.float32)
    return Words(AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False), embeddings)


def load_classifier(
    source: str | Path, *, to_train: bool = False
) -> tuple[GPT2ForSequenceClassification, PreTrainedTokenizerBase | None]:
    """A GPT-2 classifier with one label from a directory or a hub name, and its tokenizer if it has one.

    Args:
        to_train: a language model such as the hub's `gpt2`, which has no score head yet, gets a random one.

    Raises:
        ValueError: another architecture, more than one label, or weights are missing, which would begin random.
    """
    shape = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
    is_classifier = any("SequenceClassification" in name for name in shape.architectures or ())
    if not is_classifier:
        shape.num_labels = 1
    check_supported(shape, str(source))
    gpt2, found = GPT2ForSequenceClassification.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        str(source), config=shape, use_safetensors=True, output_loading_info=True
    )
    missing = set(found["missing_keys"])
    if to_train and not is_classifier:
        missing.discard("score.weight")
    directory = Path(source)
    if missing:
        place = directory / "model.safetensors" if directory.is_dir() else source
        raise ValueError(
            f"{place}: expected all weights of a classifier, got none for {sorted(missing)}; "
            "save it again, or train one (`train_reranker`) if this is a language model"
        )
    tokenizer = None
    if not directory.is_dir() or (directory / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    return gpt2.float(), tokenizer


def check_supported(config: PreTrainedConfig, source: str) -> None:
    """Raise ValueError for what the shared-context forward does not compute."""
    if config.model_type != "gpt2":
        raise ValueError(f"{source}: expected a GPT-2 model, got {config.model_type!r}")
    if config.num_labels != 1:
        raise ValueError(f"{source}: expected a classifier with one label, got {config.num_labels}")
    if config.add_cross_attention:
        raise ValueError(f"{source}: GPT-2 with cross-attention to another encoder is not a reranker")
