"""Publishes in child processes that are killed, or run out of disk, at chosen points; prints what was seen.

Run as `python -m tests.indexes.fault_driver kill|full ROOT POINTS`, one JSON object out. The children are
forked to save the imports, which is safe here because this process searches with one thread only.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss

from indexes import list_versions
from tests.indexes.world import mark_of, publish_mark

OPERATIONS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


def die_at(point: int) -> list[int]:
    """Kill this process in its `point`-th file operation, half of a write done; returns the running count."""
    count = [0]

    def wrap(name: str, real: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            count[0] += 1
            if count[0] == point:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return wrapped

    for name in OPERATIONS:
        setattr(os, name, wrap(name, getattr(os, name)))
    return count


def in_child(work: Callable[[], int]) -> tuple[int, int]:
    """Run `work` in a child; returns (exit status or 0, signal or 0)."""
    child = os.fork()
    if child == 0:
        try:
            status = work()
        except OSError:
            status = 4
        os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended) if os.WIFEXITED(ended) else 0, os.WTERMSIG(ended)


def count_operations(root: Path) -> int:
    """Publish once undisturbed, with a version to prune, and return how many file operations that took."""
    read_end, write_end = os.pipe()

    def work() -> int:
        write = os.write
        count = die_at(0)
        publish_mark(root, 1, keep=1)
        write(write_end, str(count[0]).encode())
        return 0

    in_child(work)
    os.close(write_end)
    return int(os.read(read_end, 100))


def kill(root: Path, points: int) -> dict[str, object]:
    publish_mark(root, 0, keep=1)
    n_operations = count_operations(root)
    rng, current, seen = random.Random(0), 1, {"old": 0, "new": 0}
    started = time.perf_counter()
    publish_mark(root, current, keep=1)
    duration_s = time.perf_counter() - started
    for number in range(points):
        mark = 2 + number
        by_operation = number % 2 == 0 or points <= n_operations
        point = 1 + (number * n_operations) // points if by_operation else 0

        def work(mark: int = mark, point: int = point) -> int:
            die_at(point)
            if point == 0:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 1.2 * duration_s))
            publish_mark(root, mark, keep=1)
            return 0

        rng.random()
        in_child(work)
        found = mark_of(root)
        if found not in (current, mark):
            raise AssertionError(f"point {number}: expected mark {current} or {mark}, got {found}")
        seen["new" if found == mark else "old"] += 1
        current = found
    publish_mark(root, 1_000, keep=1)
    debris = [path.name for path in (root / "versions").iterdir() if path.name.startswith(".tmp")]
    return {**seen, "operations": n_operations, "debris": debris, "versions": len(list_versions(root))}


def limit_size(size: int, *, from_rename: bool) -> None:
    """Let no file of this process grow beyond `size` bytes, from now or from when the new version is in its place."""
    if not from_rename:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return
    rename = os.rename

    def limited(*args) -> None:
        rename(*args)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    os.rename = limited


def full(root: Path, points: int) -> dict[str, object]:
    first = publish_mark(root, 0)
    largest, pointer = 20_000, (root / "CURRENT").stat().st_size
    sizes = [largest * i // points for i in range(points)] + [largest - 1, largest - 100, largest - 4095]
    # The pointer is the smallest file: only a disk that is full once the version is complete fails there.
    limits = [(size, False) for size in sizes] + [(pointer * i // points, True) for i in range(points)]
    statuses: dict[int, int] = {}
    for size, at_pointer in limits:

        def work(size: int = size, at_pointer: bool = at_pointer) -> int:
            limit_size(size, from_rename=at_pointer)
            publish_mark(root, 1)
            return 0

        status, _ = in_child(work)
        statuses[status] = statuses.get(status, 0) + 1
        if mark_of(root) != 0:
            raise AssertionError(f"limit {size}: the current version changed")
        if list_versions(root) != [first]:
            raise AssertionError(f"limit {size}: a version stayed that was never current")
    publish_mark(root, 2)
    debris = [path.name for path in (root / "versions").iterdir() if path.name.startswith(".tmp")]
    return {"statuses": statuses, "after": mark_of(root), "debris": debris}


if __name__ == "__main__":
    faiss.omp_set_num_threads(1)
    scenario = {"kill": kill, "full": full}[sys.argv[1]]
    print(json.dumps(scenario(Path(sys.argv[2]), int(sys.argv[3]))))
