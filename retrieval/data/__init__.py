"""Data in: files become checked tables, outside ids become rows, and tables become training and test parts."""

from retrieval.data.ids import IdMap, canonical_id
from retrieval.data.report import ReadReport
from retrieval.data.sources import read_interactions, read_items, read_users
from retrieval.data.split import (
    ColdItems,
    Split,
    Targets,
    cold_items,
    leave_last_out,
    moment_at,
    repeat_share,
    require_split,
    time_split,
)
from retrieval.data.tables import Impressions, Interactions, Items, Users

__all__ = [
    "ColdItems",
    "IdMap",
    "Impressions",
    "Interactions",
    "Items",
    "ReadReport",
    "Split",
    "Targets",
    "Users",
    "canonical_id",
    "cold_items",
    "leave_last_out",
    "moment_at",
    "read_interactions",
    "read_items",
    "read_users",
    "repeat_share",
    "require_split",
    "time_split",
]
