"""A rotated head gives the same scores, and its items lie where another head's do."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from retrieval.encoder.align import align_head
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.train import embed_items, embed_users
from retrieval.fit_steps import train_recall_head
from retrieval.histories import histories_of
from retrieval.sources import DenseSource
from tests.retrieval.test_heads import CONFIG, N_ITEMS, RING, TEXT_DIM, TEXT_VECTORS


@pytest.fixture
def head() -> RecallHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        head = RecallHead(CONFIG, text_dim=TEXT_DIM, n_items=N_ITEMS).eval()
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return head


def scores_of(head: RecallHead) -> np.ndarray:
    items = embed_items(head, TEXT_VECTORS)
    return embed_users(head, items, RING) @ items.T


def random_rotation(dim: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0].astype(np.float32)


def test_a_head_that_was_only_turned_is_turned_back(head):
    reference = embed_items(head, TEXT_VECTORS) @ random_rotation(CONFIG.dim)
    turned = copy.deepcopy(head)
    align_head(turned, TEXT_VECTORS, reference)
    np.testing.assert_allclose(embed_items(turned, TEXT_VECTORS), reference, atol=1e-5)
    np.testing.assert_allclose(scores_of(turned), scores_of(head), atol=1e-5)


def test_any_reference_keeps_the_scores_and_is_nearer_after(head):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(N_ITEMS, CONFIG.dim)).astype(np.float32)
    reference = embed_items(head, TEXT_VECTORS) @ random_rotation(CONFIG.dim) + 0.1 * noise
    before = (embed_items(head, TEXT_VECTORS) * reference).sum()
    turned = copy.deepcopy(head)
    align_head(turned, TEXT_VECTORS, reference)
    assert (embed_items(turned, TEXT_VECTORS) * reference).sum() > before + 1
    np.testing.assert_allclose(scores_of(turned), scores_of(head), atol=1e-5)


def test_another_shape_is_refused(head):
    with pytest.raises(ValueError, match=r"expected a reference of shape \(12, 16\), got \(12, 4\)"):
        align_head(head, TEXT_VECTORS, np.ones((N_ITEMS, 4), dtype=np.float32))


def test_a_refit_stays_in_the_space_of_the_head_before(items, interactions, config, fitted):
    catalogue, histories = fitted.model.catalogue, histories_of(interactions)
    before = next(source for source in fitted.model.sources if isinstance(source, DenseSource)).head
    weights = copy.deepcopy(before.state_dict())
    other = replace(config, seed=config.seed + 1)  # another seed begins in another space
    fresh = train_recall_head(catalogue, histories, other, passes=12.0).head
    there = embed_items(before, catalogue.text_vectors)
    again = train_recall_head(catalogue, histories, other, passes=12.0, space=there).head
    near, far = ((embed_items(head, catalogue.text_vectors) * there).sum(axis=1).mean() for head in (again, fresh))
    assert near > far + 0.2
    assert all(torch.equal(weights[name], value) for name, value in before.state_dict().items())
