"""What an item that nobody took borrows from the taken items most like it, until it has interactions of its own.

Co-occurrence says nothing of a new item, and its text alone says less than text and interactions together. So it gets
the links of its lenders, a link to each lender itself, and their residuals in the recall head. An item with a twin
among the taken ones borrows more than one that resembles nothing: that is what lets it compete with known items.

On masked training items of Amazon Scientific (785 users whose next item is new; the new items among themselves / among
all) the neighbours alone have NDCG@10 .161 / .082 with it and 0 without, BERT content has .153 / .066.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from retrieval.catalogue import Catalogue
from retrieval.encoder.heads import RecallHead
from retrieval.sources.item_items import EXACT_LINKS, keep_largest

BORROWING = ("neighbours", "transitions")
"""Sources whose links are lent. EASE's weights hold only together: a column copied from another is none of its own."""
LENDERS = 10
# Three lenders are too few to tell new items apart, thirty too many for the first to stand out.
_POWER = 4
_OWN = 2.0
"""What a lender in the history says for its borrower, in units of the lender's strongest link."""
_MARKS = {"words": 0.5, "brand": 0.2}
"""Weights of what items visibly share, beside the cosine of their texts."""
_SHORTLIST = 100
_BLOCK = 1_024


def lenders_of(catalogue: Catalogue, new: np.ndarray) -> sp.csr_matrix:
    """Which items lend to which: float32 (n_items, n_items), lenders in rows, new items in columns, sparse.

    A column holds the LENDERS likest of the items that are not new (equal ones by lower row), weighted by the fourth
    power of their likeness, and sums to the likeness of the first.

    Args:
        new: bool (n_items,).
    """
    n_items = catalogue.n_items
    borrowers, known = np.flatnonzero(new), np.flatnonzero(~new)
    rows, columns, weights = [], [], []
    for start in range(0, len(borrowers) if len(known) else 0, _BLOCK):
        block = borrowers[start : start + _BLOCK]
        for borrower, near in zip(block, _nearest(catalogue, block, known), strict=True):
            likeness = _likeness(catalogue, int(borrower), near)
            best = np.lexsort((near, -likeness))[:LENDERS]
            power = likeness[best] ** _POWER
            if power.sum() > 0:
                rows.append(near[best])
                columns.append(np.full(len(best), borrower))
                weights.append(power / power.sum() * likeness[best[0]])
    if not rows:
        return sp.csr_matrix((n_items, n_items), dtype=np.float32)
    places = (np.concatenate(rows), np.concatenate(columns))
    return sp.csr_matrix((np.concatenate(weights).astype(np.float32), places), shape=(n_items, n_items))


def lend_links(matrix: sp.csr_matrix, lenders: sp.csr_matrix, *, per_item: int = 300) -> sp.csr_matrix:
    """The item-by-item matrix with borrowed links: to every new item (column) and from it (row), per_item of each."""
    if not lenders.nnz:
        return matrix
    strongest = np.asarray(abs(matrix).max(axis=1).todense()).ravel()
    lent = sp.csr_matrix(matrix + sp.diags(_OWN * strongest))
    to_new, from_new = sp.csr_matrix(lent @ lenders), sp.csr_matrix(lenders.T @ lent)
    between = sp.csr_matrix(from_new @ lenders)
    between.setdiag(0)
    columns = keep_largest(sp.csr_matrix(to_new.T), per_item).T
    rows = keep_largest(sp.csr_matrix(from_new + between), per_item)
    return sp.csr_matrix(matrix + columns + rows, dtype=np.float32)


def lend_residuals(head: RecallHead, lenders: sp.csr_matrix, new: np.ndarray) -> RecallHead:
    """A copy of the head in which a new item's residual is the mean of its lenders', weighted; zero without lenders."""
    residual = head.residual.weight.detach()
    sums = np.maximum(np.asarray(lenders.sum(axis=0)).ravel(), 1e-9).astype(np.float32)
    borrowed = (lenders.T @ residual.cpu().numpy()) / sums[:, None]
    copy = RecallHead(head.config, text_dim=head.text_map.in_features, n_items=len(residual))
    changed = torch.from_numpy(np.where(new[:, None], borrowed, residual.cpu().numpy()).astype(np.float32))
    copy.load_state_dict({**head.state_dict(), "residual.weight": changed})
    return copy.to(residual.device).eval()


def _nearest(catalogue: Catalogue, rows: np.ndarray, known: np.ndarray) -> list[np.ndarray]:
    """For each row the known items with the nearest texts, at most _SHORTLIST."""
    vectors = catalogue.text_vectors
    if catalogue.n_items > EXACT_LINKS:
        is_known = np.zeros(catalogue.n_items, dtype=bool)
        is_known[known] = True
        found = catalogue.index.search(vectors[rows], _SHORTLIST).rows
        return [near[(near >= 0) & is_known[np.maximum(near, 0)]] for near in found]
    depth = min(_SHORTLIST, len(known))
    cosine = vectors[rows] @ vectors[known].T
    return list(known[np.argpartition(-cosine, depth - 1, axis=1)[:, :depth]])


def _likeness(catalogue: Catalogue, row: int, others: np.ndarray) -> np.ndarray:
    """How much one item resembles others: the cosine of their texts and what they visibly share, float32, 0 or more."""
    total = catalogue.text_vectors[others] @ catalogue.text_vectors[row]
    for name, weight in _MARKS.items():
        if name in catalogue.marks:
            marks = catalogue.marks[name]
            total = total + weight * np.asarray((marks[others] @ marks[row].T).todense()).ravel()
    return np.maximum(total, 0).astype(np.float32)
