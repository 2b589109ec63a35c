"""Loads an index in a process of its own first, so that a hostile file can harm nothing but that process.

python -m indexes.check DIRECTORY      exit 0: intact; 2: no index there; 3: damaged; 4: it took too much,
                                       or what it is about cannot be had now (a database that another process has open)
"""

import errno
import subprocess
import sys
from pathlib import Path

from indexes.errors import DamagedArtefact
from indexes.manifest import read_manifest
from indexes.storage import load_index

BASE_BYTES = 3 << 30
"""Address space of Python with FAISS and its threads, most of it never touched."""
OK, NO_INDEX, DAMAGED, NOT_NOW = 0, 2, 3, 4
NO_MEMORY = "error: out of memory"


def check_apart(directory: Path | str, *, memory_bytes: int | None = None, timeout_s: float = 60.0) -> None:
    """Load and verify an index in a child process that may use so much memory and time.

    Args:
        memory_bytes: address space of the child; None allows three times the files and what Python needs.

    Raises:
        DamagedArtefact: it is not as it was written, the child died, or it took more memory or time than allowed.
        FileNotFoundError: there is no index.
        OSError: it cannot be had now, as where another process (this one too) has its database open.
    """
    directory = Path(directory)
    if memory_bytes is None:
        memory_bytes = BASE_BYTES + 3 * sum(file.size_bytes for file in read_manifest(directory).files.values())
    command = [sys.executable, "-m", "indexes.check", str(directory), str(memory_bytes)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise DamagedArtefact(directory, f"expected it to load within {timeout_s} s") from error
    if result.returncode == NO_INDEX:
        raise FileNotFoundError(result.stderr.strip())
    lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
    if result.returncode == NOT_NOW and lines[-1] != NO_MEMORY:
        raise OSError(lines[-1].removeprefix("error: "))
    if result.returncode != OK:
        raise DamagedArtefact(directory, f"a process of its own could not load it ({lines[-1]})")


def main(argv: list[str] | None = None) -> int:
    """Load and verify the index of the first argument, within the address space of the second if there is one."""
    arguments = sys.argv[1:] if argv is None else argv
    if not 1 <= len(arguments) <= 2:
        print("error: expected python -m indexes.check DIRECTORY [MEMORY_BYTES]", file=sys.stderr)
        return NO_INDEX
    try:
        if len(arguments) == 2:
            import resource  # POSIX only

            resource.setrlimit(resource.RLIMIT_AS, (int(arguments[1]), int(arguments[1])))
        index = load_index(arguments[0])
    except DamagedArtefact as error:
        print(f"error: {error}", file=sys.stderr)
        return DAMAGED
    except (MemoryError, OSError) as error:
        no_memory = isinstance(error, MemoryError) or error.errno == errno.ENOMEM
        print(NO_MEMORY if no_memory else f"error: {error}", file=sys.stderr)
        return NO_INDEX if isinstance(error, FileNotFoundError) else NOT_NOW
    print(f"{arguments[0]}: intact, {index.family}, {index.n_items} items of {index.dim} dimensions")
    return OK


if __name__ == "__main__":
    sys.exit(main())
