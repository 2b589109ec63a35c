"""Vectors in, rows and scores out: FAISS index families behind one protocol, published and loaded safely."""

from indexes.choose import FAMILIES, build_index, choose_family
from indexes.errors import DamagedArtefact, Locked
from indexes.exact import ExactIndex, build_exact
from indexes.filters import filter_mask
from indexes.hits import Hits, Index, merge, recall
from indexes.hnsw import HnswIndex, build_hnsw
from indexes.ivf import IvfIndex, build_ivf
from indexes.manifest import Manifest, read_manifest, verify_directory, write_manifest
from indexes.storage import load_index, save_index
from indexes.versions import list_versions, publish, resolve, rollback

__all__ = [
    "FAMILIES",
    "DamagedArtefact",
    "ExactIndex",
    "Hits",
    "HnswIndex",
    "Index",
    "IvfIndex",
    "Locked",
    "Manifest",
    "build_exact",
    "build_hnsw",
    "build_index",
    "build_ivf",
    "choose_family",
    "filter_mask",
    "list_versions",
    "load_index",
    "merge",
    "publish",
    "read_manifest",
    "recall",
    "resolve",
    "rollback",
    "save_index",
    "verify_directory",
    "write_manifest",
]
