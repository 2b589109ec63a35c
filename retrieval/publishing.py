"""Publishes a bundle's version, and calls a fault found on the way by the place that the file was meant for.

A version is written and verified in a hidden directory that is gone when anybody reads the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from indexes import DamagedArtefact, publish
from indexes.manifest import Json
from indexes.versions import DEBRIS_PREFIX


def publish_version(root: Path, fill: Callable[[Path], None], *, facts: Mapping[str, Json], keep: int) -> Path:
    """See `indexes.publish`.

    Raises:
        indexes.DamagedArtefact: what was written is not what is on the disk; it names the place in the version.
    """
    try:
        return publish(root, fill, facts=facts, keep=keep)
    except DamagedArtefact as error:
        staged = next((path for path in (error.path, *error.path.parents) if path.name.startswith(DEBRIS_PREFIX)), None)
        if staged is None:
            raise
        number = staged.name.removeprefix(DEBRIS_PREFIX).partition("-")[0]
        final = staged.with_name(number)
        problem = str(error).removeprefix(f"{error.path}: ").rpartition("; ")[0].replace(str(staged), str(final))
        cure = "nothing was published; check the disk and publish again"
        raise DamagedArtefact(final / error.path.relative_to(staged), problem, cure=cure) from error
