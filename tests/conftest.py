"""Fixtures shared by all tests: the world of tests/world.py, fitted once per session."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retrieval.config import Config
from retrieval.data import Interactions, Items
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.fit import Fitted, fit
from retrieval.recommend import Recommender
from retrieval.storage import save_bundle
from tests import world


def pytest_configure() -> None:
    """One thread for torch: tiny matrices gain nothing from more, and lose tenfold where the cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def items() -> Items:
    """The world's item table."""
    return world.make_items()


@pytest.fixture(scope="session")
def interactions(items: Items) -> Interactions:
    """The world's interaction table."""
    return world.make_interactions(items)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    """A tiny text encoder in float32."""
    return world.make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def config() -> Config:
    """The configuration that `fitted` was fitted with."""
    return world.tiny_config()


@pytest.fixture(scope="session")
def fitted(items: Items, interactions: Interactions, config: Config, encoder: TextEncoder) -> Fitted:
    """A recommender fitted on the whole world, in which GPT-2 counts a little. Nobody may change it.

    So few users tell no gain by it, and where it does not count it is not asked: then no test would hear it.
    """
    found = fit(items, interactions, config, encoder=encoder)
    return replace(found, model=world.heard(found.model))


@pytest.fixture(scope="session")
def unpublished(fitted: Fitted, interactions: Interactions, config: Config) -> Recommender:
    """A recommender around `fitted` that has never been on disk."""
    return Recommender.of(fitted.model, interactions, config, fitted.settings)


@pytest.fixture(scope="session")
def bundle(unpublished: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a published bundle of `fitted`. Nobody may change it: copy it first."""
    root = tmp_path_factory.mktemp("bundles") / "world"
    save_bundle(root, unpublished)
    return root


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def recommender(bundle: Path) -> Recommender:
    """The bundle, loaded."""
    return Recommender.load(bundle, device="cpu", precision="float32")


@pytest.fixture(scope="session")
def by_time(items: Items, interactions: Interactions, encoder: TextEncoder) -> Recommender:
    """A recommender chosen by time, without GPT-2. Nobody may change it."""
    chosen = world.tiny_config(lists={"validation": "time"}, use_reranker=False)
    found = fit(items, interactions, chosen, encoder=encoder)
    return Recommender.of(found.model, interactions, chosen, found.settings)
