"""People and items: the two-stage recommender that puts `indexes` and `rerank` together."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.recommend import Recommender
    from retrieval.results import Recommendation, RecommendationList

__all__ = ["Recommendation", "RecommendationList", "Recommender"]


def __getattr__(name: str) -> object:
    """The public names, imported when asked for: the command's help must not wait for torch."""
    if name == "Recommender":
        from retrieval.recommend import Recommender

        return Recommender
    if name in ("Recommendation", "RecommendationList"):
        from retrieval import results

        return getattr(results, name)
    raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
