"""Outside ids (text, in Unicode form NFC) on one side, inside rows 0..n-1 (int64) on the other.

Ids are text from the door on: ``007`` stays ``007``, the number 12 and the text "12" are the same id. Look-alikes are
refused rather than repaired: an id with an invisible character or a surrounding space is somebody's mistake, and
mending it silently would join or split people.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Literal

import numpy as np
import pyarrow as pa

from retrieval.data import arrow

MAX_ID_CHARS = 256
_PLAIN = re.compile(rf"[!-~](?:[ -~]{{0,{MAX_ID_CHARS - 2}}}[!-~])?")  # printable ASCII: nothing to normalise
_REFUSED = {"Cc": "a control character", "Cf": "an invisible character", "Cs": "half of a surrogate pair"}
_REFUSED |= {"Zl": "a line separator", "Zp": "a paragraph separator"}
MISSING = "is missing"
UNKNOWN_ITEM = "is not in the item table"
_CODE_OF_FIRST_FAULT = -2  # -1 means "not looked at yet"; fault number f has code -2 - f


def _fault(text: str) -> str | None:
    """Says what is wrong with an id that is already in NFC, or None; reasons are counted, so they hold no values."""
    if not text or text.isspace():
        return "is empty"
    if len(text) > MAX_ID_CHARS:
        return f"is longer than {MAX_ID_CHARS} characters"
    for character in text:
        if (kind := unicodedata.category(character)) in _REFUSED:
            return f"holds {_REFUSED[kind]} (U+{ord(character):04X})"
    if text != text.strip():
        return "begins or ends with white space"
    return None


def _examine(value: object) -> tuple[str, str | None]:
    """Returns (canonical id, None), or ("", what is wrong)."""
    if isinstance(value, str):
        if _PLAIN.fullmatch(value):
            return str(value), None
        if len(value) > 4 * MAX_ID_CHARS:  # before normalising: NFC shortens a text by less than that
            return "", f"is longer than {MAX_ID_CHARS} characters"
        text = unicodedata.normalize("NFC", value)
        fault = _fault(text)
        return ("", fault) if fault else (text, None)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if int(value).bit_length() > 800:  # about MAX_ID_CHARS digits; Python refuses to print very long ones
            return "", f"is longer than {MAX_ID_CHARS} characters"
        return str(int(value)), None
    if value is None:
        return "", MISSING
    return "", f"is {type(value).__name__}, expected text or a whole number"


def canonical_id(value: object) -> str:
    """Gives the one spelling of an outside id: text in NFC; whole numbers become their digits.

    Raises:
        ValueError: empty or only spaces; longer than 256 characters; surrounding white space; a control, invisible
            (zero-width, right-to-left override) or surrogate character; true/false, fractions, None, bytes.
    """
    text, fault = _examine(value)
    if fault:
        raise ValueError(f"id {fault}, got {brief(value)}")
    return text


def brief(value: object) -> str:
    """An id, or what was given for one, in a message: at most about 70 characters."""
    if isinstance(value, int) and value.bit_length() > 800:
        return "a very long whole number"
    text = repr(value[:60] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 70 else text[:70] + "..."


def listed(name: str, values: object, of: str) -> list:
    """The values of an argument that takes several, of ids or histories, as a list.

    Raises:
        ValueError: one text, whose letters would be taken for ids, or what holds nothing at all.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        got = f"{type(values).__name__} {brief(values)}"
        raise ValueError(f"{name}: expected a sequence of {of}, got the single {got}; put it in a list")
    return list(values)


@dataclass(frozen=True, eq=False)
class IdMap:
    """A fixed order of distinct canonical ids; the id at place r has row r.

    Build it with `IdMap.of` from anything; the plain constructor trusts its argument.
    """

    ids: np.ndarray
    """object array (n,) of str, canonical and distinct."""

    @classmethod
    def of(cls, ids: Iterable[object]) -> "IdMap":
        """Canonicalises `ids`, in the order given. Raises ValueError for a bad or repeated id."""
        texts = [canonical_id(value) for value in ids]
        built = cls(_object_array(texts))
        if len(built.row_of) != len(texts):
            seen: set[str] = set()
            repeated = list(dict.fromkeys(text for text in texts if text in seen or seen.add(text)))
            raise ValueError(f"expected distinct ids, got {len(repeated)} repeated: {', '.join(repeated[:5])}")
        return built

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Canonical id -> row. Do not change it."""
        return dict(zip(self.ids.tolist(), range(len(self.ids)), strict=True))

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, value: object) -> bool:
        text, fault = _examine(value)
        return fault is None and text in self.row_of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and np.array_equal(self.ids, other.ids)

    __hash__ = None  # type: ignore[assignment]

    def to_rows(self, ids: Iterable[object], *, unknown: Literal["raise", "ignore"] = "raise") -> np.ndarray:
        """Gives the rows of outside ids, int64, in the order asked.

        Args:
            unknown: "ignore" gives row -1 for an id that is unknown or malformed.

        Raises:
            KeyError: an unknown id under "raise"; names the first five.
            ValueError: a malformed id under "raise".
        """
        values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        find = canonical_id if unknown == "raise" else lambda value: _examine(value)[0]
        texts = [v if type(v) is str and v in self.row_of else find(v) for v in values]
        rows = np.fromiter(map(self.row_of.get, texts, repeat(-1)), np.int64, len(texts))
        if unknown == "raise" and (rows < 0).any():
            strangers = [texts[place] for place in np.flatnonzero(rows < 0)[:5]]
            raise KeyError(
                f"expected known ids, got {int((rows < 0).sum())} unknown: {', '.join(strangers)}; "
                "check the spelling (ids are text: 007 is not 7)"  # no quotes: a KeyError is shown as a repr
            )
        return rows

    def to_ids(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Gives the outside ids of rows, object array of str. Raises ValueError for a row outside 0..n-1, as -1 is."""
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self.ids)):
            strange = rows[(rows < 0) | (rows >= len(self.ids))].flat[0]
            raise ValueError(f"expected rows 0..{len(self.ids) - 1}, got {int(strange)}")
        return self.ids[rows]


def _object_array(texts: Sequence[str]) -> np.ndarray:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


class IdEncoder:
    """Turns columns of ids into rows, chunk by chunk; work is done once per distinct id of a chunk, not per row.

    With `known`, other ids are a fault; without it every new id gets the next row, in order of first appearance.
    """

    def __init__(self, known: IdMap | None = None) -> None:
        self._grows = known is None
        self._codes: dict[str, int] = dict(known.row_of) if known else {}  # raw spelling -> row, or a fault's code
        self._ids: list[str] = known.ids.tolist() if known else []
        self._faults = [MISSING]

    def encode(self, column: pa.Array | list) -> tuple[np.ndarray, list[tuple[np.ndarray, str]]]:
        """Returns rows int64 (n,), negative where faulty, and (mask, what is wrong) for every fault present."""
        distinct, places = _distinct(column)
        if isinstance(column, list):  # only text is looked up: to a dict, True and 1 are one key
            found = (self._codes.get(value, -1) if type(value) is str else -1 for value in distinct)
        else:
            found = map(self._codes.get, distinct, repeat(-1))
        codes = np.fromiter(found, np.int64, len(distinct))
        for place in np.flatnonzero(codes == -1):
            codes[place] = self._admit(distinct[place])
        rows = codes[np.maximum(places, 0)] if len(codes) else np.full(len(places), _CODE_OF_FIRST_FAULT)
        rows[places < 0] = _CODE_OF_FIRST_FAULT
        present = np.unique(rows[rows < 0])
        faults = [(rows == code, self._faults[_CODE_OF_FIRST_FAULT - code]) for code in present]
        return rows, faults

    def _admit(self, value: object) -> int:
        text, fault = _examine(value)
        if fault is None:
            row = self._codes.get(text)
            if row is None and self._grows:
                row = self._codes[text] = len(self._ids)
                self._ids.append(text)
            if row is not None:
                if isinstance(value, str):
                    self._codes[value] = row  # another spelling (NFD) of the same id is found at once next time
                return row
            fault = UNKNOWN_ITEM
        if fault not in self._faults:
            self._faults.append(fault)
        return _CODE_OF_FIRST_FAULT - self._faults.index(fault)

    def to_map(self, rows: np.ndarray | None = None) -> IdMap:
        """The ids met so far, or only those of `rows`, as a map."""
        ids = self._ids if rows is None else [self._ids[row] for row in rows.tolist()]
        return IdMap(_object_array(ids))

    def __len__(self) -> int:
        return len(self._ids)


def _distinct(column: pa.Array | list) -> tuple[list, np.ndarray]:
    """Returns the distinct values and, per row, the place of its value (-1 for null)."""
    if isinstance(column, list):  # mixed types, from JSON: 1 and "1" and True are kept apart until they are examined
        keys = [(type(value).__name__, repr(value)) for value in column]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        order = {key: number for number, key in enumerate(first)}
        return [column[place] for place in first.values()], np.array([order[key] for key in keys], dtype=np.int64)
    return arrow.encoded(column)
