"""What a command asks of its arguments before anything heavy is imported or read: a typo is told at once."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from pathlib import Path


def check_bundle_there(bundle: Path) -> None:
    """Raises FileNotFoundError where there is no bundle, DamagedArtefact where its CURRENT is altered."""
    from indexes import resolve

    resolve(bundle)


def check_bundle_root(bundle: Path) -> None:
    """As `check_bundle_there`; raises ValueError for one version of a bundle, where a new one is to be published."""
    from indexes import check_root

    check_root(bundle)
    check_bundle_there(bundle)


def check_readable(*tables: Path | None) -> None:
    """Raises FileNotFoundError or ValueError for a table that is not there or of no known format; None is none."""
    from retrieval.data.files import find_files

    for table in tables:
        if table is not None:
            find_files(table)


def check_device(device: str | None) -> None:
    """Raises ValueError for a device of no known kind; whether this machine has it shows later."""
    if device is not None and device not in ("auto", "cpu", "cuda") and not device.startswith("cuda:"):
        raise ValueError(f"--device: expected auto, cpu or cuda, got {device!r}")


def check_list(k: int, filters: str | None) -> None:
    """Raises ValueError for a length that no list has, or a filter that cannot be read."""
    from indexes.filter_text import parse_filter
    from retrieval.results import check_k

    check_k(k)
    if filters is not None:
        parse_filter(filters)


def check_out(out: Path) -> None:
    """Tell that a folder can be made there and written; nothing stays behind.

    Raises:
        ValueError: a file, one version of a bundle, or no place to write. OSError: the disk is full.
    """
    from indexes import check_root

    check_root(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a directory for the bundle, got the file {str(out)!r}; name another place")
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    _require_writable(nearest, "--out", out)


def _require_writable(folder: Path, option: str, given: Path) -> None:
    """Raises ValueError where nothing can be written there, and OSError where the disk is full."""
    try:
        tempfile.TemporaryDirectory(prefix=".tandem-", dir=folder).cleanup()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        why = "it cannot be made or written"
        raise ValueError(f"{option}: expected a place to write, got {str(given)!r}: {why}; name another") from error


def check_evaluation(
    json_file: Path | None, report: Path | None, users: Path | None, segment: str | None, split: str
) -> None:
    """Before hours of work, not after: what goes together is there, the split is one, and the files can be written.

    Raises:
        ValueError: an option without its other half, or no file that can be written. ImportError: no matplotlib.
    """
    from retrieval.data import require_split
    from retrieval.report import check_report_path

    require_split(split, option="--split")
    if segment is not None and users is None:
        raise ValueError(f"--segment-column: expected --users FILE with it, got {segment!r} alone; name the table")
    check_readable(users)
    if report is not None:
        check_report_path(report)
    for option, file in (("--json", json_file), ("--report", report)):
        if file is not None:
            if file.is_dir():
                raise ValueError(f"{option}: expected a file to write, got the directory {str(file)!r}")
            with contextlib.suppress(FileExistsError, NotADirectoryError, PermissionError):  # told below
                file.parent.mkdir(parents=True, exist_ok=True)
            _require_writable(file.parent, option, file)
