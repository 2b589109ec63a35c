"""Dates and times: what may seem to lie in the future, and what only looks like a date."""

import datetime
from types import SimpleNamespace

import pyarrow as pa
import pytest

from retrieval.data import read_interactions
from retrieval.data import times as module
from tests.retrieval.data.writing import HEADER, interactions_csv, jsonl, parquet

NOW = datetime.datetime(2026, 3, 1, 20, 0, tzinfo=datetime.UTC)
"""In Auckland it is the morning of March 2."""


@pytest.fixture(autouse=True)
def it_is_now(monkeypatch):
    monkeypatch.setattr(module, "time", SimpleNamespace(time=NOW.timestamp))


def times_of(tmp_path, *cells, **options):
    """The table of these timestamps and of one that is sound."""
    rows = "".join(f"u,i{n},{cell}\n" for n, cell in enumerate(cells))
    return interactions_csv(tmp_path, HEADER + "u,sound,2026-01-01\n" + rows, **options)


FUTURE = {"timestamp lies in the future": 1}


# Zones


@pytest.mark.parametrize(
    ("cell", "taken"),
    [
        ("2026-03-02T09:30:00", True),
        ("2026-03-02 10:04", True),
        ("2026-03-02T10:06", False),
        ("20260302T0930", True),
        ("2026-03-02", True),
        ("2026-03-03", False),
        ("2026-03-02T09:30:00+13:00", False),
        ("2026-03-02T08:30:00+13:00", True),
        ("2026-03-01T20:30:00Z", False),
        ("2026-03-01 20:30:00-00:00", False),
        (str(int(NOW.timestamp()) + 3600), False),
    ],
)
def test_only_what_has_no_zone_may_be_ahead_of_utc(tmp_path, cell, taken):
    """20:00 in UTC is 10:00 of the next day at most."""
    rejected = dict(times_of(tmp_path, cell).report.rejected)
    assert rejected == ({} if taken else FUTURE)
    rows = [{"user_id": "u", "item_id": "a", "timestamp": stamp} for stamp in (cell, 1767225600)]
    assert dict(read_interactions(jsonl(tmp_path / "x.jsonl", rows), items=None).report.rejected) == rejected


@pytest.mark.parametrize(
    ("kind", "stamp", "taken"),
    [
        (pa.timestamp("us"), datetime.datetime(2026, 3, 2, 10, 4), True),
        (pa.timestamp("ns"), datetime.datetime(2026, 3, 2, 10, 6), False),
        (pa.timestamp("us", "Pacific/Auckland"), NOW + datetime.timedelta(minutes=4), True),
        (pa.timestamp("us", "Pacific/Auckland"), NOW + datetime.timedelta(minutes=6), False),
        (pa.date32(), datetime.date(2026, 3, 2), True),
        (pa.date32(), datetime.date(2026, 3, 3), False),
    ],
)
def test_typed_dates_have_the_same_bounds(tmp_path, kind, stamp, taken):
    stamps = pa.array([stamp, stamp.replace(year=2025)], kind)
    file = parquet(tmp_path / "x.parquet", {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": stamps})
    assert dict(read_interactions(file, items=None).report.rejected) == ({} if taken else FUTURE)


# What is no date, and what is one


@pytest.mark.parametrize("cell", ["today", "now", "Today", " now ", "-2024-01-01"])
def test_words_of_pandas_are_no_dates(tmp_path, cell):
    assert dict(times_of(tmp_path, cell).report.rejected) == {"timestamp is neither a number nor an ISO date": 1}


def stamped(tmp_path, *stamps, **options):
    """Interactions of whole numbers or dates, in this order."""
    rows = "".join(f"u,i{n},{stamp}\n" for n, stamp in enumerate(stamps))
    return interactions_csv(tmp_path, HEADER + rows, **options)


def test_numbers_that_are_all_days_of_the_calendar_are_days_and_told(tmp_path):
    table = stamped(tmp_path, 19700102, 20260103, 20260302)
    day = 86_400
    assert table.times.tolist() == [
        day,
        1_767_398_400,
        1_767_398_400 + (28 + 31 - 1) * day,
    ]  # from January 3 to March 2
    assert table.time_kind == "seconds"
    assert table.report.warnings == (
        "timestamps such as 20260302 were read as days; if they are positions, pass time_unit='positions' "
        "(--time-unit positions)",
    )
    file = parquet(tmp_path / "x.parquet", {"user_id": ["u"], "item_id": ["a"], "timestamp": [20260103]})
    assert read_interactions(file, items=None).times.tolist() == [1_767_398_400]


@pytest.mark.parametrize("other", [20260230, 20261301, 20260303, 20260100, 20260103.5, 19691231, 3])
def test_numbers_of_which_one_is_no_day_until_tomorrow_are_positions_and_told(tmp_path, other):
    table = stamped(tmp_path, 20260103, 20260104, other)
    assert sorted(table.times) == sorted([20260103, 20260104, other])
    assert table.time_kind == "positions"
    assert table.report.warnings[0].startswith("2 of 3 timestamps that are numbers look like days (20260103), but not")


def test_positions_that_now_and_then_look_like_a_day_are_positions(tmp_path):
    table = stamped(tmp_path, *range(20260101, 20260301))
    assert (table.time_kind, table.report.warnings) == ("positions", ())


def test_days_that_are_said_to_be_positions_are_positions(tmp_path):
    table = stamped(tmp_path, 20260103, 20260104, time_unit="positions")
    assert (table.times.tolist(), table.time_kind, table.report.warnings) == ([20260103, 20260104], "positions", ())


def test_days_among_dates_are_told(tmp_path):
    table = stamped(tmp_path, 20260103, "2026-01-04")
    assert table.times.tolist() == [20260103, 1_767_484_800]
    assert "1 of 1 timestamps that are numbers look like days" in table.report.warnings[0]
