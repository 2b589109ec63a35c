"""A bundle on disk: everything a fit produced, in parts their own ecosystems read, published atomically and verified.

encoder/              SentenceTransformer(bundle/encoder)
reranker/             AutoModelForSequenceClassification.from_pretrained(bundle/reranker)
reranker/history/     AutoModel.from_pretrained(bundle/reranker/history), where a history model counts
index/text/, index/items/     faiss.read_index(bundle/index/items/index.faiss), or where it is on Milvus
items.parquet         pandas.read_parquet
users.parquet         user_id, the item rows of its history, oldest first, and its last visit
vectors.safetensors   float32: text vectors (n_items, text_dim), item vectors (n_items, dim), those that GPT-2 learned
head.safetensors      the trained recall head
sources.safetensors   item-item matrices in CSR parts, what was learned of them apart from texts; popularity; the
                      further heads
config.json fusion.json evaluation.json      plain JSON
manifest.json         format version, sha256 and size of every file, model fingerprints, counts, figures
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file as load_arrays

from indexes import DamagedArtefact, load_index, on_device, publish, save_index
from rerank import Reranker
from retrieval.bundle_files import FORMAT_VERSION, KIND, open_bundle, read_json, write_arrays, write_json
from retrieval.catalogue import Catalogue, render_items
from retrieval.config import Config, config_from
from retrieval.data import IdMap, Items
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.fusion import Fusion
from retrieval.recommend import Recommender
from retrieval.sources import DenseSource
from retrieval.stage_one import SourceSettings
from retrieval.stored_sources import load_sources, save_sources
from retrieval.two_stage import TwoStage

_EVALUATION = "evaluation.json"


def save_bundle(
    root: Path,
    recommender: Recommender,
    *,
    evaluation: Mapping[str, Any] | None = None,
    based_on: Path | None = None,
    keep: int = 3,
) -> Path:
    """Publish a recommender as the new current version of the bundle at root; returns the version's directory.

    Args:
        evaluation: stored as evaluation.json; the final list's figures also stand in the manifest.
        based_on: the version whose models these are, over another catalogue: its evaluation is kept where none is
            given; see `indexes.publish` for the rest.
        keep: how many versions stay.

    Raises:
        indexes.Locked: somebody else publishes there, or has done so since `based_on`. OSError: the disk is full. The
            old version stays current.
    """
    model = recommender.model
    if evaluation is None and based_on is not None and (based_on / _EVALUATION).is_file():
        evaluation = read_json(based_on / _EVALUATION)
    facts = {
        "kind": KIND,
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

    def fill(directory: Path) -> None:
        _write(directory, recommender, evaluation)

    return publish(root, fill, facts=facts, keep=keep, based_on=based_on)


def _write(directory: Path, recommender: Recommender, evaluation: Mapping[str, Any] | None) -> None:
    model, histories = recommender.model, recommender.histories
    catalogue = model.catalogue
    dense = next(source for source in model.sources if isinstance(source, DenseSource))
    catalogue.encoder.save(directory / "encoder")
    save_index(catalogue.index, directory / "index" / "text")
    catalogue.items.frame.to_parquet(directory / "items.parquet", index=False)
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    rows = np.concatenate([*histories, np.empty(0, dtype=np.int64)]).astype(np.int32)
    table = pa.table(
        {
            "user_id": pa.array(list(recommender.users.ids), pa.string()),
            "history": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(rows)),
            "away": pa.array(recommender.visits[:, 0]),
            "newest": pa.array(recommender.visits[:, 1]),
        }
    )
    pq.write_table(table, directory / "users.parquet", write_page_checksum=True)
    vectors = {"text": catalogue.text_vectors, "items": dense.item_vectors}
    if model.learned_vectors is not None:
        vectors["learned"] = model.learned_vectors
    write_arrays(directory / "vectors.safetensors", vectors)
    save_sources(directory, model.sources)
    if model.reranker is not None:
        model.reranker.save(directory / "reranker")
    write_json(directory / "config.json", recommender.config.to_dict())
    write_json(directory / "settings.json", asdict(recommender.settings))
    fusions = {"recall": _fusion_dict(model.recall_fusion), "final": _fusion_dict(model.final_fusion)}
    write_json(directory / "fusion.json", fusions)
    if evaluation is not None:
        write_json(directory / _EVALUATION, dict(evaluation))


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


def read_settings(bundle: Path, *, device: str = "auto") -> tuple[Config, SourceSettings, TextEncoder]:
    """How a bundle was fitted, and its text encoder (fine-tuned or not), verified, without loading the rest.

    Raises:
        As `check_bundle`.
    """
    directory, manifest = open_bundle(bundle)
    facts = manifest.facts
    settings = SourceSettings(**read_json(directory / "settings.json"))
    return config_from(read_json(directory / "config.json")), settings, _load_encoder(directory, facts, device)


def _load_encoder(directory: Path, facts: Mapping[str, object], device: str) -> TextEncoder:
    precision = str(facts["encoder_precision"])
    encoder = TextEncoder.load(str(directory / "encoder"), device=device, precision=precision)
    encoder.name = str(facts["encoder"])
    _same(encoder.fingerprint, facts["encoder_fingerprint"], directory / "encoder")
    return encoder


def load_bundle(bundle: Path, *, device: str = "auto", precision: str = "auto", verify: bool = True) -> Recommender:
    """See `Recommender.load`."""
    directory, manifest = open_bundle(bundle, verify=verify)
    facts = manifest.facts
    config = config_from(read_json(directory / "config.json"))
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
    fusions = read_json(directory / "fusion.json")
    model = TwoStage(
        catalogue=catalogue,
        sources=load_sources(directory, catalogue, vectors["items"], config, device=device, verify=verify),
        depths=config.depths,
        recall_fusion=_fusion(fusions["recall"]),
        reranker=reranker,
        final_fusion=_fusion(fusions["final"]),
        learned_vectors=vectors.get("learned"),
    )
    _ = model.details  # made now, so that the first request does not wait for it
    users, histories, visits = _load_users(directory / "users.parquet")
    settings = SourceSettings(**read_json(directory / "settings.json"))
    return Recommender(model, users, histories, visits, config, settings, {"directory": str(directory), **facts})


def _same(found: str, expected: object, place: Path) -> None:
    """A model whose files are intact but whose fingerprint differs was not the one this index was built with."""
    if found != expected:
        raise DamagedArtefact(place, f"its fingerprint is {found[:16]}, the manifest says {str(expected)[:16]}")


def _load_users(path: Path) -> tuple[IdMap, list[np.ndarray], np.ndarray]:
    table = pq.read_table(path, page_checksum_verification=True).combine_chunks()
    users = IdMap.of(table["user_id"].to_pylist())
    lists = table["history"].chunk(0) if table["history"].num_chunks else None
    visits = np.stack([table["away"].to_numpy(), table["newest"].to_numpy()], axis=1)
    if lists is None:
        return users, [], visits
    offsets, rows = lists.offsets.to_numpy(), lists.values.to_numpy().astype(np.int64)
    return users, [rows[start:end] for start, end in pairwise(offsets)], visits
