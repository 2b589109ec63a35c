"""A little shop whose right answers are known by thought, and a recommender fitted on it in seconds.

Four topics of twelve items each stand in a ring: whoever takes item n of a topic takes item n + 1 of the same topic
next (after the last one the first again). Nobody ever leaves a topic. One item per topic is new: nobody took it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retrieval.config import Config, config_from, merge_values
from retrieval.data import IdMap, Interactions, Items
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.two_stage import TwoStage
from tests.tiny import tiny_sentence_transformer

TOPICS = {
    "toy": ("cat", "dog", "bird", "fish"),
    "film": ("drama", "comedy", "action", "robot"),
    "kitchen": ("lamp", "chair", "table", "cup"),
    "outdoor": ("tree", "garden", "car", "tool"),
}
COLOURS = ("red", "blue", "green")
RING = 12
"""Items of a topic that people take."""
USERS_PER_TOPIC = 24
TEXT_DIM = 16


def item_id(topic: str, place: int) -> str:
    """The id of an item of a topic; places wrap round the ring."""
    return f"{topic}-{place % RING:02d}"


def new_item_id(topic: str) -> str:
    """The id of the item of a topic that nobody took."""
    return f"{topic}-new"


def user_id(topic: str, number: int) -> str:
    """The id of one of a topic's users."""
    return f"{topic}-fan-{number:02d}"


def item_frame() -> pd.DataFrame:
    """item_id, title, description, category, brand, and the attributes colour and size; a third has no description."""
    rows = []
    for topic, nouns in TOPICS.items():
        for place in range(RING):
            noun, colour = nouns[place % 4], COLOURS[place // 4]
            about = f"a {colour} {noun} for the {topic}" if place % 3 else ""
            rows.append((item_id(topic, place), f"{colour} {noun}", about, topic, "acme", colour, place))
        rows.append((new_item_id(topic), f"new {nouns[0]}", f"the new {topic} {nouns[0]}", topic, "", "new", RING))
    columns = ["item_id", "title", "description", "category", "brand", "colour", "size"]
    return pd.DataFrame(rows, columns=columns)


def walk_of(number: int) -> list[int]:
    """The places on the ring that user `number` of a topic took, oldest first: 5 to 8 of them, one after another.

    Every place is somebody's last as often as any other: otherwise popularity would tell what is held out.
    """
    return [(number + step) % RING for step in range(5 + (number + number // RING) % 4)]


def interaction_frame() -> pd.DataFrame:
    """user_id, item_id, timestamp (Unix seconds; all users share one clock), in the order of time."""
    rows = [
        (user_id(topic, number), item_id(topic, place), 1_600_000_000 + 1_000 * step + number)
        for topic in TOPICS
        for number in range(USERS_PER_TOPIC)
        for step, place in enumerate(walk_of(number))
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return frame.sort_values("timestamp", kind="stable", ignore_index=True)


def make_items(frame: pd.DataFrame | None = None) -> Items:
    """The item table (of `frame`, if given)."""
    frame = item_frame() if frame is None else frame
    return Items(IdMap.of(frame["item_id"]), frame)


def make_interactions(items: Items, frame: pd.DataFrame | None = None) -> Interactions:
    """The interaction table (of `frame`, if given)."""
    frame = interaction_frame() if frame is None else frame
    users = IdMap.of(dict.fromkeys(frame["user_id"]))
    rows = users.to_rows(frame["user_id"]), items.ids.to_rows(frame["item_id"])
    return Interactions.of(users, items.ids, *rows, frame["timestamp"].to_numpy(dtype=np.float64))


def make_encoder(directory: Path) -> TextEncoder:
    """A text encoder of random weights, in float32, written below the directory."""
    return TextEncoder.load(str(tiny_sentence_transformer(directory, dim=TEXT_DIM)), device="cpu", precision="float32")


def tiny_values(encoder_directory: str | Path = "") -> dict[str, Any]:
    """A configuration that fits the world in seconds, as the plain values of a configuration file."""
    encoder = {"name": str(encoder_directory)} if encoder_directory else {}
    return {
        "device": "cpu",
        "encoder": {"precision": "float32", **encoder},
        "head": {"dim": 16, "n_layers": 1, "n_heads": 2, "history_items": 12, "dropout": 0.0},
        "head_training": {"max_passes": 12, "batch_positions": 64, "learning_rate": 0.01, "warmup_steps": 5},
        "depths": {"per_source": 16, "rerank": 20},
        "lists": {"per_user": 2, "max_lists": 96, "folds": 2, "moments": 3},
        "rerank": {
            "n_layer": 1,
            "n_embd": 32,
            "n_head": 2,
            "n_positions": 128,
            "max_history_items": 10,
            "vector_dim": TEXT_DIM,
            "prior": True,
            "epochs": 1,
            "batch_lists": 8,
            "precision": "float32",
        },
        "history": {"n_layer": 1, "n_embd": 16, "n_head": 2, "history_items": 12, "dropout": 0.0},
        "history_training": {"max_passes": 8, "batch_positions": 64, "learning_rate": 0.01, "warmup_steps": 5},
    }


def tiny_config(**overrides: Any) -> Config:
    """`tiny_values` as a Config, with values on top, e.g. rerank={"epochs": 2}."""
    return config_from(merge_values(tiny_values(), overrides))


@dataclass(frozen=True)
class WorldFiles:
    """The world as somebody's files: what the command line takes."""

    items: Path
    interactions: Path
    config: Path
    encoder: Path


def write_files(directory: Path) -> WorldFiles:
    """Write items.csv, interactions.parquet, config.toml and an encoder into a directory."""
    encoder = tiny_sentence_transformer(directory / "models", dim=TEXT_DIM)
    files = WorldFiles(directory / "items.csv", directory / "interactions.parquet", directory / "config.toml", encoder)
    item_frame().to_csv(files.items, index=False)
    interaction_frame().to_parquet(files.interactions, index=False)
    files.config.write_text(as_toml(tiny_values(encoder)), encoding="utf-8")
    return files


def as_toml(values: Mapping[str, Any]) -> str:
    """Nested plain values as TOML (JSON's spelling of numbers, texts and booleans is TOML's too)."""
    sections = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in sections]
    for name, section in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def heard(model: TwoStage, weight: float = 0.05) -> TwoStage:
    """The model with this weight for what GPT-2 says, in every context."""
    fusion = model.final_fusion
    assert fusion.names[-1] == "rerank_score"
    weights = fusion.weights.reshape(-1, len(fusion.names)).copy()
    weights[:, -1] = 0
    weights[0, -1] = weight
    return replace(model, final_fusion=replace(fusion, weights=weights.ravel()))
