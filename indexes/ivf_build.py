"""Builds inverted lists: a sample teaches the projection, the clusters and the codes, then the vectors are added."""

import math

import numpy as np

from indexes.gpu import adding_on_gpu, training_on_gpu
from indexes.hits import Param, check_queries
from indexes.ivf import IVF_FAMILIES, IvfIndex
from indexes.kernel import new_lists
from indexes.projection import learn_projection
from indexes.vectors import Progress, blocks, check_shape, sample_rows

POINTS_PER_LIST = 39
"""Fewer training points per list and FAISS warns that the clusters are not to be trusted."""
TRAINING_POINTS_PER_LIST = 40
MIN_TRAINING_ROWS = 1_000
"""Codes are learnt from clusters too; a smaller sample is repeated."""
KMEANS_ROUNDS = 4
"""Ten find 0.9443 where four find 0.9433 (32,000 x 384, 54 of 715 lists), in twice the time."""
LISTS_PER_ROOT, PQ_LISTS_PER_ROOT = 4, 2
KEEP = 0.975
"""Of the best hits, by a projection: enough for a recall of 0.95 at a small price, and far from enough for 0.97."""


def default_n_lists(n_items: int, *, family: str = "ivf_sq8") -> int:
    """Return a multiple of the root of n, and never so many that a list lacks training points.

    Short codes are scanned so fast that choosing lists costs as much: "ivf_pq" takes half as many.
    """
    per_root = PQ_LISTS_PER_ROOT if family == "ivf_pq" else LISTS_PER_ROOT
    return max(1, min(int(per_root * math.sqrt(n_items)), n_items // POINTS_PER_LIST))


def build_ivf(
    vectors: np.ndarray,
    *,
    family: str = "ivf_sq8",
    n_lists: int | None = None,
    n_probe: int | None = None,
    code_bits: int = 8,
    keep: float = KEEP,
    queries: np.ndarray | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> IvfIndex:
    """Train on a sample and add in blocks; deterministic for a seed, a number of threads and a device.

    Args:
        vectors: float32 (n_items, dim), an array or a memory map; row i of the index is row i of it.
        family: one of IVF_FAMILIES.
        n_lists: None takes `default_n_lists`.
        n_probe: None probes a tenth of the lists; `build_index` tunes it.
        code_bits: 6 or 8, per dimension, of the codes that order the hits of "ivf_pq" (behind a projection always
            eight) or of "ivf_rabitq"; six reach a recall of 0.95, eight of 0.97 and more.
        keep: the share of the best hits that the projection of "ivf_pq" must keep, 1 for none; there is none either
            where it would leave more than four fifths of the dimensions.
        queries: float32 (q, dim), real queries for which the projection must keep them; None takes some vectors.
        device: "auto" lets faiss-gpu cluster and assign where there is a GPU; the index is the CPU's all the same.
    """
    n_items, dim = check_shape(vectors)
    n_lists = default_n_lists(n_items, family=family) if n_lists is None else n_lists
    _check_options(n_items, family=family, n_lists=n_lists, code_bits=code_bits, keep=keep)
    sample = _sample(vectors, n_lists, seed)
    n_probe = max(1, math.ceil(n_lists / 10)) if n_probe is None else n_probe
    params: dict[str, Param] = {"n_lists": n_lists, "n_probe": n_probe, "breadth": 2, "seed": seed}
    projection = None
    if family == "ivf_pq":
        asked = None if queries is None else check_queries(queries, 1, dim)
        projection = learn_projection(sample, asked, n_items=n_items, keep=keep, seed=seed)
        params |= {"refine": 4, "code_bits": code_bits if projection is None else 8}
        params |= {} if projection is None else {"n_dims": len(projection)}
    elif family == "ivf_rabitq":
        params |= {"code_bits": code_bits}
    index = new_lists(dim, n_lists, family=family, code_bits=code_bits, projection=projection)
    built = IvfIndex(index, family, params)
    with training_on_gpu(built.lists, device):
        _train(built, sample, seed=seed, progress=progress)
    with adding_on_gpu(built.lists, device):
        for block in blocks(vectors, progress=progress):
            index.add(block)
    return built


def _check_options(n_items: int, *, family: str, n_lists: int, code_bits: int, keep: float) -> None:
    if not 1 <= n_lists <= n_items:
        raise ValueError(f"n_lists: expected 1 to {n_items} (the number of items), got {n_lists}")
    if family not in IVF_FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(IVF_FAMILIES)}, got {family!r}")
    if code_bits not in (6, 8):
        raise ValueError(f"code_bits: expected 6 or 8, got {code_bits!r}")
    if not 0 < keep <= 1:
        raise ValueError(f"keep: expected a share over 0 and at most 1, got {keep!r}")


def _sample(vectors: np.ndarray, n_lists: int, seed: int) -> np.ndarray:
    """Draw the vectors to learn from."""
    sample = sample_rows(vectors, max(MIN_TRAINING_ROWS, n_lists * TRAINING_POINTS_PER_LIST), seed=seed)
    if not np.isfinite(sample).all():
        for _ in blocks(vectors):  # names the row
            pass
    return sample


def _train(built: IvfIndex, sample: np.ndarray, *, seed: int, progress: Progress | None) -> None:
    """Cluster the sample and learn the codes on it."""
    if len(sample) < MIN_TRAINING_ROWS:
        sample = np.resize(sample, (MIN_TRAINING_ROWS, sample.shape[1]))
    clustering = built.lists.cp
    clustering.seed, clustering.niter = (seed + 1) % 2**31, KMEANS_ROUNDS  # an int of C
    clustering.min_points_per_centroid = 1  # its warning on stderr says less than default_n_lists does
    if progress is not None:
        progress("train", 0, len(sample))
    built.faiss_index.train(sample)  # type: ignore[call-arg]
    if progress is not None:
        progress("train", len(sample), len(sample))
