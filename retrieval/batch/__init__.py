"""Lists for many users: a table of users in, a folder of ranked lists out, resumable, either complete or not there."""

from retrieval.batch.chunks import BatchOptions, Part, score_chunk
from retrieval.batch.local import check_output, run_batch
from retrieval.batch.users import UserChunk, UserStream

__all__ = ["BatchOptions", "Part", "UserChunk", "UserStream", "check_output", "run_batch", "score_chunk"]
