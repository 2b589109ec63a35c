"""A parquet file becomes chunks of typed columns, in memory that does not depend on what the file claims to hold.

A dictionary page lets 293 bytes stand for 20 GB of text. So before a row group is unpacked, the longest entry of each
text column's dictionary is looked up, and the batch is made small enough for it; a column that unpacks to more than
`MAX_UNPACKED_BYTES` and a hundred times what its file says is refused.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexes.errors import DamagedArtefact
from retrieval.data import arrow
from retrieval.data.chunks import CHUNK_ROWS, Chunk, check_names

BATCH_BYTES = 64 << 20
MAX_UNPACKED_BYTES = 1 << 30
_MAX_RATIO = 100
_CURE = "copy or export it again"


def read_parquet_chunks(file: Path, *, required: Mapping[str, str], wanted: Collection[str] | None) -> Iterator[Chunk]:
    """Yields the chunks of one file; `wanted` None means all columns.

    Raises:
        ValueError: repeated or missing column, text that is not UTF-8.
        DamagedArtefact: truncated or altered, or no parquet at all.
        MemoryError: a column holds far more than the file says, or cannot be unpacked in bounded memory.
    """
    with (
        _as_our_errors(file),
        pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True) as table,
    ):
        names = list(table.schema_arrow.names)
        check_names(file, names, required)
        asked = names if wanted is None else [name for name in names if name in wanted]
        row = 1
        for group in range(table.num_row_groups):
            unpacked = dict.fromkeys(asked, 0)
            for batch in table.iter_batches(_batch_rows(file, table, group, asked), row_groups=[group], columns=asked):
                columns = {name: _checked(batch.column(name), file, name) for name in asked}
                for name, column in columns.items():
                    unpacked[name] += column.nbytes
                    _check_budget(file, name, unpacked[name], table, group)
                yield Chunk(file, tuple(names), dict(columns), np.arange(row, row + len(batch), dtype=np.int64))
                row += len(batch)


def _claims(table: pq.ParquetFile, group: int, name: str) -> tuple[int, set[str]]:
    """Unpacked bytes and encodings of a column in one row group, as the footer has them; a nested one by its leaves.

    Call it only for columns that were read from: in pyarrow 26 a damaged footer ends the process here (an exception of
    the C++ library that nobody catches), while reading reports the same damage as an error.
    """
    n_bytes, encodings = 0, set()
    facts = table.metadata.row_group(group)
    for leaf in range(len(table.schema)):
        path = table.schema.column(leaf).path
        if path == name or path.startswith(name + "."):
            column = facts.column(leaf)
            n_bytes += column.total_uncompressed_size
            encodings |= set(column.encodings)
    return n_bytes, encodings


def _batch_rows(file: Path, table: pq.ParquetFile, group: int, asked: list[str]) -> int:
    """Rows per batch so that no column needs more than BATCH_BYTES, going by longest dictionary entry and mean size."""
    next(table.iter_batches(1, row_groups=[group], columns=asked), None)  # see _claims
    n_rows = max(1, table.metadata.row_group(group).num_rows)
    batch_rows = min(n_rows, CHUNK_ROWS)
    for name in asked:
        n_bytes, encodings = _claims(table, group, name)
        longest = n_bytes / n_rows
        if batch_rows * n_bytes > BATCH_BYTES and any("DICTIONARY" in encoding for encoding in encodings):
            longest = max(longest, _longest_entry(file, table, group, name))
        if longest > BATCH_BYTES:
            raise MemoryError(
                f"{file}: column {name!r} holds a value of {int(longest) >> 20} MB; is it a table of rows?"
            )
        batch_rows = max(1, min(batch_rows, int(BATCH_BYTES / max(longest, 1))))
    return batch_rows


def _longest_entry(file: Path, table: pq.ParquetFile, group: int, name: str) -> int:
    """Bytes of the longest entry of a text column's dictionary; 0 for other columns. Unpacks no more than one row."""
    if not arrow.is_text(table.schema_arrow.field(name).type):
        return 0
    with pq.ParquetFile(file, read_dictionary=[name], pre_buffer=False, buffer_size=1 << 20) as peek:
        for batch in peek.iter_batches(1, row_groups=[group], columns=[name]):
            column = batch.column(0)
            entries = column.dictionary if pa.types.is_dictionary(column.type) else column
            return arrow.longest_bytes(entries)
    return 0


def _check_budget(file: Path, name: str, n_bytes: int, table: pq.ParquetFile, group: int) -> None:
    if n_bytes > MAX_UNPACKED_BYTES and n_bytes > _MAX_RATIO * _claims(table, group, name)[0]:
        raise MemoryError(
            f"{file}: column {name!r} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GB, over {_MAX_RATIO} times what "
            "the file says; if this is honest data, write it again with smaller row groups"
        )


def _checked(column: pa.Array, file: Path, name: str) -> pa.Array:
    """Refuses text that is not UTF-8: Arrow takes a file's word for it and fails much later."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: column {name!r} holds text that is not UTF-8 ({error})") from error
    return column


@contextmanager
def _as_our_errors(file: Path) -> Iterator[None]:
    """Arrow's errors while opening and unpacking mean a damaged file, except want of memory and our own."""
    try:
        yield
    except pa.ArrowMemoryError as error:
        raise MemoryError(f"{file}: {error}") from error
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedArtefact(file, f"cannot be read as parquet ({str(error).splitlines()[0]})", cure=_CURE) from error
