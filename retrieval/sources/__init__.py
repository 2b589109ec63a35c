"""Candidate sources behind one protocol: whatever scores items for users from their histories."""

from retrieval.sources.base import UNKNOWN_VISIT, Queries, Scan, Source, visits_of
from retrieval.sources.dense import ContentSource, DenseSource, HeadSource
from retrieval.sources.fresh import FreshSource
from retrieval.sources.item_items import ItemItemSource
from retrieval.sources.lexical import LexicalSource
from retrieval.sources.popular import PopularSource
from retrieval.sources.recent import RecentSource
from retrieval.sources.repeat import RepeatSource

__all__ = [
    "UNKNOWN_VISIT",
    "ContentSource",
    "DenseSource",
    "FreshSource",
    "HeadSource",
    "ItemItemSource",
    "LexicalSource",
    "PopularSource",
    "Queries",
    "RecentSource",
    "RepeatSource",
    "Scan",
    "Source",
    "visits_of",
]
