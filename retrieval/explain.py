"""Why an item stands in a list: the history items and sources that speak for it, in sentences."""

from __future__ import annotations

import numpy as np

from retrieval.catalogue import Catalogue
from retrieval.sources import (
    UNKNOWN_VISIT,
    ContentSource,
    FreshSource,
    ItemItemSource,
    PopularSource,
    RecentSource,
    Source,
)

# Below this cosine two texts share little that a person would see.
_ALIKE = 0.35
# A weaker link is chance: of two items that very many take, somebody takes both.
_TOGETHER = 1e-3
_POPULAR = 20
_MOSTLY = 0.5


def found_by(bits: int, names: list[str]) -> tuple[str, ...]:
    """The names of the sources whose bit is set, in their order."""
    return tuple(name for bit, name in enumerate(names) if bits >> bit & 1)


def explain_item(
    row: int,
    history: np.ndarray,
    bits: int,
    sources: tuple[Source, ...],
    catalogue: Catalogue,
    *,
    visit: np.ndarray | None = None,
) -> tuple[str, ...]:
    """Sentences for one candidate in the order of the sources, who found it last; never empty.

    Args:
        history: item rows, oldest first. bits: which sources found the item.
        visit: the user's row of `Queries.visits`; None where it is not known.
    """
    sentences = []
    recent = np.unique(history[-50:])
    popular = next((source for source in sources if isinstance(source, PopularSource)), None)
    untaken = np.zeros(catalogue.n_items, dtype=bool) if popular is None else popular.untaken
    visit = UNKNOWN_VISIT if visit is None else visit
    known = bool(np.isfinite(visit[1]))
    for source in sources:
        if isinstance(source, ItemItemSource) and source.name == "neighbours" and len(recent):
            weights = np.asarray(source.learned[recent, row].todense()).ravel()
            if weights.max(initial=0) > _TOGETHER:
                best = recent[int(weights.argmax())]
                # The links of an item that nobody took are borrowed (`retrieval.lending`).
                link = "resembles what goes with" if untaken[row] or untaken[best] else "taken together with"
                sentences.append(f"{link} {_title(catalogue, best)}")
        elif isinstance(source, ContentSource) and len(recent):
            alike = catalogue.text_vectors[recent] @ catalogue.text_vectors[row]
            if alike.max() >= _ALIKE:
                sentences.append(f"reads like {_title(catalogue, recent[int(alike.argmax())])}")
        elif isinstance(source, PopularSource | RecentSource):
            rank, of_late = int((source.scores > source.scores[row]).sum()) + 1, isinstance(source, RecentSource)
            if rank <= _POPULAR or not (of_late or len(recent)):
                sentences.append(f"number {rank} of the most popular items{' of late' if of_late else ''}")
        elif isinstance(source, FreshSource) and known and source.since(visit[1:])[0, row] > _MOSTLY:
            sentences.append("mostly taken since the last visit")
    names = found_by(bits, [source.name for source in sources])
    return (*sentences, f"found by {', '.join(names)}") if names else tuple(sentences) or ("scored on request",)


def _title(catalogue: Catalogue, row: int) -> str:
    return f"“{catalogue.titles[row]}”"
