"""Loads index files that were altered together with their manifests, each in a child; prints how that ended.

Run as `python -m tests.indexes.hostile_driver DIRECTORY FILES`: DIRECTORY is of `save_index`. The children are forked
(this process searches with one thread only), may take 3 GiB and 20 s, and report their memory.
"""

import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
from pathlib import Path

import faiss

from indexes import DamagedArtefact, load_index, read_manifest, write_manifest

HUGE = [0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 33, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Alter one to three fields, mostly where the sizes stand."""
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(4, min(len(data) - 8, 400 if rng.random() < 0.7 else len(data)))
        kind = rng.random()
        if kind < 0.4:
            spoiled[at] ^= 1 << rng.randrange(8)
        elif kind < 0.8:
            spoiled[at : at + 8] = struct.pack("<Q", rng.choice(HUGE))
        else:
            del spoiled[at : at + rng.randrange(1, 64)]
    return bytes(spoiled)


def forge(source: Path, target: Path, data: bytes) -> None:
    """Copy an index directory with another index file and a manifest that fits it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    facts = read_manifest(source).facts
    (target / "manifest.json").unlink()
    (target / "index.faiss").write_bytes(data)
    write_manifest(target, facts=facts)


def load_in_child(directory: Path) -> tuple[str, int]:
    """Return how loading ended, and the child's largest memory in KiB."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        signal.alarm(20)
        try:
            load_index(directory)
        except DamagedArtefact:
            os._exit(3)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}", usage.ru_maxrss
    return {0: "loaded", 3: "refused"}.get(os.WEXITSTATUS(status), "error"), usage.ru_maxrss


def main(source: Path, n_files: int) -> dict[str, object]:
    rng, target = random.Random(0), source.with_name("forged")
    good = (source / "index.faiss").read_bytes()
    forge(source, target, good)
    outcome, honest_kib = load_in_child(target)
    ends: dict[str, int] = {}
    worst_kib = 0
    for _ in range(n_files):
        forge(source, target, mutate(good, rng))
        end, memory_kib = load_in_child(target)
        ends[end] = ends.get(end, 0) + 1
        worst_kib = max(worst_kib, memory_kib)
    return {"honest": outcome, "honest_kib": honest_kib, "worst_kib": worst_kib, "ends": ends}


if __name__ == "__main__":
    faiss.omp_set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
