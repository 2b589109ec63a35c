"""Tables and JSON for a terminal: columns line up, and nothing that a title holds can drive the terminal."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence

MAX_CELL_WIDTH = 60
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # spelling of Persian and of composed emoji; they move nothing
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without control, direction-changing and surrogate characters; line breaks and tabs become spaces."""
    spaced = " ".join(re.split(r"[\t\r\n\f\v\x85\u2028\u2029]+", text))
    if spaced.isprintable():
        return spaced
    return "".join(c for c in spaced if c in _JOINERS or unicodedata.category(c) not in _UNSAFE)


def text_width(text: str) -> int:
    """Columns a text takes on a terminal: wide characters two, combining marks and joiners none."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character) or character in _JOINERS or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Lines of aligned columns under a header; cells are made printable.

    All but the last column are cut to `MAX_CELL_WIDTH`: nothing stands to the right of the last one.

    Args:
        right: the columns, by name, to align on the right.
    """
    cells = [
        list(header),
        *([*(_cut(printable(c)) for c in row[:-1]), *(printable(c) for c in row[-1:])] for row in rows),
    ]
    widths = [max(text_width(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        padded = []
        for column, cell in enumerate(row):
            space = " " * (widths[column] - text_width(cell))
            padded.append(space + cell if header[column] in right else cell + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cut(text: str) -> str:
    if text_width(text) <= MAX_CELL_WIDTH:
        return text
    kept, width = [], 0
    for character in text:
        width += _width(character)
        if width >= MAX_CELL_WIDTH:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def render_json(document: object) -> str:
    """One JSON document, readable in any script; what could drive a terminal is escaped. NaN is refused."""
    text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
