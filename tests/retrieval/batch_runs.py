"""What the tests of batch scoring share: users, a run in small parts, and a recommender that can be stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from retrieval.batch import BatchOptions, UserStream, run_batch
from retrieval.recommend import Recommender
from tests import world

COLUMNS = ["user_id", "segment", "rank", "item_id", "score"]
K = 4


@dataclasses.dataclass(frozen=True)
class Watched(Recommender):
    """The real recommender; `before` is called before every batch of users, and may raise."""

    before: Callable[[], None] = lambda: None

    def recommend_many(self, user_ids=None, **options) -> pd.DataFrame:
        """Tells, then does what the recommender does."""
        self.before()
        return super().recommend_many(user_ids, **options)


def watched(recommender: Recommender, before: Callable[[], None]) -> Watched:
    fields = {entry.name: getattr(recommender, entry.name) for entry in dataclasses.fields(Recommender)}
    return Watched(**fields, before=before)


def some_users() -> pd.DataFrame:
    """Forty users of the world and a stranger, in two segments."""
    ids = [world.user_id(topic, number) for topic in world.TOPICS for number in range(10)]
    return pd.DataFrame({"user_id": [*ids, "stranger"], "segment": ["gold", "new"] * 20 + ["new"]})


def score(recommender, users, out, *, restart=False, stream=None, **options):
    """One run in parts of eight users."""
    chosen = BatchOptions(**{"k": K, "chunk_users": 8, **options})
    source = UserStream(users, chunk_users=chosen.chunk_users, segment=chosen.segment, **(stream or {}))
    return run_batch(recommender, source, out, chosen, restart=restart)


def bytes_of(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if file.name != "_SUCCESS"}


def one_by_one(recommender, users) -> pd.DataFrame:
    rows = []
    for user, segment in zip(users["user_id"], users["segment"], strict=True):
        for item in recommender.recommend(user, k=K):
            rows.append((user, segment, item.rank, item.item_id, np.float32(item.score)))
    return pd.DataFrame(rows, columns=COLUMNS)
