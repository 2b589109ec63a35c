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
        ValueError: neither an address nor a file ending in .db, or an address with a password in it.
    """
    text = str(uri)
    if text.endswith(".db") and "://" not in text:
        return str(Path(text).expanduser().absolute())
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https", "tcp") or not parts.hostname:
        raise ValueError(
            f"uri: expected http://HOST:PORT, https://HOST:PORT or a file ending in .db, got {_safe(text)!r}"
        )
    if parts.username or parts.password:
        raise ValueError(
            f"uri: expected an address without user and password, got {_safe(text)!r}; put USER:PASSWORD or the API "
            f"key into the environment variable {TOKEN_VARIABLE}"
        )
    return text


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
        raise ImportError('Milvus needs an extra: pip install "tandem-recommender[milvus]"') from error
    # They log every error with a traceback before they raise it (the server of milvus-lite also each call that it does
    # not know); what is raised says enough.
    for name in ("pymilvus", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus


def connect(uri: str) -> Any:
    """Return a client of the server at a checked address; threads may share it.

    Raises:
        ImportError: pymilvus is missing. ConnectionError: nobody answers, or the token is refused.
        indexes.Locked: another process has the file open.
    """
    client = import_pymilvus().MilvusClient
    if is_local(uri):
        import_lite()
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    with talking_to(uri):
        return client(uri=uri, token=os.environ.get(TOKEN_VARIABLE, ""), timeout=CONNECT_TIMEOUT_S)


def import_lite() -> None:
    """Say how to install milvus-lite where it is missing."""
    try:
        import milvus_lite  # noqa: F401
    except ImportError as error:
        raise ImportError('a .db file needs milvus-lite: pip install "tandem-recommender[milvus]"') from error


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
    """An address as it may be shown: without user and password."""
    return re.sub(r"//[^/@]*@", "//***@", uri)
