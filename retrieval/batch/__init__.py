"""Lists for many users: a table of users in, a folder of ranked lists out, resumable, either complete or not there."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.batch.chunks import BatchOptions, Part, score_chunk
    from retrieval.batch.local import check_output, run_batch
    from retrieval.batch.users import UserChunk, UserStream

_HOMES = {
    "BatchOptions": "chunks",
    "Part": "chunks",
    "UserChunk": "users",
    "UserStream": "users",
    "check_output": "local",
    "run_batch": "local",
    "score_chunk": "chunks",
}
__all__ = ["BatchOptions", "Part", "UserChunk", "UserStream", "check_output", "run_batch", "score_chunk"]


def __getattr__(name: str) -> object:
    """The public names, imported when asked for: a table of users can be read, and refused, without torch."""
    if name in _HOMES:
        return getattr(import_module(f"retrieval.batch.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'retrieval.batch' has no attribute {name!r}")
