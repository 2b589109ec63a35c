"""The options that say how tables are read: every training verb has them, and each does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.cli import main
from retrieval.cli_tables import Reading, Teller, column_map, event_weights, map_of, read_items_table, read_tables
from tests import world

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
    items, taken = read_tables(*tables, reading, Teller(quiet=True))
    assert dict(zip(items.ids.ids, items.frame["title"], strict=True)) == {
        "1": "Caf\u00e9 cups",
        "2": "Tea pot again",
        "3": "",
    }
    assert len(taken) == 3
    assert len(taken.negatives) == 1
    assert "unheard" in (tmp_path / "refused" / "interactions.rejects.jsonl").read_text(encoding="utf-8")


def test_milliseconds_are_read_where_the_option_that_the_error_names_says_so(tmp_path: Path) -> None:
    items, interactions = tmp_path / "items.csv", tmp_path / "interactions.csv"
    items.write_text("item_id,title\n1,Cup\n")
    interactions.write_text("user_id,item_id,timestamp\nanna,1,1700000000000\n")
    with pytest.raises(ValueError, match="--time-unit milliseconds"):
        read_tables(items, interactions, Reading(), Teller(quiet=True))
    taken = read_tables(items, interactions, Reading(time_unit="milliseconds"), Teller(quiet=True))[1]
    assert taken.times.tolist() == [1.7e9]


def test_a_warning_is_logged_and_not_said_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    items, interactions = tmp_path / "items.csv", tmp_path / "interactions.csv"
    items.write_text("item_id,title\n1,Cup\n")
    interactions.write_text("user_id,item_id,timestamp,colour\nanna,1,2026-01-03,red\n")
    read_tables(items, interactions, Reading(), Teller(quiet=False))
    said = capsys.readouterr().err
    assert "columns that are not read: colour" in caplog.text
    assert not any("colour" in line for line in said.splitlines() if line.startswith("["))
    assert "1 of 1 rows kept" in said


def test_a_map_is_a_name_that_a_table_has_and_a_column() -> None:
    both = ("items", "interactions")
    assert column_map(["user_id=customer", "items.title=name"], *both) == {"user_id": "customer", "items.title": "name"}
    assert map_of({"title": "a", "items.title": "b", "interactions.item_id": "c"}, "items") == {"title": "b"}
    for wrong, message in [
        ("user_id", "expected NAME=COLUMN or TABLE.NAME=COLUMN, got 'user_id'"),
        ("titel=name", "expected a name that a table has .items: item_id, title, .*; interactions: .*got 'titel=name'"),
        ("items.user_id=name", "expected a name that a table has .*got 'items.user_id=name'"),
        ("users.user_id=name", "expected a name that a table has"),
    ]:
        with pytest.raises(ValueError, match=f"--map: {message}"):
            column_map([wrong], *both)
    with pytest.raises(ValueError, match="--map: expected one column for title, got 'a' and 'b'"):
        column_map(["title=a", "title=b"], *both)


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, Path]:
    """Two tables that call the item by different names."""
    items, interactions = tmp_path / "items.csv", tmp_path / "interactions.csv"
    items.write_text("sku,name,kind\n1,Tea pot,Kitchen\n2,Cup,Kitchen\n", encoding="utf-8")
    interactions.write_text("user_id,item_id,timestamp,clicked\na,1,1,1\na,2,2,1\n", encoding="utf-8")
    return items, interactions


@pytest.mark.parametrize(
    "maps",
    [
        ["items.item_id=sku", "items.title=name", "category=kind"],
        ["item_id=sku", "title=name", "items.category=kind"],
        ["item_id=sku", "interactions.item_id=item_id", "title=name", "category=kind"],
    ],
)
def test_a_map_goes_to_the_table_that_is_named_or_that_has_the_column(shop: tuple[Path, Path], maps: list[str]) -> None:
    items, taken = read_tables(*shop, Reading(maps=maps), Teller(quiet=True))
    assert items.ids.ids.tolist() == ["1", "2"]
    assert items.frame["title"].tolist() == ["Tea pot", "Cup"]
    assert items.frame["category"].tolist() == ["Kitchen", "Kitchen"]
    assert len(taken) == 2


def test_an_optional_column_may_be_left_unread(shop: tuple[Path, Path]) -> None:
    maps = ["item_id=sku", "title=name", "interactions.label=clicked"]
    with pytest.raises(ValueError, match="expected labels of both kinds"):
        read_tables(*shop, Reading(maps=maps), Teller(quiet=True))
    maps = ["item_id=sku", "title=name", "label="]
    assert len(read_tables(*shop, Reading(maps=maps), Teller(quiet=True))[1]) == 2


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], r"items.csv: expected columns item_id, title; .*Say which column it is: --map items.item_id=COLUMN"),
        (["items.item_id=sku"], r"missing title\. Say which column it is: --map items.title=COLUMN"),
        (["item_id=nr", "title=name"], r"items.csv: expected columns nr, name; .*--map items.item_id=COLUMN"),
        (["item_id=sku", "title=name", "category=sort"], r"expected a column 'sort' to read as category; found 'kind'"),
        (["item_id=sku", "title=name", "user_id=who"], r"interactions.csv: .*missing who.*--map interactions.user_id="),
        (
            ["item_id=sku", "title=name", "event=what"],
            r"expected a column 'what' to read as event.*interactions.event=",
        ),
    ],
)
def test_an_unknown_column_gets_a_hint_that_works(shop: tuple[Path, Path], maps: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tables(*shop, Reading(maps=maps), Teller(quiet=True))


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (
            Reading(maps=["user_id=who"]),
            "--map: expected columns of the items, as no --interactions are read, got user_id",
        ),
        (Reading(maps=["interactions.item_id=x"]), "--map: expected columns of the items"),
        (Reading(events=["buy=1"]), "--event: expected --interactions with it"),
    ],
)
def test_items_alone_have_no_options_of_interactions(tables: tuple[Path, Path], reading: Reading, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_items_table(tables[0], reading, Teller(quiet=True))


def test_events_without_a_column_of_events_are_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = world.write_files(tmp_path)
    arguments = [
        "fit",
        "-q",
        "--items",
        files.items,
        "--interactions",
        files.interactions,
        "--out",
        tmp_path / "bundle",
    ]
    assert main([str(part) for part in [*arguments, "--event", "buy=1"]]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(f"error: {files.interactions}: expected a column event, since events are weighed (--event)")
    assert not (tmp_path / "bundle").exists()


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
    rows = ("--on-duplicate", "--allow-empty", "--rejects", "--max-bad-rows")
    for option in ("--map", "--event", "--encoding", "--time-unit", *rows):
        assert option in printed


def test_a_repeated_item_id_is_one_line_and_exit_code_2(
    tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, interactions = (str(path) for path in tables)
    arguments = ["fit", "--items", items, "--interactions", interactions, "--out", str(tmp_path / "bundle")]
    assert main([*arguments, "--encoding", "latin-1", "-q"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("quiet", [True, False])
def test_what_was_refused_is_told_even_when_quiet(tables, capsys, quiet):
    """An event that was not asked for is none of that."""
    items, interactions = tables
    with interactions.open("a", encoding="utf-8") as file:
        file.write("c,1,4,buy\nc,9,5,buy\n")
    reading = Reading(maps=["user_id=customer"], events=["buy=1"], encoding="latin-1", on_duplicate="last")
    read_tables(items, interactions, reading, Teller(quiet))
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("WARNING: ")]
    expected = [
        f"WARNING: items: refused 1 of 4 rows ({items}): text is empty: no letter or digit in title, "
        "description, category, brand (1)",
        f"WARNING: interactions: refused 1 of 7 rows ({interactions}): item_id is not in the item table (1)",
    ]
    assert lines == (expected if quiet else [])
    assert ("refused 1: item_id is not in the item table" in told) == (not quiet)


def test_a_rebuild_that_removes_something_says_so_even_when_quiet(capsys):
    for quiet, removed in ((True, True), (True, False), (False, True)):
        Teller(quiet).of_changes("published 2: 3 items", removed=removed)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "WARNING: published 2: 3 items"
    assert second.endswith(" s] published 2: 3 items")


def test_an_example_of_a_refused_row_shows_what_stands_there(tables):
    items, interactions = tables
    interactions.write_text("user_id,item_id,timestamp\na,01,1\na,02,17.01.2024 08:15\n", encoding="utf-8")
    reading = Reading(encoding="latin-1", on_duplicate="last", allow_empty=True)
    with pytest.raises(ValueError, match=r"interactions.csv:2: item_id is not in the item table, got '01'; .*:3: "):
        read_tables(items, interactions, reading, Teller(quiet=True))
    interactions.write_text("user_id,item_id,timestamp\na,2,17.01.2024 08:15\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"is neither a number nor an ISO date, got '17.01.2024 08:15'"):
        read_tables(items, interactions, reading, Teller(quiet=True))
