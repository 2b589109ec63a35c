"""One TOML file configures everything; what the command line says wins; unknown keys are errors.

Nothing heavy is imported for it: a misspelt key is told at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rerank.config import HistoryModelConfig, RerankConfig
from retrieval.encoder.finetune_config import FinetuneConfig
from retrieval.encoder.head_config import HeadConfig, HeadTraining
from retrieval.model_source import DEFAULT_ENCODER
from retrieval.text import TextConfig

# Over soft tokens a larger model gains nothing clear and trains four times slower. On Amazon Scientific, final list
# minus fusion without it (bench_quality.py): 3 x 192 +.0000 [-.0013, .0014], 4 x 384 +.0007 [-.0002, .0017].
RERANK_DEFAULTS: dict[str, typing.Any] = {
    "n_layer": 3, "n_embd": 192, "n_head": 4, "vector_dim": 640, "prior": True, "epochs": 2
}  # fmt: skip
HISTORY_DEFAULTS: dict[str, typing.Any] = {"max_passes": 10.0, "weight_decay": 0.05, "warmup_steps": 100}


@dataclass(frozen=True)
class EncoderConfig:
    """Which frozen text encoder, and where its vectors are kept.

    name: a sentence-transformers model by hub name or directory. cache: a directory; "" keeps no cache on disk.
    backend: how the transformer is run (retrieval/encoder/forward.py).
    workers: processes that share large catalogues on the CPU.
    finetune: train BERT itself first (`never`, `always`, or `auto`: only on a GPU).
    """

    name: str = DEFAULT_ENCODER
    precision: typing.Literal["auto", "float32", "bfloat16"] = "auto"
    cache: str = ""
    backend: typing.Literal["auto", "packed", "padded", "openvino"] = "auto"
    workers: int = 1
    finetune: typing.Literal["auto", "never", "always"] = "auto"


@dataclass(frozen=True)
class IndexConfig:
    """family: auto, exact, ivf, hnsw and their variants."""

    family: str = "auto"


@dataclass(frozen=True)
class Depths:
    """How many items pass each step: what a source gives, and how many candidates are reranked and returned.

    all_blocks: of a list longer than this, only so many candidates go through all of GPT-2's blocks, chosen by its
        first half; 0 sends all of them. Used only if NDCG@10 on validation stays within 1 % (`Reranker.fit_cascade`).
    """

    per_source: int = 200
    rerank: int = 100
    all_blocks: int = 0

    def __post_init__(self) -> None:
        if self.per_source < 1 or self.rerank < 1:
            raise ValueError(f"depths: expected 1 or more, got per_source={self.per_source}, rerank={self.rerank}")
        if self.all_blocks < 0:
            raise ValueError(f"depths: all_blocks: expected 0 (all candidates) or more, got {self.all_blocks}")


@dataclass(frozen=True)
class ListsConfig:
    """Where the reranker's training lists and the validation come from.

    validation: what everything is chosen by: `last`, everybody's newest interaction, or `time`, the newest tenth of all
        interactions, for lists that are made once and shown long after; `auto` is `last`, and in an evaluation what its
        split is.
    validation_users: so many users at the most give their newest interaction to validation.
    stop_share: the share of them that only stops the reranker's training; the fusion is fitted on the others.
    folds: parts of the users; the sources behind a part's lists never saw its users. The more, the nearer are these
    sources to those of serving, which saw everybody: on Amazon Scientific GPT-2 adds .0008 to NDCG@10 with two folds,
    .0014 with four.
    moments: with validation by time, so many earlier moments; the sources behind their lists never saw what follows.
    per_user, max_lists: positions per user (up to four times as many where users are few), and lists in all, at the
    most. What GPT-2 adds grows with their number: on
    Amazon Beauty (validation) .0030 of NDCG@10 with 16,000 lists, .0044 with 34,000.
    rounds: where a round of folds gives less than half of max_lists, users are dealt into folds again, up to so many
    times: the same positions, but seen by other sources. On Amazon Scientific (validation) GPT-2 adds -.0003 +- .0006
    with the 8,500 lists of one round, +.0015 +- .0009 with two.
    new_items: the share of items that the lists (and a part of the validation) treat as if nobody had taken them, so
    that new items are judged by what is known of them; 0 for a catalogue that never changes. By time no item is made
    new: enough are.
    """

    validation: typing.Literal["auto", "last", "time"] = "auto"
    validation_users: int = 10_000
    stop_share: float = 0.25
    folds: int = 4
    rounds: int = 3
    moments: int = 8
    per_user: int = 8
    max_lists: int = 40_000
    new_items: float = 0.1

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds: expected 2 or more, got {self.folds}")
        if self.rounds < 1:
            raise ValueError(f"rounds: expected 1 or more, got {self.rounds}")
        if self.moments < 1:
            raise ValueError(f"moments: expected 1 or more, got {self.moments}")
        if not 0 < self.stop_share < 1:
            raise ValueError(f"stop_share: expected a number between 0 and 1, got {self.stop_share}")
        if not 0 <= self.new_items < 1:
            raise ValueError(f"new_items: expected a share from 0 to below 1, got {self.new_items}")

    @property
    def by_time(self) -> bool:
        """Whether a moment parts what is held out."""
        return self.validation == "time"


@dataclass(frozen=True)
class Config:
    """Every choice of a fit. The reranker's vector_dim and n_features, and the history model's vector_dim, are set from
    the data."""

    seed: int = 0
    device: str = "auto"
    keep_seen: bool = False
    use_reranker: bool = True
    text: TextConfig = field(default_factory=TextConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    head_training: HeadTraining = field(default_factory=HeadTraining)
    index: IndexConfig = field(default_factory=IndexConfig)
    depths: Depths = field(default_factory=Depths)
    lists: ListsConfig = field(default_factory=ListsConfig)
    rerank: RerankConfig = field(default_factory=lambda: RerankConfig(**RERANK_DEFAULTS))
    use_history_model: bool = True
    history: HistoryModelConfig = field(default_factory=HistoryModelConfig)
    history_training: HeadTraining = field(default_factory=lambda: HeadTraining(**HISTORY_DEFAULTS))

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {self.seed}")

    def to_dict(self) -> dict[str, typing.Any]:
        """Plain values for JSON or TOML; `config_from` reads them back."""
        return TypeAdapter(Config).dump_python(self, mode="json")


def config_from(values: Mapping[str, typing.Any]) -> Config:
    """A Config from plain values; what is not named keeps its default.

    Raises:
        ValueError: an unknown key (the nearest known one is named) or a value of the wrong type or range.
    """
    defaults = Config().to_dict()
    _refuse_unknown(values, Config, "")
    try:
        # From JSON, because only there "strict" takes a mapping for a dataclass, and refuses "7" and true for a number.
        return TypeAdapter(Config).validate_json(json.dumps(merge_values(defaults, values), default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":  # our own sentence, which says what it got
            raise ValueError(f"configuration: {place}: {first['msg'].removeprefix('Value error, ')}") from None
        raise ValueError(f"configuration: {place}: {first['msg']}, got {first['input']!r}") from None


def read_config(path: Path | None, overrides: Mapping[str, typing.Any] | None = None) -> Config:
    """A TOML file (None for the defaults) with overrides on top, e.g. {"rerank": {"epochs": 2}}.

    Raises:
        ValueError: the file is no TOML, or see `config_from`. FileNotFoundError: there is no such file.
    """
    values: Mapping[str, typing.Any] = {}
    if path is not None:
        if not path.is_file():
            raise FileNotFoundError(f"configuration {str(path)!r} is not a file; write one or leave --config out")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a TOML file: {error}") from None
    return config_from(merge_values(values, overrides or {}))


def parse_override(text: str) -> dict[str, typing.Any]:
    """`rerank.epochs=2` -> {"rerank": {"epochs": 2}}; the value is read as TOML, else as a bare string.

    Raises:
        ValueError: there is no "=".
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set: expected SECTION.KEY=VALUE, got {text!r}")
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value
    result: typing.Any = parsed
    for part in reversed(key.strip().split(".")):
        result = {part: result}
    return result


def to_toml(values: Mapping[str, typing.Any], *, section: str = "") -> str:
    """Plain values as TOML: keys first, then sections; a key without a value stands in a comment."""
    lines = [f"[{section}]"] if section else []
    inner = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner.append(to_toml(value, section=f"{section}.{key}" if section else key))
        else:
            lines.append(f"# {key} = (none)" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join([*lines, *(f"\n{part}" for part in inner)])


def merge_values(base: Mapping[str, typing.Any], over: Mapping[str, typing.Any]) -> dict[str, typing.Any]:
    """Nested mappings are merged; anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge_values(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _sections_with(key: str) -> list[str]:
    """The keys of this very name inside a section, as SECTION.KEY."""
    hints = typing.get_type_hints(Config)
    sections = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    return [f"{name}.{key}" for name, kind in sections.items() if key in {one.name for one in dataclasses.fields(kind)}]


def _refuse_unknown(values: Mapping[str, typing.Any], kind: type, prefix: str) -> None:
    hints = typing.get_type_hints(kind)
    known = {entry.name for entry in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in known:
            near = [f"{prefix}{name}" for name in difflib.get_close_matches(key, known, n=1)]
            near = (_sections_with(key) or near) if kind is Config else near
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(sorted(known))}"
            raise ValueError(f"configuration: unknown key {prefix}{key}{hint}")
        inner = hints[key]
        if isinstance(inner, types.UnionType):
            continue
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            if not isinstance(value, Mapping):
                raise ValueError(f"configuration: {prefix}{key}: expected a section, got {value!r}")
            _refuse_unknown(value, inner, f"{prefix}{key}.")
