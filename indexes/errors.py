"""The two errors a caller of this package may want to catch apart from bad input.

ValueError
└── DamagedArtefact   what is on disk is not what was written: do not serve it, go back to an older version
OSError
└── Locked            somebody else is publishing: try again later
"""

from pathlib import Path


class DamagedArtefact(ValueError):  # noqa: N818 - says what it is
    """A file is missing, altered, of an unknown format or not to be trusted; `path` names it, `problem` and `cure` say
    what is wrong and what to do."""

    def __init__(self, path: Path | str, problem: str, *, cure: str = "publish it again or roll back") -> None:
        self.path, self.problem, self.cure = Path(path), problem, cure
        super().__init__(f"{self.path}: {problem}; {cure}")


class Locked(OSError):  # noqa: N818 - says what it is
    """Another process holds the lock of this directory."""
