"""The items as the models see them: texts, text vectors, and the index of these vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from indexes import Index, build_index
from retrieval.data import Items
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.marks import marks_of
from retrieval.sources.base import Queries
from retrieval.text import TextConfig, history_text, item_texts, template_fields

_EMPTY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Catalogue:
    """Items with their texts.

    texts: the full text per item (what is embedded and searched). titles: the short text (how it stands in a history).
    text_vectors: float32 (n_items, text_dim), rows of length 1, by the frozen encoder.
    index: over text_vectors.
    """

    items: Items
    texts: list[str]
    titles: list[str]
    text_vectors: np.ndarray
    index: Index
    encoder: TextEncoder
    text_config: TextConfig

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return len(self.texts)

    @cached_property
    def marks(self) -> Mapping[str, sp.csr_matrix]:
        """What items visibly share; see `marks_of`."""
        return marks_of(self.items, self.titles)

    def queries(
        self,
        histories: Sequence[np.ndarray],
        *,
        exclude: Sequence[np.ndarray] | None = None,
        keep_seen: bool = False,
        visits: np.ndarray | None = None,
    ) -> Queries:
        """Histories (item rows, oldest first) as stage one wants them; by default what was seen is excluded.

        Args:
            exclude: per user other item rows instead. keep_seen: seen items may come again, and nothing is excluded.
            visits: see `Queries`.
        """
        if exclude is None:
            exclude = [_EMPTY] * len(histories) if keep_seen else histories
        texts = tuple(history_text([self.titles[row] for row in self.newest(h)], self.text_config) for h in histories)
        return Queries(tuple(histories), tuple(exclude), texts, visits)

    def newest(self, history: np.ndarray) -> np.ndarray:
        """The newest rows of a history that a text may hold, newest first."""
        return history[::-1][: self.text_config.history_items]


def make_catalogue(
    items: Items,
    encoder: TextEncoder,
    *,
    text_config: TextConfig,
    family: str = "auto",
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
) -> Catalogue:
    """Write the texts, embed them (from the encoder's cache where it knows them) and index the vectors.

    Raises:
        ValueError: there are no items, or a template names what is no column of the items.
    """
    for name in ("item_template", "history_template"):
        fields = template_fields(getattr(text_config, name))
        if unknown := [one for one in fields if one not in items.frame.columns]:
            columns = ", ".join(items.frame.columns)
            raise ValueError(f"text.{name}: expected a column of the items ({columns}) in braces, got {unknown}")
    texts, titles = render_items(items, text_config)
    vectors = encoder.encode(texts, progress="embed items" if progress else None)
    index = build_index(vectors, family=family, seed=seed, device=device)
    return Catalogue(items, texts, titles, vectors, index, encoder, text_config)


def render_items(items: Items, text_config: TextConfig) -> tuple[list[str], list[str]]:
    """Full and short text of every item. An empty text is replaced by the id, so that no vector is arbitrary.

    Raises:
        ValueError: see `make_catalogue`.
    """
    records = items.frame.to_dict("records")
    if not records:
        raise ValueError("no items: the item table is empty; give at least one item")
    named = template_fields(text_config.item_template)
    if not set(named) & set(items.frame.columns):
        columns = ", ".join(items.frame.columns)
        raise ValueError(f"item_template: expected a column of the items ({columns}) in braces, got {named}")
    ids = [str(record["item_id"]) for record in records]
    texts = [text or item_id for text, item_id in zip(item_texts(records, text_config), ids, strict=True)]
    short = item_texts(records, text_config, template=text_config.history_template)
    return texts, [text or full for text, full in zip(short, texts, strict=True)]
