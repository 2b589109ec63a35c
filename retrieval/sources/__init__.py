"""Candidate sources behind one protocol: whatever scores items for users from their histories."""

from retrieval.sources.base import Queries, Scan, Source
from retrieval.sources.dense import ContentSource, DenseSource
from retrieval.sources.item_items import ItemItemSource
from retrieval.sources.lexical import LexicalSource
from retrieval.sources.popular import PopularSource
from retrieval.sources.recent import RecentSource
from retrieval.sources.repeat import RepeatSource

__all__ = [
    "ContentSource",
    "DenseSource",
    "ItemItemSource",
    "LexicalSource",
    "PopularSource",
    "Queries",
    "RecentSource",
    "RepeatSource",
    "Scan",
    "Source",
]
