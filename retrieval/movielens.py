"""An open archive of MovieLens-100K in, its films and its ratings as two tables out.

Two layouts are known, and both give the same tables: GroupLens' own (`u.item`, `u.data`) and RecBole's atomic files
(tab-separated, with `name:type` as header).
"""

from __future__ import annotations

import re
import zipfile

import pandas as pd

MAX_MEMBER_BYTES = 64 << 20  # the largest file read here has 2 MB; a bomb has more
WHEEL_FOLDER = "recbole/dataset_example/ml-100k"
ORIGINAL_FOLDER = "ml-100k"
N_ITEM_FACTS = 5  # u.item: id, title, release date, video date, link; one flag per genre follows
N_RATING_FACTS = 4  # user, item, rating, timestamp

# "Matrix, The" and, for films known by two names, "Tin Drum, The (Blechtrommel, Die)".
_ARTICLES = "The|A|An|La|Le|Les|L'|Il|O|Der|Die|Das|Det|El|Los|Las"
_ARTICLE_LAST = re.compile(rf"(?P<open>^|\()(?P<name>[^()]+), (?P<article>{_ARTICLES})(?P<end>(?= \()|\)|$)")
_YEAR = re.compile(r"\s*\((?P<year>\d{4})\)(?:\s*\(V\))?\s*$")  # (V): made for video
_MISSPELT = {"unkonwn": "unknown"}  # item 267 in RecBole's copy


def read_original(archive: zipfile.ZipFile) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Films and ratings of GroupLens' ml-100k.zip.

    Returns:
        items (item_id, title, category, year) and interactions (user_id, item_id, rating, timestamp), in the
        archive's order; see `retrieval.demo_data.DemoData`.

    Raises:
        ValueError: a file is missing, too large, or has a row that does not fit.
    """
    genre_rows = _rows(archive, f"{ORIGINAL_FOLDER}/u.genre", "|", "latin-1")
    genres = [row[0] for row in sorted(genre_rows, key=lambda row: int(row[1]))]
    films = []
    for row in _rows(archive, f"{ORIGINAL_FOLDER}/u.item", "|", "latin-1"):
        if len(row) != N_ITEM_FACTS + len(genres):
            raise ValueError(f"u.item: expected {N_ITEM_FACTS + len(genres)} fields, got {len(row)}: {row[:2]!r}")
        flags = row[N_ITEM_FACTS:]
        films.append((row[0], row[1], "", [genre for genre, flag in zip(genres, flags, strict=True) if flag == "1"]))
    return _items(films), _interactions(_rows(archive, f"{ORIGINAL_FOLDER}/u.data", "\t", "latin-1"))


def read_wheel(archive: zipfile.ZipFile) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Films and ratings of the ml-100k example inside RecBole's wheel; as `read_original`."""
    films = [
        (item_id, title, year, genres.split())
        for item_id, title, year, genres in _named(
            archive, f"{WHEEL_FOLDER}/ml-100k.item", ("item_id", "movie_title", "release_year", "class")
        )
    ]
    names = ("user_id", "item_id", "rating", "timestamp")
    return _items(films), _interactions(_named(archive, f"{WHEEL_FOLDER}/ml-100k.inter", names))


def tidy_title(text: str) -> tuple[str, int | None]:
    """A title as people write it, and its year where the text has one.

    >>> tidy_title("Tin Drum, The (Blechtrommel, Die) (1979)")
    ('The Tin Drum (Die Blechtrommel)', 1979)
    >>> tidy_title("Enfer, L'")
    ("L'Enfer", None)
    """
    text = " ".join(text.split())
    found = _YEAR.search(text)
    year = int(found["year"]) if found else None
    title = _YEAR.sub("", text) if found and found.start() > 0 else text
    title = _ARTICLE_LAST.sub(_turn, title)
    return _MISSPELT.get(title, title), year


def _turn(match: re.Match[str]) -> str:
    space = "" if match["article"].endswith("'") else " "
    return f"{match['open']}{match['article']}{space}{match['name']}{match['end']}"


def _items(films: list[tuple[str, str, str, list[str]]]) -> pd.DataFrame:
    rows = []
    for item_id, text, year_text, genres in films:
        title, year = tidy_title(text)
        if year_text.isdigit():
            year = int(year_text)
        known = [genre for genre in genres if genre != "unknown"]
        rows.append((item_id, title, ", ".join(known), year))
    frame = pd.DataFrame(rows, columns=["item_id", "title", "category", "year"])
    return frame.astype({"item_id": "str", "title": "str", "category": "str", "year": "Int32"})


def _interactions(rows: list[list[str]]) -> pd.DataFrame:
    for row in rows:
        if len(row) != N_RATING_FACTS:
            raise ValueError(f"ratings: expected {N_RATING_FACTS} fields, got {len(row)}: {row!r}")
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"], dtype="str")
    try:
        frame["rating"] = frame["rating"].astype("float32")
        frame["timestamp"] = frame["timestamp"].astype("float64").astype("int64")
    except ValueError as error:
        raise ValueError(f"the ratings hold something that is no number: {error}") from error
    if not frame["rating"].between(1, 5).all():
        raise ValueError("expected ratings from 1 to 5")
    return frame


def _named(archive: zipfile.ZipFile, name: str, columns: tuple[str, ...]) -> list[list[str]]:
    """The wanted columns, in the order wanted, of a file with a `name:type` header."""
    header, *rows = _rows(archive, name, "\t", "utf-8")
    names = [field.split(":")[0] for field in header]
    if missing := set(columns) - set(names):
        raise ValueError(f"{name}: expected the columns {columns}, {sorted(missing)} are missing")
    places = [names.index(column) for column in columns]
    for row in rows:
        if len(row) != len(names):
            raise ValueError(f"{name}: expected {len(names)} fields, got {len(row)}: {row[:2]!r}")
    return [[row[place] for place in places] for row in rows]


def _rows(archive: zipfile.ZipFile, name: str, separator: str, encoding: str) -> list[list[str]]:
    """Every line with something on it, cut at the separator; at least one."""
    try:
        info = archive.getinfo(name)
        if info.file_size > MAX_MEMBER_BYTES:
            raise ValueError(f"{name}: expected at most {MAX_MEMBER_BYTES:,} bytes, got {info.file_size:,}")
        text = archive.read(info).decode(encoding)
    except KeyError as error:
        raise ValueError(f"expected {name} in the archive, it is not there") from error
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name}: the archive is damaged: {error}") from error
    rows = [line.split(separator) for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    if not rows:
        raise ValueError(f"{name}: expected rows, the file is empty")
    return rows
