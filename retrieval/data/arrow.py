"""The few Arrow operations the readers need, under names that say what they mean here."""

# pyarrow makes the functions of pyarrow.compute at import, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.large_string()
"""What text is kept as: a column of `pa.string()` holds no more than 2 GiB."""


def is_text(kind: pa.DataType) -> bool:
    """True for Arrow's text types, also behind a dictionary."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_number(kind: pa.DataType) -> bool:
    """True for whole numbers, fractions and decimals; not for booleans."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_list_of_texts(kind: pa.DataType) -> bool:
    """True for lists of texts, and for lists that are all empty."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    return is_text(kind.value_type) or pa.types.is_null(kind.value_type)


def decoded(column: pa.Array) -> pa.Array:
    """Gives the column without its dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def as_mask(column: pa.Array) -> np.ndarray:
    """Gives a boolean column as bool (n,); null is False."""
    return pc.fill_null(column, False).to_numpy(zero_copy_only=False).astype(bool)


def nulls(column: pa.Array) -> np.ndarray:
    """Gives bool (n,), True where there is no value."""
    return as_mask(column.is_null())


def without_nan(column: pa.Array) -> pa.Array:
    """Gives the column with null for NaN."""
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column


def largest(numbers: pa.Array) -> float:
    """Gives the largest absolute value of fractions, 0 when there is none."""
    return pc.max(pc.abs(without_nan(numbers).cast(pa.float64()))).as_py() or 0


def matches(texts: pa.Array, pattern: str) -> np.ndarray:
    """Gives bool (n,), True where RE2 `pattern` is found; null is False."""
    return as_mask(pc.match_substring_regex(texts, pattern))


def keep_where(mask: np.ndarray, column: pa.Array) -> pa.Array:
    """Gives the column with null where `mask` (bool) is False."""
    return pc.if_else(pa.array(mask), column, None)


def filled(column: pa.Array, value: object) -> pa.Array:
    """Gives the column with `value` for null."""
    return pc.fill_null(column, value)


def trimmed(texts: pa.Array) -> pa.Array:
    """Gives texts without surrounding white space."""
    return pc.utf8_trim_whitespace(decoded(texts).cast(TEXT))


def lowered(texts: pa.Array) -> pa.Array:
    """Gives texts in lower case."""
    return pc.utf8_lower(texts)


def spelled_out(texts: pa.Array, meanings: dict[str, str]) -> pa.Array:
    """Gives texts trimmed, in lower case, with the keys of `meanings` replaced; work is done per distinct text."""
    column = lowered(trimmed(texts)).dictionary_encode()
    values = [meanings.get(text, text) for text in column.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(column.indices, pa.array(values, pa.string())).dictionary_decode()


def without(texts: pa.Array, pattern: str) -> pa.Array:
    """Gives texts with every match of RE2 `pattern` removed."""
    return pc.replace_substring_regex(texts, pattern, "")


def in_nfc(texts: pa.Array) -> pa.Array:
    """Gives texts in Unicode form NFC."""
    return texts if as_mask(pc.string_is_ascii(texts)).all() else pc.utf8_normalize(texts, form="NFC")


def joined(lists: pa.Array, separator: str) -> pa.Array:
    """Gives one text per list of texts; null entries are left out."""
    lists = lists.cast(pa.list_(pa.string()))
    if lists.flatten().null_count:
        lists = pa.array([None if row is None else [t for t in row if t] for row in lists.to_pylist()], lists.type)
    return pc.binary_join(lists, separator)


def cut(texts: pa.Array, n_chars: int) -> tuple[pa.Array, int]:
    """Gives texts of at most `n_chars` characters, and how many were longer."""
    if longest_bytes(texts) <= n_chars:
        return texts, 0
    n_cut = int(as_mask(pc.greater(pc.utf8_length(texts), n_chars)).sum())
    return pc.utf8_slice_codeunits(texts, 0, n_chars), n_cut


def longest_bytes(texts: pa.Array) -> int:
    """Gives the size of the longest text, 0 when there is none."""
    return pc.max(pc.binary_length(texts)).as_py() or 0


def encoded(column: pa.Array) -> tuple[list, np.ndarray]:
    """Gives the distinct values as Python objects and, int64 (n,), the place of each row's value; -1 for null."""
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return column.dictionary.to_pylist(), filled(column.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
