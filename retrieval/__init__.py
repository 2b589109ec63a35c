"""People and items: the two-stage recommender that puts `indexes` and `rerank` together."""
