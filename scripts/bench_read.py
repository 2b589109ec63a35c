"""Measures reading a generated interactions file: rows per second and peak memory, one JSON line.

The file is made in a temporary folder (parquet, CSV or JSON lines) and read in a fresh process, so that the peak is
that of reading alone; `baseline_mb` is what the same process needs after its imports.

    python scripts/bench_read.py --format csv --rows 5000000
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
_PART_ROWS = 500_000


def write_interactions(file: Path, *, n_rows: int, n_users: int, n_items: int, seed: int) -> None:
    """Writes user_id, item_id, timestamp, event in parts, so that making the file stays small as well."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(seed), None
    for start in range(0, n_rows, _PART_ROWS):
        size = min(_PART_ROWS, n_rows - start)
        frame = pd.DataFrame(
            {
                "user_id": np.char.add("u", rng.integers(0, n_users, size).astype(str)),
                "item_id": np.char.add("i", (n_items * rng.random(size) ** 2).astype(np.int64).astype(str)),
                "timestamp": rng.integers(1_600_000_000, 1_700_000_000, size),
                "event": rng.choice(["click", "purchase", "cart"], size),
            }
        )
        if file.suffix == ".parquet":
            table = pa.Table.from_pandas(frame, preserve_index=False)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        elif file.suffix == ".csv":
            frame.to_csv(file, mode="a", header=start == 0, index=False)
        else:
            frame.to_json(file, orient="records", lines=True, mode="a")
    if writer is not None:
        writer.close()


def peak_mb() -> float:
    """Gives the largest resident size of this process so far, in MB (Linux; elsewhere what getrusage says).

    Linux hands a parent's ru_maxrss on to its children, so getrusage would show the process that made the file.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def measure_reading(file: Path, *, n_items: int) -> dict[str, float | int | str]:
    """Reads the file in this process and says how long it took and what it needed."""
    from retrieval.data import IdMap, read_interactions

    baseline = peak_mb()
    items = IdMap.of(f"i{number}" for number in range(n_items))
    start = time.perf_counter()
    interactions = read_interactions(file, items=items)
    seconds = time.perf_counter() - start
    return {
        "format": file.suffix[1:],
        "file_mb": round(file.stat().st_size / 2**20, 1),
        "n_rows": interactions.report.n_read,
        "n_kept": len(interactions),
        "n_users": interactions.n_users,
        "seconds": round(seconds, 2),
        "rows_per_s": round(len(interactions) / seconds),
        "peak_mb": round(peak_mb(), 1),
        "baseline_mb": round(baseline, 1),
    }


def main(argv: list[str] | None = None) -> int:
    """Write the file, read it in a fresh process, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=("parquet", "csv", "jsonl"), default="parquet")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read", type=Path, help="read this file only (what the fresh process is told)")
    options = parser.parse_args(argv)
    if options.read:
        print(json.dumps(measure_reading(options.read, n_items=options.items)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"interactions.{options.format}"
        write_interactions(file, n_rows=options.rows, n_users=options.users, n_items=options.items, seed=options.seed)
        command = [sys.executable, __file__, "--read", str(file), "--items", str(options.items)]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # so that it runs from a checkout without installation
    raise SystemExit(main())
