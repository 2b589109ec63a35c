"""What a manifest says of an index, checked before any of it is used: whoever wrote the manifest, it may be hostile."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from indexes.errors import DamagedArtefact
from indexes.gpu import CAGRA
from indexes.hits import Param
from indexes.manifest import Json, Manifest
from indexes.milvus_storage import FAMILY as MILVUS

MAX_COUNT = 2**31 - 1
MAX_FACTOR = 1_000
"""Tuning goes up to 8; a search takes memory in proportion."""


@dataclass(frozen=True)
class IndexFacts:
    """The index's own facts."""

    family: str
    params: Mapping[str, Param]
    dim: int
    n_items: int


@dataclass(frozen=True)
class Bounds:
    """What a parameter must be: a number from `low` to `high`, both included."""

    low: int
    high: int
    whole: bool = True
    required: bool = True


_BREADTH = Bounds(0, MAX_FACTOR, whole=False, required=False)
_LISTS = {"n_lists": Bounds(1, MAX_COUNT), "n_probe": Bounds(1, MAX_COUNT), "breadth": _BREADTH}
_GRAPH = {"ef_search": Bounds(1, MAX_COUNT), "breadth": _BREADTH}
PARAMS: dict[str, dict[str, Bounds]] = {
    "exact": {},
    "ivf": _LISTS,
    "ivf_sq8": _LISTS,
    "ivf_pq": {**_LISTS, "refine": Bounds(1, MAX_FACTOR, whole=False, required=False)},
    "ivf_rabitq": _LISTS,
    "hnsw": _GRAPH,
    "hnsw_sq8": _GRAPH,
    CAGRA: _GRAPH,
    MILVUS: {"ef_search": Bounds(1, MAX_COUNT, required=False)},
}
"""By family, the parameters that a search reads; what else is stored says how the index was built."""


def read_facts(directory: Path, manifest: Manifest) -> IndexFacts:
    """Return the facts of an index that `save_index` may have written; anything else is a DamagedArtefact."""
    own = manifest.facts.get("index")
    try:
        return _parse(own if isinstance(own, dict) else {})
    except ValueError as error:
        raise DamagedArtefact(directory, f"its manifest describes no index of ours: {error}") from error


def check_params(family: str, params: Mapping[str, Json], *, n_items: int) -> None:
    """Raise ValueError if a parameter that a search of this family reads is missing or makes no sense."""
    for name, bounds in PARAMS[family].items():
        value = params.get(name)
        if value is None and not bounds.required:
            continue
        high = min(bounds.high, n_items) if name == "n_lists" else bounds.high
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or (bounds.whole and not isinstance(value, int))
            or not bounds.low <= value <= high
        ):
            kind = "an integer" if bounds.whole else "a number"
            raise ValueError(f"{name}: expected {kind} from {bounds.low} to {high}, got {value!r}")


def _parse(own: Mapping[str, Json]) -> IndexFacts:
    family, metric, params = own.get("family"), own.get("metric"), own.get("params")
    if not isinstance(family, str) or family not in PARAMS:
        raise ValueError(f"family: expected one of {', '.join(PARAMS)}, got {family!r}")
    if metric != "inner_product":
        raise ValueError(f"metric: expected 'inner_product', got {metric!r}")
    if not isinstance(params, dict):
        raise ValueError(f"params: expected a table, got {params!r}")
    dim, n_items = _count(own, "dim"), _count(own, "n_items")
    check_params(family, params, n_items=n_items)
    plain = {name: value for name, value in params.items() if isinstance(value, int | float | str)}
    return IndexFacts(family=family, params=plain, dim=dim, n_items=n_items)


def _count(own: Mapping[str, Json], name: str) -> int:
    value = own.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: expected a count, got {value!r}")
    return value
