"""Vectors in, rows and scores out: FAISS families and Milvus behind one protocol, published and loaded safely."""

from indexes.choose import FAMILIES, build_index, build_with_report, choose_family, estimate_bytes
from indexes.device import on_device
from indexes.errors import DamagedArtefact, Locked
from indexes.exact import ExactIndex, build_exact
from indexes.filters import filter_mask
from indexes.hits import Hits, Index, merge, recall
from indexes.hnsw import HnswIndex, build_hnsw
from indexes.ivf import IvfIndex
from indexes.ivf_build import build_ivf
from indexes.live import LiveIndex
from indexes.live_storage import load_live, save_live
from indexes.manifest import Manifest, read_manifest, verify_directory, write_manifest
from indexes.milvus import MilvusIndex
from indexes.milvus_build import build_milvus
from indexes.storage import load_index, save_index
from indexes.tuning import Trial, TuningReport, exact_hits, tune
from indexes.versions import check_root, list_versions, publish, resolve, rollback

__all__ = [
    "FAMILIES",
    "DamagedArtefact",
    "ExactIndex",
    "Hits",
    "HnswIndex",
    "Index",
    "IvfIndex",
    "LiveIndex",
    "Locked",
    "Manifest",
    "MilvusIndex",
    "Trial",
    "TuningReport",
    "build_exact",
    "build_hnsw",
    "build_index",
    "build_ivf",
    "build_milvus",
    "build_with_report",
    "check_root",
    "choose_family",
    "estimate_bytes",
    "exact_hits",
    "filter_mask",
    "list_versions",
    "load_index",
    "load_live",
    "merge",
    "on_device",
    "publish",
    "read_manifest",
    "recall",
    "resolve",
    "rollback",
    "save_index",
    "save_live",
    "tune",
    "verify_directory",
    "write_manifest",
]
