"""Small table files for the tests of reading: written, then read back."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.data import Interactions, Items, read_interactions, read_items

HEADER = "user_id,item_id,timestamp\n"


def write(path: Path, content: str | bytes) -> Path:
    """Writes text as UTF-8, or bytes as they are."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path: Path, columns: dict, **options) -> Path:
    """Writes a parquet file of these columns."""
    pq.write_table(pa.table(columns), path, **options)
    return path


def jsonl(path: Path, rows: list[dict]) -> Path:
    """Writes one JSON object per line."""
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def save(frame: pd.DataFrame, path: Path) -> Path:
    """Writes a frame in the format of the path's name."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
        return path
    if name.endswith((".csv", ".tsv")):
        content = frame.to_csv(index=False, sep="\t" if name.endswith(".tsv") else ",").encode()
    else:
        content = "".join(json.dumps(row) + "\n" for row in frame.to_dict(orient="records")).encode()
    return write(path, gzip.compress(content) if path.suffix == ".gz" else content)


def items_csv(tmp_path: Path, content: str | bytes, **options) -> Items:
    """Reads `content` as the item table items.csv."""
    return read_items(write(tmp_path / "items.csv", content), **options)


def interactions_csv(tmp_path: Path, content: str | bytes, **options) -> Interactions:
    """Reads `content` as interactions.csv; every item counts unless `items` is given."""
    file = write(tmp_path / "interactions.csv", content)
    return read_interactions(file, items=options.pop("items", None), **options)
