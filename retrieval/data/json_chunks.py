"""A JSON-lines file, packed or not, becomes chunks of columns; each column takes the type of its values in that chunk.

A chunk of lines is parsed in one call, as one JSON array; only when that fails, or does not give one object per line,
is every line parsed by itself to find the bad ones.
"""

import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrieval.data.chunks import Chunk, check_names
from retrieval.data.files import BLOCK_BYTES, BoundedLines, as_text, check_encoding, explain_decode_error, open_bytes


def read_json_chunks(
    file: Path, *, required: Mapping[str, str], wanted: Collection[str] | None, encoding: str
) -> Iterator[Chunk]:
    """Yields the chunks of one file; `wanted` None means all keys. A key absent from a line is a missing value.

    Raises:
        ValueError: empty file, one JSON array instead of lines, a required key that no line of the first chunk has, or
            bytes of another encoding.
    """
    codec = check_encoding(file, encoding)
    try:
        with open_bytes(file) as raw:
            text = as_text(BoundedLines(raw, file), codec)
            line, n_chunks = 1, 0
            while lines := text.readlines(BLOCK_BYTES):
                chunk = _to_chunk(lines, line, file, required, wanted, is_first=n_chunks == 0)
                line += len(lines)
                if len(chunk) or chunk.unreadable:
                    n_chunks += 1
                    yield chunk
            if n_chunks == 0:
                raise ValueError(f"{file}: expected one JSON object per line, got an empty file")
    except UnicodeDecodeError as error:
        raise explain_decode_error(file, codec) from error


def _to_chunk(
    lines: list[str],
    line: int,
    file: Path,
    required: Mapping[str, str],
    wanted: Collection[str] | None,
    *,
    is_first: bool,
) -> Chunk:
    numbers = np.arange(line, line + len(lines), dtype=np.int64)
    filled = np.fromiter((not text.isspace() for text in lines), bool, len(lines))
    if not filled.all():
        lines, numbers = [text for text, keep in zip(lines, filled, strict=True) if keep], numbers[filled]
    if is_first and lines and lines[0].lstrip().startswith("["):
        raise ValueError(f"{file}:{numbers[0]}: expected one JSON object per line, got a JSON array; write it as lines")
    objects, unreadable = _parse(lines, numbers)
    if unreadable:
        numbers = numbers[~np.isin(numbers, [row for row, _, _ in unreadable])]
    names = sorted(set().union(*objects))
    if is_first and objects:
        check_names(file, names, required)
    asked = [name for name in names if _is_sound(name) and (wanted is None or name in wanted)]
    columns = {name: _to_column([row.get(name) for row in objects]) for name in asked}
    return Chunk(file, tuple(names), columns, numbers, tuple(unreadable))


def _is_sound(name: str) -> bool:
    """False for a key with a lone surrogate, which no table can have as a column."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _parse(lines: list[str], numbers: np.ndarray) -> tuple[list[dict], list[tuple[int, str, str]]]:
    """Gives the objects, and (row, reason, text) of the lines that are none."""
    # Lines that are broken may be whole together, so a mark stands between them that no line can hold: where all marks
    # are found between objects, every line is one object.
    mark = secrets.token_hex(16)
    try:
        values = json.loads("[" + f',"{mark}",'.join(lines) + "]")
        objects = values[::2]
        if values[1::2] == [mark] * (len(lines) - 1) and set(map(type, objects)) <= {dict}:
            return objects, []
    except (ValueError, RecursionError):
        pass
    objects, unreadable = [], []
    for number, text in zip(numbers.tolist(), lines, strict=True):
        try:
            value = json.loads(text)
            reason = None if isinstance(value, dict) else f"is a JSON {type(value).__name__}, expected an object"
        except RecursionError:
            reason = "is nested too deeply"
        except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
            reason = f"is not JSON ({getattr(error, 'msg', 'a number is too long')})"
        if reason is None:
            objects.append(value)
        else:
            unreadable.append((number, reason, text))
    return objects, unreadable


def _to_column(values: list) -> pa.Array | list:
    """An Arrow array where all values have one type, else the values as they are."""
    types = set(map(type, values)) - {type(None)}
    if len(types) > 1 and types != {int, float}:
        return values
    try:
        return pa.array(values, from_pandas=False)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return values  # whole numbers beyond 64 bits, lone surrogates, lists or objects that differ
