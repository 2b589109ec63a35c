"""Columns as they come from a file (text, numbers, mixed) become checked numbers and clean text, whole columns at a time."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_TEXT_CHARS = (
    4_000  # tokenizers read all of a text before they cut it: 1 MB took up to 1.2 s, 4,000 characters 1.4 ms
)
_CONTROLS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}]"  # all but tab and line breaks
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Numbers:
    """A column as float64 (n,); NaN where `missing` or `wrong`."""

    values: np.ndarray
    missing: np.ndarray
    """bool (n,): null, or an empty cell."""
    wrong: np.ndarray
    """bool (n,): there is something, but it is no finite number."""


def is_text(kind: pa.DataType) -> bool:
    """True for Arrow's text types, also behind a dictionary."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def describe(column: pa.Array | list) -> str:
    """Names the type of a column for an error message."""
    return "mixed types" if isinstance(column, list) else str(column.type)


def decoded(column: pa.Array) -> pa.Array:
    """The column without its dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def read_numbers(column: pa.Array | list) -> Numbers:
    """Reads numbers from any column; text must be a plain decimal number, true and false count as 1 and 0."""
    if isinstance(column, list):
        return _from_objects(column)
    column = decoded(column)
    kind = column.type
    if pa.types.is_null(kind):
        return Numbers(np.full(len(column), np.nan), np.ones(len(column), bool), np.zeros(len(column), bool))
    if is_text(kind):
        return _from_text(column)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)):
        return Numbers(np.full(len(column), np.nan), np.zeros(len(column), bool), np.ones(len(column), bool))
    missing = _mask(column.is_null())
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    return _finite(values, missing, np.zeros(len(column), bool))


def _from_text(column: pa.Array) -> Numbers:
    trimmed = pc.utf8_trim_whitespace(column.cast(pa.string()))
    missing = _mask(pc.fill_null(pc.equal(pc.binary_length(trimmed), 0), True))
    readable = _mask(pc.fill_null(pc.match_substring_regex(trimmed, _NUMBER), False))
    if readable.all():
        return _finite(trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False), missing, ~readable)
    numbers = pc.if_else(pa.array(readable), trimmed, None).cast(pa.float64())
    return _finite(numbers.to_numpy(zero_copy_only=False), missing, ~readable & ~missing)


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


def _mask(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(bool)


@dataclass(frozen=True)
class Texts:
    """A column of clean text: control characters removed, missing is "", at most MAX_TEXT_CHARS characters."""

    values: pa.Array
    wrong: dict[str, np.ndarray]
    """What is wrong -> bool (n,); the text of such rows is ""."""
    n_cut: int


def read_texts(column: pa.Array | list) -> Texts:
    """Reads text; a list of texts (as categories often come) is joined by "|".

    Raises:
        TypeError: a column that holds no text at all; the caller knows its name.
    """
    if isinstance(column, list):
        texts, wrong = _texts_of_objects(column)
        return _clean(pa.array(texts, pa.string()), wrong)
    kind = column.type
    if pa.types.is_null(kind):
        return Texts(pa.array([""] * len(column), pa.string()), {}, 0)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and (
        is_text(kind.value_type) or pa.types.is_null(kind.value_type)
    ):
        joined = pc.binary_join(column.cast(pa.list_(pa.string())), "|")
        return _clean(joined, {})
    if pa.types.is_dictionary(kind) and is_text(kind):
        column = column.dictionary_decode()
    elif not is_text(kind):
        raise TypeError(str(kind))
    return _clean(column.cast(pa.string()), {})


def _clean(column: pa.Array, wrong: dict[str, np.ndarray]) -> Texts:
    column = pc.fill_null(column, "")
    cleaned = column
    if _mask(pc.match_substring_regex(column, _CONTROLS)).any():
        cleaned = pc.replace_substring_regex(column, _CONTROLS, "")
    n_cut = 0
    if (pc.max(pc.binary_length(cleaned)).as_py() or 0) > MAX_TEXT_CHARS:
        n_cut = int(_mask(pc.greater(pc.utf8_length(cleaned), MAX_TEXT_CHARS)).sum())
        cleaned = pc.utf8_slice_codeunits(cleaned, 0, MAX_TEXT_CHARS)
    return Texts(cleaned, wrong, n_cut)


def _texts_of_objects(values: list) -> tuple[list[str | None], dict[str, np.ndarray]]:
    """Mixed JSON values, one by one."""
    texts: list[str | None] = []
    wrong: dict[str, np.ndarray] = {}
    for place, value in enumerate(values):
        fault = None
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = "|".join(value)
        if value is not None and not isinstance(value, str):
            shown = "NaN" if isinstance(value, float) and math.isnan(value) else type(value).__name__
            fault = f"is {shown}, expected text"
        elif value and any("\ud800" <= character <= "\udfff" for character in value):
            fault = "holds half of a surrogate pair"
        if fault:
            wrong.setdefault(fault, np.zeros(len(values), bool))[place] = True
        texts.append(None if fault else value)
    return texts, wrong
