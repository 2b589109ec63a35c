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
from retrieval.sources.item_items import keep_largest

BORROWING = ("neighbours", "transitions", "walk")
"""Sources whose links are lent. EASE's weights hold only together: a column copied from another is none of its own."""
LENDERS = 10
# Three lenders are too few to tell new items apart, thirty too many for the first to stand out.
_POWER = 4
_OWN = 2.0
"""What a lender in the history says for its borrower, in units of the lender's strongest link."""
_MARKS = {"words": 0.5, "brand": 0.2}
"""Weights of what items visibly share, beside the cosine of their texts."""
_SHORTLIST = 100
_BLOCK = 256
_MOST_LINKS, _FEWEST_LINKS = 20_000_000, 10


def lenders_of(catalogue: Catalogue, new: np.ndarray) -> sp.csr_matrix:
    """Which items lend to which: float32 (n_items, n_items), lenders in rows, new items in columns, sparse.

    A column holds the LENDERS likest of the items that are not new (equal ones by lower row), weighted by the fourth
    power of their likeness, and sums to the likeness of the first.

    Args:
        new: bool (n_items,).
    """
    n_items = catalogue.n_items
    total = sp.csr_matrix((n_items, n_items), dtype=np.float32)
    every = np.flatnonzero(new)
    parts = []
    for start in range(0, len(every) if not new.all() else 0, _BLOCK):
        borrowers, others = _nearest(catalogue, every[start : start + _BLOCK], ~new)
        likeness = _likeness(catalogue, borrowers, others)
        order = np.lexsort((others, -likeness, borrowers))
        borrowers, others, likeness = borrowers[order], others[order], likeness[order]
        first = np.searchsorted(borrowers, borrowers)
        kept = (np.arange(len(order)) - first < LENDERS) & (likeness > 0)
        power = likeness**_POWER * kept
        sums = np.bincount(borrowers, weights=power, minlength=n_items)[borrowers]
        weights = (power / np.where(kept, sums, 1) * likeness[first]).astype(np.float32)
        parts.append((weights[kept], others[kept], borrowers[kept]))
    if parts:
        weights, rows, columns = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        total = sp.csr_matrix((weights, (rows, columns)), shape=total.shape)
    return total


def lend_links(matrix: sp.csr_matrix, lenders: sp.csr_matrix, *, per_item: int = 300) -> sp.csr_matrix:
    """The item-by-item matrix with borrowed links: to every new item (column) and from it (row), per_item of each.

    New items have no links among themselves: what two of them borrow says less of a pair than their texts do. Where
    there are very many new items they have fewer links each, so that all together stay below _MOST_LINKS.
    """
    borrowed = sp.csr_matrix(lenders.T)
    new = np.flatnonzero(np.diff(borrowed.indptr))
    if not len(new):
        return matrix
    per_item = min(per_item, max(_FEWEST_LINKS, _MOST_LINKS // len(new)))
    strongest = np.asarray(abs(matrix).max(axis=1).todense()).ravel()
    lent = sp.csr_matrix(matrix + sp.diags(_OWN * strongest))
    back = sp.csr_matrix(lent.T)
    to_new, from_new = [], []
    for start in range(0, len(new), _BLOCK):
        block = new[start : start + _BLOCK]
        from_new.append(keep_largest(sp.csr_matrix(borrowed[block] @ lent), per_item))
        to_new.append(keep_largest(sp.csr_matrix(borrowed[block] @ back), per_item))
    place = sp.csr_matrix(
        (np.ones(len(new), np.float32), (new, np.arange(len(new)))), shape=(len(lent.indptr) - 1, len(new))
    )
    rows, columns = place @ sp.vstack(from_new), (place @ sp.vstack(to_new)).T
    return sp.csr_matrix(matrix + rows + columns, dtype=np.float32)


def lend_residuals(head: RecallHead, lenders: sp.csr_matrix, new: np.ndarray) -> RecallHead:
    """A copy of the head in which a new item's residual is the mean of its lenders', weighted; zero without lenders.

    The head itself where nothing is new.
    """
    if not new.any():
        return head
    residual = head.residual.weight.detach()
    sums = np.maximum(np.asarray(lenders.sum(axis=0)).ravel(), 1e-9).astype(np.float32)
    borrowed = (lenders.T @ residual.cpu().numpy()) / sums[:, None]
    copy = RecallHead(head.config, text_dim=head.text_map.in_features, n_items=len(residual))
    changed = torch.from_numpy(np.where(new[:, None], borrowed, residual.cpu().numpy()).astype(np.float32))
    copy.load_state_dict({**head.state_dict(), "residual.weight": changed})
    return copy.to(residual.device).eval()


def _nearest(catalogue: Catalogue, rows: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the _SHORTLIST nearest texts among known items (a mask): pairs of rows, both int64 (n_pairs,)."""
    found = catalogue.index.search(catalogue.text_vectors[rows], _SHORTLIST, allowed=known).rows
    some = found >= 0
    return np.repeat(rows, some.sum(axis=1)), found[some]


def _likeness(catalogue: Catalogue, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much items resemble each other, pair by pair: the cosine of their texts and what they visibly share.

    Returns:
        float32 (n_pairs,), 0 or more.
    """
    total = np.einsum("ij,ij->i", catalogue.text_vectors[rows], catalogue.text_vectors[others])
    for name, weight in _MARKS.items():
        if name in catalogue.marks:
            marks = catalogue.marks[name]
            total = total + weight * np.asarray(marks[rows].multiply(marks[others]).sum(axis=1)).ravel()
    return np.maximum(total, 0).astype(np.float32)
