"""A bundle on disk: everything a fit produced, in parts their own ecosystems read, published atomically and verified.

encoder/              SentenceTransformer(bundle/encoder)
reranker/             AutoModelForSequenceClassification.from_pretrained(bundle/reranker)
reranker/history/     AutoModel.from_pretrained(bundle/reranker/history), where a history model counts
index/text/, index/items/     faiss.read_index(bundle/index/items/index.faiss), or where it is on Milvus
items.parquet         pandas.read_parquet
users.parquet         user_id, the item rows of its history, oldest first, and how long the user had been away
vectors.safetensors   text vectors (n_items, text_dim) and item vectors (n_items, dim), float32
head.safetensors      the trained recall head
sources.safetensors   item-item matrices in CSR parts and popularity
config.json fusion.json evaluation.json      plain JSON
manifest.json         format version, sha256 and size of every file, model fingerprints, counts, figures
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from indexes import (
    DamagedArtefact,
    load_index,
    on_device,
    publish,
    read_manifest,
    resolve,
    save_index,
    verify_directory,
)
from rerank import Reranker
from retrieval.catalogue import Catalogue, render_items
from retrieval.config import Config, config_from
from retrieval.data import IdMap, Items
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.text_encoder import TextEncoder, resolve_device
from retrieval.fusion import Fusion
from retrieval.recommend import Recommender
from retrieval.sources import (
    ContentSource,
    DenseSource,
    ItemItemSource,
    LexicalSource,
    PopularSource,
    RecentSource,
    RepeatSource,
    Source,
)
from retrieval.stage_one import SourceSettings
from retrieval.two_stage import TwoStage

FORMAT_VERSION = 6
_PARTS = ("items.parquet", "users.parquet", "vectors.safetensors", "head.safetensors", "sources.safetensors")
_PARTS += ("config.json", "settings.json", "fusion.json", "sources.json")


def save_bundle(
    root: Path, recommender: Recommender, *, evaluation: Mapping[str, Any] | None = None, keep: int = 3
) -> Path:
    """Publish a recommender as the new current version of the bundle at root; returns the version's directory.

    Args:
        evaluation: stored as evaluation.json; the final list's figures also stand in the manifest.
        keep: how many versions stay.

    Raises:
        indexes.Locked: somebody else publishes there. OSError: the disk is full; the old version stays current.
    """
    model = recommender.model
    facts = {
        "kind": "tandem-bundle",
        "format_version": FORMAT_VERSION,
        "n_items": model.catalogue.n_items,
        "n_users": len(recommender.users),
        "n_interactions": int(sum(len(history) for history in recommender.histories)),
        "encoder": model.catalogue.encoder.name,
        "encoder_fingerprint": model.catalogue.encoder.fingerprint,
        "encoder_precision": model.catalogue.encoder.precision,
        "reranker": None if model.reranker is None else model.reranker.config.model,
        "reranker_fingerprint": None if model.reranker is None else model.reranker.fingerprint,
        "fusion_contributions": model.final_fusion.contributions,
        "figures": {
            "validation_ndcg@10": model.final_fusion.figures["fused"]["held_out"],
            **(evaluation or {}).get("stages", {}).get("final", {}),
        },
    }
    return publish(root, lambda directory: _write(directory, recommender, evaluation), facts=facts, keep=keep)


def _write(directory: Path, recommender: Recommender, evaluation: Mapping[str, Any] | None) -> None:
    model, histories = recommender.model, recommender.histories
    catalogue = model.catalogue
    dense = next(source for source in model.sources if isinstance(source, DenseSource))
    catalogue.encoder.save(directory / "encoder")
    save_index(catalogue.index, directory / "index" / "text")
    save_index(dense.index, directory / "index" / "items")
    catalogue.items.frame.to_parquet(directory / "items.parquet", index=False)
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    rows = np.concatenate([*histories, np.empty(0, dtype=np.int64)]).astype(np.int32)
    table = pa.table(
        {
            "user_id": pa.array(list(recommender.users.ids), pa.string()),
            "history": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(rows)),
            "away": pa.array(recommender.away, pa.float32()),
        }
    )
    pq.write_table(table, directory / "users.parquet", write_page_checksum=True)
    save_arrays({"text": catalogue.text_vectors, "items": dense.item_vectors}, directory / "vectors.safetensors")
    save_tensors({k: v.contiguous() for k, v in dense.head.state_dict().items()}, directory / "head.safetensors")
    save_arrays(_source_arrays(model.sources), directory / "sources.safetensors")
    if model.reranker is not None:
        model.reranker.save(directory / "reranker")
    _write_json(directory / "config.json", recommender.config.to_dict())
    _write_json(directory / "settings.json", asdict(recommender.settings))
    fusions = {"recall": _fusion_dict(model.recall_fusion), "final": _fusion_dict(model.final_fusion)}
    _write_json(directory / "fusion.json", fusions)
    _write_json(directory / "sources.json", _source_facts(model.sources))
    if evaluation is not None:
        _write_json(directory / "evaluation.json", dict(evaluation))


def _source_arrays(sources: Sequence[Source]) -> dict[str, np.ndarray]:
    arrays = {}
    for source in sources:
        if isinstance(source, ItemItemSource):
            for part in ("data", "indices", "indptr"):
                arrays[f"{source.name}.{part}"] = np.ascontiguousarray(getattr(source.matrix, part))
        elif isinstance(source, PopularSource | RecentSource):
            arrays[f"{source.name}.scores"] = source.scores
    return arrays


def _source_facts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The order of the sources (it is the order of the features) and their settings."""
    kept = ("decay", "text_weight")
    return [{"name": s.name, **{key: getattr(s, key) for key in kept if hasattr(s, key)}} for s in sources]


def _fusion_dict(fusion: Fusion) -> dict[str, Any]:
    arrays = {name: getattr(fusion, name).tolist() for name in ("weights", "context_mean", "context_deviation")}
    return {**asdict(fusion), **arrays, "names": list(fusion.names)}


def _fusion(values: Mapping[str, Any]) -> Fusion:
    return Fusion(
        names=tuple(values["names"]),
        weights=np.array(values["weights"], dtype=np.float64),
        context_mean=np.array(values["context_mean"], dtype=np.float64),
        context_deviation=np.array(values["context_deviation"], dtype=np.float64),
        calibration=tuple(values["calibration"]),
        figures=values["figures"],
    )


def check_bundle(bundle: Path) -> dict[str, Any]:
    """Verify every file of a bundle (a root or a version); returns the manifest's facts.

    Raises:
        FileNotFoundError: there is no bundle. indexes.DamagedArtefact: the first file that is not as it was written.
    """
    directory = resolve(bundle)
    manifest = verify_directory(directory)
    _require_parts(directory)
    for part in ("text", "items"):
        load_index(directory / "index" / part)
    return {"directory": str(directory), "n_files": len(manifest.files), **dict(manifest.facts)}


def read_settings(bundle: Path, *, device: str = "auto") -> tuple[Config, SourceSettings, TextEncoder]:
    """How a bundle was fitted, and its text encoder (fine-tuned or not), verified, without loading the rest."""
    directory = resolve(bundle)
    facts = dict(verify_directory(directory).facts)
    settings = SourceSettings(**_read_json(directory / "settings.json"))
    return config_from(_read_json(directory / "config.json")), settings, _load_encoder(directory, facts, device)


def _load_encoder(directory: Path, facts: Mapping[str, object], device: str) -> TextEncoder:
    precision = str(facts["encoder_precision"])
    encoder = TextEncoder.load(str(directory / "encoder"), device=device, precision=precision)
    encoder.name = str(facts["encoder"])
    _same(encoder.fingerprint, facts["encoder_fingerprint"], directory / "encoder")
    return encoder


def load_bundle(bundle: Path, *, device: str = "auto", precision: str = "auto", verify: bool = True) -> Recommender:
    """See `Recommender.load`."""
    directory = resolve(bundle)
    manifest = verify_directory(directory) if verify else read_manifest(directory)
    facts = dict(manifest.facts)
    if facts.get("kind") != "tandem-bundle" or facts.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{directory}: expected a tandem bundle of format {FORMAT_VERSION}, got kind {facts.get('kind')!r} of "
            f"format {facts.get('format_version')!r}; build it again, or install the version that wrote it"
        )
    _require_parts(directory)
    config = config_from(_read_json(directory / "config.json"))
    encoder = _load_encoder(directory, facts, device)
    frame = pd.read_parquet(directory / "items.parquet")
    items = Items(IdMap.of(frame["item_id"]), frame)
    vectors = load_arrays(directory / "vectors.safetensors")
    texts, titles = render_items(items, config.text)
    index = on_device(load_index(directory / "index" / "text", verify=verify), device)
    catalogue = Catalogue(items, texts, titles, vectors["text"], index, encoder, config.text)
    reranker = None
    if facts["reranker"] is not None:
        reranker = Reranker.load(directory / "reranker", device=device, precision=precision)
        _same(reranker.fingerprint, facts["reranker_fingerprint"], directory / "reranker")
    fusions = _read_json(directory / "fusion.json")
    model = TwoStage(
        catalogue=catalogue,
        sources=_load_sources(directory, catalogue, vectors["items"], config, device, verify),
        depths=config.depths,
        recall_fusion=_fusion(fusions["recall"]),
        reranker=reranker,
        final_fusion=_fusion(fusions["final"]),
    )
    _ = model.details  # made now, so that the first request does not wait for it
    users, histories, away = _load_users(directory / "users.parquet")
    settings = SourceSettings(**_read_json(directory / "settings.json"))
    return Recommender(model, users, histories, away, config, settings, {"directory": str(directory), **facts})


def _require_parts(directory: Path) -> None:
    """A bundle without one of its parts is damaged, whether or not its manifest knows of that part."""
    for name in _PARTS:
        if not (directory / name).is_file():
            raise DamagedArtefact(directory / name, "expected this file, it is missing")


def _same(found: str, expected: object, place: Path) -> None:
    """A model whose files are intact but whose fingerprint differs was not the one this index was built with."""
    if found != expected:
        raise DamagedArtefact(place, f"its fingerprint is {found[:16]}, the manifest says {str(expected)[:16]}")


def _load_sources(
    directory: Path, catalogue: Catalogue, item_vectors: np.ndarray, config: Config, device: str, verify: bool
) -> tuple[Source, ...]:
    arrays = load_arrays(directory / "sources.safetensors")
    head = RecallHead(config.head, text_dim=catalogue.text_vectors.shape[1], n_items=catalogue.n_items)
    head.load_state_dict(load_tensors(directory / "head.safetensors"))
    head = head.to(resolve_device(device)).eval()
    n_items = catalogue.n_items
    sources: list[Source] = []
    for fact in _read_json(directory / "sources.json"):
        name = fact["name"]
        if name == DenseSource.name:
            index = on_device(load_index(directory / "index" / "items", verify=verify), device)
            sources.append(DenseSource(head, index, item_vectors))
        elif name == ContentSource.name:
            vectors = catalogue.text_vectors
            sources.append(ContentSource(catalogue.encoder, catalogue.index, vectors, decay=fact["decay"]))
        elif name == LexicalSource.name:
            sources.append(LexicalSource(catalogue.texts))
        elif name == PopularSource.name:
            sources.append(PopularSource.of_scores(arrays["popular.scores"]))
        elif name == RecentSource.name:
            sources.append(RecentSource(arrays["recent.scores"]))
        elif name == RepeatSource.name:
            sources.append(RepeatSource(n_items, decay=fact["decay"]))
        else:
            parts = (arrays[f"{name}.data"], arrays[f"{name}.indices"], arrays[f"{name}.indptr"])
            matrix = sp.csr_matrix(parts, shape=(n_items, n_items))
            sources.append(ItemItemSource(name, matrix, decay=fact["decay"], text_weight=fact["text_weight"]))
    return tuple(sources)


def _load_users(path: Path) -> tuple[IdMap, list[np.ndarray], np.ndarray]:
    table = pq.read_table(path, page_checksum_verification=True).combine_chunks()
    users = IdMap.of(table["user_id"].to_pylist())
    lists = table["history"].chunk(0) if table["history"].num_chunks else None
    away = table["away"].to_numpy().astype(np.float32)
    if lists is None:
        return users, [], away
    offsets, rows = lists.offsets.to_numpy(), lists.values.to_numpy().astype(np.int64)
    return users, [rows[start:end] for start, end in pairwise(offsets)], away


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, default=float, sort_keys=False), encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
