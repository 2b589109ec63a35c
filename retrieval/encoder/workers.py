"""Slices of texts in, their vectors out in the order in which they get done, by spawned processes.

On many cores the small products of a small BERT scale badly over threads; processes do not wait for one another.
Starting them takes some ten seconds, so they pay from some ten thousand texts on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np
import torch

Encode = Callable[[list[str]], np.ndarray]
_encode: Encode | None = None
"""In a worker: what it loaded."""


def map_in_processes(
    load: Callable[[], Encode], slices: Sequence[list[str]], *, n_workers: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The number of a slice and its vectors, float32 (n_texts, dim), for every slice.

    Args:
        load: called once in every worker, which gets it pickled; what it returns encodes a slice.
        n_workers: at the most; the threads of this process are divided among them.

    Raises:
        ChildProcessError: a worker died. Whatever else a slice raises in a worker is raised here.
    """
    n_workers = min(n_workers, len(slices))
    n_threads = max(1, torch.get_num_threads() // n_workers)
    pool = ProcessPoolExecutor(n_workers, get_context("spawn"), _start, (load, n_threads))
    running: dict[Future[np.ndarray], int] = {}
    waiting = enumerate(slices)
    try:
        while True:
            # One slice more than is being worked on for every worker: nobody waits, and memory does not grow.
            while len(running) < 2 * n_workers and (job := next(waiting, None)):
                running[pool.submit(_run, job[1])] = job[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                yield number, future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"one of {n_workers} encoding processes could not start or died, maybe for want of memory: use fewer "
            'workers; a program of your own does its work under `if __name__ == "__main__":`, as for every spawn'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(load: Callable[[], Encode], n_threads: int) -> None:
    global _encode
    torch.set_num_threads(n_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encode = load()


def _run(texts: list[str]) -> np.ndarray:
    assert _encode is not None  # noqa: S101
    return _encode(texts)
