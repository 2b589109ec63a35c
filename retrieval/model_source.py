"""Is a model there to be loaded? Asked before the work begins, answered in one line.

Without this every library tries its hub again and again, says so in dozens of lines, and ends in an error of its own.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.config import Config

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
PROBE_TIMEOUT_S = 10.0
RERANKER_CURE = "give a folder, or rerank.model = 'gpt2-mini', which needs no hub"


def require_model(name: str, *, what: str, cure: str) -> None:
    """Return when the model is a folder, in the hub's cache on this machine, or on a hub that answers now.

    Args:
        what: as the error calls it. cure: what to do instead.

    Raises:
        FileNotFoundError: none of these.
    """
    if Path(name).is_dir():
        return
    # Slow to import, and a bundle needs none of it.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    # Set here and not where logging is set up: the library sets its own level when it is imported.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=PROBE_TIMEOUT_S)
    except EntryNotFoundError:  # a model without this file: whoever loads it knows better
        return
    except HFValidationError as error:
        said = ValueError("no such folder, and a hub has no such names")
        raise unavailable(name, what=what, cure=cure, error=said) from error
    except Exception as error:  # OSError, ValueError, and those of the HTTP library of the day, which has changed twice
        raise unavailable(name, what=what, cure=cure, error=error) from error


def unavailable(name: str, *, what: str, cure: str, error: Exception) -> FileNotFoundError:
    """The error of a model that cannot be had."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
    return FileNotFoundError(
        f"{what} {name!r} could not be loaded: expected a folder with a model, or one of a hub that can be reached, "
        f"got neither ({reason}); {cure}"
    )


def require_reranker(config: Config) -> None:
    """Make sure that the GPT-2 a fit begins with is there, before the hours that come before it.

    Raises:
        FileNotFoundError: it is neither a folder with a model nor on a hub that can be reached.
    """
    name = config.rerank.model
    if not config.use_reranker or name == "gpt2-mini":
        return
    require_model(name, what="reranker", cure=RERANKER_CURE)
    folder = Path(name)
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        error = ValueError("the folder lacks config.json or *.safetensors")
        raise unavailable(name, what="reranker", cure=RERANKER_CURE, error=error)
