"""The options that say how tables are read: every training verb has them, and each does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.cli import main
from retrieval.cli_tables import Reading, column_map, event_weights, read_tables

ITEMS = "item_id,title\n1,Caf\u00e9 cups\n2,Tea pot\n3,\n2,Tea pot again\n"
INTERACTIONS = "customer,item_id,timestamp,event\na,1,1,buy\na,2,2,view\nb,2,1,buy\nb,1,2,skip\nb,1,3,unheard\n"


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """An item table in latin-1 with a repeated id and an empty item, and interactions with another column name."""
    items, interactions = tmp_path / "items.csv", tmp_path / "interactions.csv"
    items.write_text(ITEMS, encoding="latin-1")
    interactions.write_text(INTERACTIONS, encoding="utf-8")
    return items, interactions


def test_the_options_reach_the_readers(tables: tuple[Path, Path], tmp_path: Path) -> None:
    reading = Reading(
        maps=["user_id=customer"],
        events=["buy=1", "view=0.5", "skip=0"],
        encoding="latin-1",
        on_duplicate="last",
        allow_empty=True,
        rejects=tmp_path / "refused",
    )
    items, taken = read_tables(*tables, reading, lambda line: None)
    assert dict(zip(items.ids.ids, items.frame["title"], strict=True)) == {
        "1": "Caf\u00e9 cups",
        "2": "Tea pot again",
        "3": "",
    }
    assert len(taken) == 3
    assert len(taken.negatives) == 1
    assert "unheard" in (tmp_path / "refused" / "interactions.rejects.jsonl").read_text(encoding="utf-8")


def test_a_map_needs_both_names() -> None:
    assert column_map(["user_id=customer"]) == {"user_id": "customer"}
    with pytest.raises(ValueError, match=r"--map: expected NAME=COLUMN, got 'user_id'"):
        column_map(["user_id"])


def test_an_event_needs_a_number() -> None:
    assert event_weights(None) is None
    assert event_weights(["a=b=2"]) == {"a=b": 2.0}
    for wrong in ("buy", "buy=much", "=1"):
        with pytest.raises(ValueError, match="--event: expected NAME=WEIGHT"):
            event_weights([wrong])


@pytest.mark.parametrize("verb", ["fit", "train-encoder", "train-reranker", "build-index", "evaluate"])
def test_every_reading_verb_has_the_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    for option in ("--map", "--event", "--encoding", "--on-duplicate", "--allow-empty", "--rejects", "--max-bad-rows"):
        assert option in printed


def test_a_repeated_item_id_is_one_line_and_exit_code_2(
    tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, interactions = (str(path) for path in tables)
    arguments = ["fit", "--items", items, "--interactions", interactions, "--out", str(tmp_path / "bundle")]
    assert main([*arguments, "--encoding", "latin-1", "-q"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "bundle").exists()
