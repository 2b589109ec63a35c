"""Every text Tandem ever shows a model: item -> str, history -> str, from configurable templates.

A part (title, description, ...) has a budget in tokens, so that a long description cannot push the title out, and a
history is written newest item first, so that whatever a model cuts at its right end is the oldest.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

# Truncation comes after tokenising in today's tokenisers: a 1 MB text costs up to 1.2 s. Cutting first costs 1 ms.
MAX_CHARACTERS = 4_000
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
_SPACE = re.compile(r"\s+")
# A word of English is 1.3 WordPieces on average; budgets count these estimated tokens, so that a template gives
# the same text with every tokeniser.
TOKENS_PER_WORD = 1.3


@dataclass(frozen=True)
class TextConfig:
    """What of an item and of a history the models read.

    item_template: fields in braces; a field that is empty disappears together with the separator before it.
    history_template: how one item stands in a history.
    budgets: tokens per field of the item template; a field that is not named has no limit of its own.
    history_items: how many of the newest interactions a history text holds at the most.
    history_tokens: the budget of the whole history text; the newest item is kept even if it alone is longer.
    """

    item_template: str = "{title}. {category}. {brand}. {description}"
    history_template: str = "{title}"
    history_separator: str = "; "
    budgets: Mapping[str, int] = field(
        default_factory=lambda: {"title": 48, "category": 24, "brand": 12, "description": 96}
    )
    history_items: int = 6
    history_tokens: int = 96

    def __post_init__(self) -> None:
        for name in ("item_template", "history_template"):
            try:
                fields = template_fields(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: an unbalanced brace in {getattr(self, name)!r} ({error})") from None
            if not fields:
                raise ValueError(f"{name}: expected at least one field such as {{title}}, got {getattr(self, name)!r}")
        for part, budget in self.budgets.items():
            if budget < 1:
                raise ValueError(f"budgets[{part!r}]: expected 1 or more tokens, got {budget}; leave the field out")
        if self.history_items < 1 or self.history_tokens < 1:
            raise ValueError("history_items and history_tokens: expected 1 or more, got less")


def template_fields(template: str) -> list[str]:
    """The field names of a template, in order. Raises ValueError for an unbalanced brace."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def clean_text(text: object) -> str:
    """One line of text: NFC, control characters removed, white space folded, at most MAX_CHARACTERS long."""
    if not isinstance(text, str) and pd.isna(text) is True:
        return ""
    line = _CONTROL.sub(" ", unicodedata.normalize("NFC", str(text)[: 4 * MAX_CHARACTERS]))
    return _SPACE.sub(" ", line.encode("utf-8", "replace").decode("utf-8")).strip()[:MAX_CHARACTERS]


def estimated_tokens(text: str) -> int:
    """How many tokens a text of so many words is likely to have (at least 1 for any text)."""
    return max(1, round(len(text.split()) * TOKENS_PER_WORD)) if text else 0


def cut_to_tokens(text: str, max_tokens: int) -> str:
    """The first words of a text that fit the budget; never in the middle of a word, never less than one word."""
    words = text.split(" ")
    keep = max(1, int(max_tokens / TOKENS_PER_WORD))
    return text if len(words) <= keep else " ".join(words[:keep])


def _separator_clean(text: str) -> str:
    return text.rstrip(" .,;|-")


def item_text(item: Mapping[str, object], config: TextConfig, *, template: str | None = None) -> str:
    """One item as the models read it; "" when every field of the template is empty.

    What the template says after its last field stays only where that field does.
    """
    out, value, literal = "", "", ""
    for piece, name, _, _ in string.Formatter().parse(template or config.item_template):
        literal += piece  # doubled braces come as pieces of their own
        if not name:
            continue
        value = clean_text(item.get(name))
        if value:
            if name in config.budgets:
                value = cut_to_tokens(value, config.budgets[name])
            # The literal before a field separates it from what stands already; at the start there is nothing to
            # separate.
            out = (_separator_clean(out) + literal if out else literal.lstrip(" .,;|-")) + value
        literal = ""
    return (out + (literal if value else "")).strip()


def item_texts(items: Iterable[Mapping[str, object]], config: TextConfig, *, template: str | None = None) -> list[str]:
    """The texts of many items, in their order."""
    return [item_text(item, config, template=template) for item in items]


def history_texts(newest_first: Sequence[str], config: TextConfig) -> tuple[str, ...]:
    """The newest items that fit the budget, newest first. The newest is never dropped and never cut."""
    kept: list[str] = []
    used = 0
    for text in newest_first[: config.history_items]:
        cost = estimated_tokens(text)
        if kept and used + cost > config.history_tokens:
            break
        kept.append(text)
        used += cost
    return tuple(kept)


def history_text(newest_first: Sequence[str], config: TextConfig) -> str:
    """A history as one text, newest item first; "" for an empty history."""
    return config.history_separator.join(history_texts([text for text in newest_first if text], config))
