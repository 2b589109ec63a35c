"""Columns as they come from a file become checked numbers and clean text, whole columns at a time."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from retrieval.data import arrow

MAX_TEXT_CHARS = (
    4_000  # tokenizers read all of a text before they cut it: 1 MB took up to 1.2 s, 4,000 characters 1.4 ms
)
_CONTROLS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}]"  # all but tab and line breaks
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Numbers:
    """A column as float64 (n,); NaN where `missing` or `wrong`."""

    values: np.ndarray
    missing: np.ndarray
    """bool (n,): null, or an empty cell."""
    wrong: np.ndarray
    """bool (n,): there is something, but it is no finite number."""


def describe(column: pa.Array | list) -> str:
    """Names the type of a column for an error message."""
    return "mixed types" if isinstance(column, list) else str(column.type)


def read_numbers(column: pa.Array | list) -> Numbers:
    """Reads numbers from any column; text must be a plain decimal number, true and false count as 1 and 0."""
    if isinstance(column, list):
        return _from_objects(column)
    array = arrow.decoded(column)
    if arrow.is_text(array.type):
        return _from_text(array)
    missing = arrow.nulls(array)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if not arrow.is_number(array.type):
        return Numbers(np.full(len(array), np.nan), missing, ~missing)
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    return _finite(values, missing, np.zeros(len(array), bool))


def _from_text(column: pa.Array) -> Numbers:
    texts = arrow.filled(arrow.trimmed(column), "")
    readable = arrow.matches(texts, NUMBER)
    missing = ~readable & ~arrow.matches(texts, r"[^\s]")
    numbers = texts if readable.all() else arrow.keep_where(readable, texts)
    values = numbers.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return _finite(values, missing, ~readable & ~missing)


def _from_objects(values: list) -> Numbers:
    """Mixed JSON values, one by one."""
    numbers = np.full(len(values), np.nan)
    missing = np.array([value is None or value == "" for value in values], dtype=bool)
    wrong = np.zeros(len(values), bool)
    for place, value in enumerate(values):
        if isinstance(value, int | float):
            try:
                numbers[place] = float(value)
            except OverflowError:
                wrong[place] = True
        elif isinstance(value, str) and value.isprintable():  # a lone surrogate is not printable
            cell = _from_text(pa.array([value], pa.string()))
            numbers[place], missing[place], wrong[place] = cell.values[0], cell.missing[0], cell.wrong[0]
        elif value is not None:
            wrong[place] = True
    return _finite(numbers, missing, wrong)


def _finite(values: np.ndarray, missing: np.ndarray, wrong: np.ndarray) -> Numbers:
    wrong = wrong | (~np.isfinite(values) & ~missing)
    if wrong.any():
        values = np.where(wrong, np.nan, values)
    return Numbers(values, missing, wrong)


@dataclass(frozen=True)
class Texts:
    """A column of clean text: in Unicode form NFC, as ids are, control characters removed, missing is "", at most
    MAX_TEXT_CHARS characters."""

    values: pa.Array
    n_cut: int
    wrong: dict[str, np.ndarray]
    """What is wrong -> bool (n,); the text of such rows is ""."""


def read_texts(column: pa.Array | list) -> Texts:
    """Reads text; a list of texts (as categories often come) is joined by "|".

    Raises:
        TypeError: a column that holds no text at all; the caller knows its name.
    """
    if isinstance(column, list):
        texts, wrong = _texts_of_objects(column)
        return _clean(pa.array(texts, arrow.TEXT), wrong)
    array = arrow.decoded(column)
    kind = array.type
    if arrow.is_list_of_texts(kind):
        return _clean(arrow.joined(array, "|").cast(arrow.TEXT), {})
    if not arrow.is_text(kind) and not pa.types.is_null(kind):
        raise TypeError(str(kind))
    return _clean(array.cast(arrow.TEXT), {})


def _clean(column: pa.Array, wrong: dict[str, np.ndarray]) -> Texts:
    texts, _ = arrow.cut(arrow.filled(column, ""), 4 * MAX_TEXT_CHARS)  # first: the rest then costs no more than this
    if arrow.matches(texts, _CONTROLS).any():
        texts = arrow.without(texts, _CONTROLS)
    return Texts(*arrow.cut(arrow.in_nfc(texts), MAX_TEXT_CHARS), wrong)  # NFC makes one of up to four characters


def _texts_of_objects(values: list) -> tuple[list[str | None], dict[str, np.ndarray]]:
    """Mixed JSON values, one by one."""
    texts: list[str | None] = []
    wrong: dict[str, np.ndarray] = {}
    for place, value in enumerate(values):
        text, fault = _text_of(value)
        texts.append(text)
        if fault:
            wrong.setdefault(fault, np.zeros(len(values), bool))[place] = True
    return texts, wrong


def _text_of(value: object) -> tuple[str | None, str | None]:
    """Returns (text, None) or (None, what is wrong)."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "|".join(value)
    if value is None:
        return None, None
    if not isinstance(value, str):
        shown = "NaN" if isinstance(value, float) and math.isnan(value) else type(value).__name__
        return None, f"is {shown}, expected text"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return None, "holds half of a surrogate pair"
    return value, None


def plain_text(value: object) -> str | None:
    """A JSON value of a column of mixed types; numbers in plain digits, so that they can be told from codes."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and math.isfinite(value):
        return np.format_float_positional(value, trim="0")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return ascii(value)
