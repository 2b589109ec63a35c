"""The addresses of Milvus: what may be stored, and that nothing of a secret is."""

from pathlib import Path

import pytest

from indexes.milvus_client import check_name, check_uri


@pytest.mark.parametrize("uri", ["http://me:s3cret@host:19530", "https://s3cret@host"])
def test_an_address_with_a_password_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(ValueError, match=r"got 'https?://\*\*\*@host.*TANDEM_MILVUS_TOKEN") as refused:
        check_uri(uri)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:s3@cret@host:19530", "http://***@host:19530"),
        ("http://me:s3/cret@host:19530", "http://***"),
        ("http://me:s3#cret@host", "http://***"),
        ("http://me:s3//cret@host", "http://***"),
        ("me:s3@cret@host", "***@host"),
        ("http://host:1?token=s3cret", "http://host:1/***"),
        ("http://host:1?token=s3@cret", "http://***"),
        ("http://host:1/s3cret", "http://host:1/***"),
        ("http://host:1#s3cret", "http://host:1/***"),
        ("http://me@host\ns3/cret@x", "http://***"),
    ],
)
def test_nothing_of_a_secret_is_shown_or_stored(uri: str, shown: str) -> None:
    with pytest.raises(ValueError, match=r"uri: expected http://HOST:PORT.*TANDEM_MILVUS_TOKEN") as refused:
        check_uri(uri)
    assert f"got {shown!r};" in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        *("host:19530", "items", "ftp://host", "", "http://", "http://[", "http://[x]:1", "http://:19530"),
        *("http://host:99999999", "http://host:x", "http://host?", "http://ho st", "http://host\n"),
    ],
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"uri: expected http://HOST:PORT"):
        check_uri(uri)


def test_a_file_is_named_in_full_and_a_server_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_uri("items.db") == str(tmp_path / "items.db")
    for uri in (
        "http://milvus:19530",
        "https://in03-1.cloud.example.com",
        "tcp://10.0.0.1:19530/",
        "http://[::1]:19530",
    ):
        assert check_uri(uri) == uri


def test_names_that_milvus_refuses_are_refused_before() -> None:
    with pytest.raises(ValueError, match="collection: expected letters, digits and _"):
        check_name("my-items")
