"""A GPT-2 cross-encoder that reads a context once for all its candidates: sentences and arrays in, scores out."""

from rerank.config import RerankConfig
from rerank.cross_encoder import CrossEncoder
from rerank.history_model import HistoryModel, HistoryModelConfig
from rerank.inputs import RerankInput, TrainingList
from rerank.model import Words, words_of_encoder
from rerank.reranker import Reranker
from rerank.train import TrainingResult, Validation, train_reranker

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
