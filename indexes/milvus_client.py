"""The way to a Milvus server: an address in, a client out; what goes wrong on the way is said in one line.

http://host:19530 or https://... is a server. A file name that ends in .db is milvus-lite, the same client code on a
directory of this machine, which one process at a time may open.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from indexes.errors import Locked

TOKEN_VARIABLE = "TANDEM_MILVUS_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the server's token ("user:password" or an API key); secrets never go into a file."""
TIMEOUT_S = 60.0
"""For one call; without it pymilvus goes on for minutes after a server that has gone."""
CONNECT_TIMEOUT_S = 10.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")


def check_uri(uri: str) -> str:
    """Return the address as it may be stored: a server's as it is, a file's in full.

    Raises:
        ValueError: neither a file ending in .db nor scheme, host and port of a server alone; what follows those or
            stands before them may be a secret, and is not repeated.
    """
    text = str(uri)
    if text.endswith(".db") and "://" not in text:
        return str(Path(text).expanduser().absolute())
    if not _is_server(text):
        raise ValueError(
            f"uri: expected http://HOST:PORT, https://HOST:PORT or a file ending in .db, got {_safe(text)!r}; "
            f"USER:PASSWORD or an API key goes into the environment variable {TOKEN_VARIABLE}"
        )
    return text


def _is_server(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port  # each ValueError where it is none
    except ValueError:
        return False
    # Compared with all of the text: urlsplit takes a path, a query or a fragment for one, empty ones too.
    plain = re.fullmatch(r"\w+://[^\s@/?#\\]+/?", uri)
    return parts.scheme in ("http", "https", "tcp") and bool(host) and plain is not None


def check_name(name: str) -> str:
    """Return a name that Milvus takes for a collection, or say what is wrong with it."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"collection: expected letters, digits and _, not beginning with a digit, got {name!r}")
    return name


def is_local(uri: str) -> bool:
    """Tell whether a checked address is a file of milvus-lite."""
    return uri.endswith(".db") and "://" not in uri


def import_pymilvus() -> Any:
    """Return the module pymilvus, or say how to install it."""
    try:
        import pymilvus
    except ImportError as error:
        raise ImportError('Milvus needs an extra: pip install ".[milvus]"') from error
    # They log every error with a traceback before they raise it (the server of milvus-lite also each call that it does
    # not know); what is raised says enough.
    for name in ("pymilvus", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus


def connect(uri: str, *, make: bool = False) -> Any:
    """Return a client of the server at a checked address; threads may share it.

    Args:
        make: make a .db file that is not there, and the directories above it.

    Raises:
        FileNotFoundError: the .db file is not there. ValueError: it is to be made where another file is.
        ImportError: pymilvus is missing. ConnectionError: nobody answers, or the token is refused.
        indexes.Locked: another process has the file open.
    """
    client = import_pymilvus().MilvusClient
    if is_local(uri):
        import_lite()
        place = Path(uri)
        if not make and not place.is_dir():
            raise FileNotFoundError(f"{uri}: expected a milvus-lite database there; was it moved or deleted?")
        if place.exists() and not place.is_dir():
            raise ValueError(
                f"{uri}: expected a milvus-lite database (a directory) or nothing, got a file; name another"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
    with talking_to(uri):
        return client(uri=uri, token=os.environ.get(TOKEN_VARIABLE, ""), timeout=CONNECT_TIMEOUT_S)


def import_lite() -> None:
    """Say how to install milvus-lite where it is missing."""
    try:
        import milvus_lite  # noqa: F401
    except ImportError as error:
        raise ImportError('a .db file needs milvus-lite: pip install ".[milvus]"') from error


@contextmanager
def talking_to(uri: str) -> Iterator[None]:
    """Turn the errors of pymilvus into ours.

    Raises:
        indexes.Locked: see `connect`. ConnectionError: every other answer that is none.
    """
    import grpc

    try:
        yield
    except (import_pymilvus().MilvusException, grpc.RpcError) as error:
        reason = str(getattr(error, "message", "") or error).strip() or type(error).__name__
        if is_local(uri) and "Open local milvus failed" in reason:
            raise Locked(f"{uri}: milvus-lite cannot open it; does another process have it open?") from error
        raise ConnectionError(
            f"Milvus at {uri}: expected an answer, got: {reason}; is it running, and is {TOKEN_VARIABLE} right?"
        ) from error


def _safe(uri: str) -> str:
    """An address as it may be shown: its scheme, and its host and port where it is sure which they are."""
    scheme, rest = re.fullmatch(r"(\w*://)?(.*)", uri, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    user, at, place = rest.rpartition("@")
    if re.search(r"[/?#]", user):
        return f"{scheme}***"
    return scheme + ("***@" if at else "") + re.sub(r"[/?#].+", "/***", place, flags=re.DOTALL)
