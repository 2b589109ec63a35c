"""A GPT-2 cross-encoder that reads a context once for all its candidates: sentences and arrays in, scores out."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rerank.config import HistoryModelConfig, RerankConfig
    from rerank.cross_encoder import CrossEncoder
    from rerank.history_model import HistoryModel
    from rerank.inputs import RerankInput, TrainingList
    from rerank.model import Words, words_of_encoder
    from rerank.reranker import Reranker
    from rerank.train import TrainingResult, Validation, train_reranker

_HOMES = {
    "CrossEncoder": "rerank.cross_encoder",
    "HistoryModel": "rerank.history_model",
    "HistoryModelConfig": "rerank.config",
    "RerankConfig": "rerank.config",
    "RerankInput": "rerank.inputs",
    "Reranker": "rerank.reranker",
    "TrainingList": "rerank.inputs",
    "TrainingResult": "rerank.train",
    "Validation": "rerank.train",
    "Words": "rerank.model",
    "train_reranker": "rerank.train",
    "words_of_encoder": "rerank.model",
}
__all__ = [
    "CrossEncoder",
    "HistoryModel",
    "HistoryModelConfig",
    "RerankConfig",
    "RerankInput",
    "Reranker",
    "TrainingList",
    "TrainingResult",
    "Validation",
    "Words",
    "train_reranker",
    "words_of_encoder",
]


def __getattr__(name: str) -> object:
    """The public names, imported when asked for: whoever wants a configuration must not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rerank' has no attribute {name!r}")
