"""The candidate sources of a bundle: written to sources.json and arrays, and made again from them.

What follows from the catalogue (the texts, their vectors and index) is not stored a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from indexes import load_index, on_device, save_index
from retrieval.bundle_files import read_json, write_arrays, write_json
from retrieval.catalogue import Catalogue
from retrieval.config import Config
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.text_encoder import resolve_device
from retrieval.sources import (
    ContentSource,
    DenseSource,
    FreshSource,
    HeadSource,
    ItemItemSource,
    LexicalSource,
    PopularSource,
    RecentSource,
    RepeatSource,
    Source,
)

_CSR = ("data", "indices", "indptr")


def save_sources(directory: Path, sources: Sequence[Source]) -> None:
    """Write sources.json, sources.safetensors, head.safetensors and index/items; not the item vectors."""
    dense = next(source for source in sources if isinstance(source, DenseSource))
    save_index(dense.index, directory / "index" / "items")
    save_tensors({k: v.contiguous() for k, v in dense.head.state_dict().items()}, directory / "head.safetensors")
    write_arrays(directory / "sources.safetensors", _arrays(sources))
    write_json(directory / "sources.json", _facts(sources))


def _arrays(sources: Sequence[Source]) -> dict[str, np.ndarray]:
    arrays = {}
    for source in sources:
        if isinstance(source, ItemItemSource):
            arrays |= _parts(source.name, source.matrix)
            if source.text_weight:
                arrays |= _parts(f"{source.name}.learned", source.learned)
        elif isinstance(source, PopularSource | RecentSource):
            arrays[f"{source.name}.scores"] = source.scores
        elif isinstance(source, FreshSource):
            arrays |= {"fresh.edges": source.edges, "fresh.shares": source.shares}
        elif isinstance(source, HeadSource):
            name, weights = source.name, source.head.state_dict()
            arrays |= {f"{name}.vectors": source.item_vectors, f"{name}.beside": source.beside}
            arrays |= {f"{name}.head.{part}": value.cpu().numpy() for part, value in weights.items()}
    return arrays


def _parts(name: str, matrix: sp.csr_matrix) -> dict[str, np.ndarray]:
    return {f"{name}.{part}": getattr(matrix, part) for part in _CSR}


def _matrix(arrays: Mapping[str, np.ndarray], name: str, n_items: int) -> sp.csr_matrix:
    data, indices, indptr = (arrays[f"{name}.{part}"] for part in _CSR)
    return sp.csr_matrix((data, indices, indptr), shape=(n_items, n_items))


def _facts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The order of the sources (it is the order of the features) and their settings."""
    kept = ("decay", "text_weight", "typical")
    return [{"name": s.name, **{key: getattr(s, key) for key in kept if hasattr(s, key)}} for s in sources]


def load_sources(
    directory: Path, catalogue: Catalogue, item_vectors: np.ndarray, config: Config, *, device: str, verify: bool
) -> tuple[Source, ...]:
    """The sources over a loaded catalogue.

    Args:
        item_vectors: float32 (n_items, dim). verify: compare the index with its manifest.
    """
    arrays = load_arrays(directory / "sources.safetensors")

    def loaded(weights: Mapping[str, torch.Tensor]) -> RecallHead:
        head = RecallHead(config.head, text_dim=catalogue.text_vectors.shape[1], n_items=catalogue.n_items)
        head.load_state_dict(weights)
        return head.to(resolve_device(device)).eval()

    head = loaded(load_tensors(directory / "head.safetensors"))
    n_items = catalogue.n_items
    sources: list[Source] = []
    for fact in read_json(directory / "sources.json"):
        name = fact["name"]
        if name == DenseSource.name:
            index = on_device(load_index(directory / "index" / "items", verify=verify), device)
            sources.append(DenseSource(head, index, item_vectors))
        elif f"{name}.beside" in arrays:
            start = f"{name}.head."
            own = {key: torch.from_numpy(value) for key, value in arrays.items() if key.startswith(start)}
            further = loaded({key.removeprefix(start): value for key, value in own.items()})
            sources.append(HeadSource(name, further, arrays[f"{name}.vectors"], arrays[f"{name}.beside"]))
        elif name == ContentSource.name:
            vectors = catalogue.text_vectors
            sources.append(ContentSource(catalogue.encoder, catalogue.index, vectors, decay=fact["decay"]))
        elif name == LexicalSource.name:
            sources.append(LexicalSource(catalogue.texts))
        elif name == PopularSource.name:
            sources.append(PopularSource.of_scores(arrays["popular.scores"]))
        elif name == RecentSource.name:
            sources.append(RecentSource(arrays["recent.scores"]))
        elif name == FreshSource.name:
            sources.append(FreshSource(arrays["fresh.edges"], arrays["fresh.shares"], fact["typical"]))
        elif name == RepeatSource.name:
            sources.append(RepeatSource(n_items, decay=fact["decay"]))
        else:
            matrix, decay, weight = _matrix(arrays, name, n_items), fact["decay"], fact["text_weight"]
            learned = _matrix(arrays, f"{name}.learned", n_items) if weight else None
            sources.append(ItemItemSource(name, matrix, decay=decay, learned=learned, text_weight=weight))
    return tuple(sources)
