"""What a read did, in numbers: rows read, kept and refused by reason, columns nobody asked for, warnings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.data.rejects import unasked_of


@dataclass(frozen=True)
class ReadReport:
    """The account of one table; all zeros for one that was not read from anywhere.

    `n_read` = `n_kept` + `n_rejected` + `n_duplicates` + `n_replaced`.
    """

    table: str = ""
    """"items", "interactions" or "users"."""
    source: str = ""
    """The file or folder as it was given, or "data frame"."""
    n_read: int = 0
    n_kept: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of rows."""
    emptied: Mapping[str, int] = field(default_factory=dict)
    """Items and users: reason -> number of attribute cells that became missing in rows that were kept."""
    n_duplicates: int = 0
    """Interactions: rows equal in user, item, time and event to an earlier one, dropped."""
    n_replaced: int = 0
    """Items and users: rows dropped by `on_duplicate`."""
    n_cut: Mapping[str, int] = field(default_factory=dict)
    """Text column -> number of cells that were longer than `MAX_TEXT_CHARS`."""
    unknown_columns: tuple[str, ...] = ()
    """Columns of the files that are not read (interactions), sorted."""
    attributes: tuple[str, ...] = ()
    """Items and users: further columns, kept as attributes."""
    id_types: Mapping[str, str] = field(default_factory=dict)
    """Id column -> "text", "whole numbers" or "text and whole numbers" as stored; absent for CSV, which is all text."""
    time_kind: str = ""
    """Interactions: "seconds" or "positions"."""
    rejects: Path | None = None
    """The file with the refused rows, if one was asked for."""
    warnings: tuple[str, ...] = ()

    @property
    def n_rejected(self) -> int:
        """Rows refused, over all reasons."""
        return sum(self.rejected.values())

    @property
    def unasked(self) -> Mapping[str, int]:
        """`rejected` without the events that are left out as was asked for."""
        return unasked_of(self.rejected)

    @property
    def refusal(self) -> str:
        """`unasked` in one line."""
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self.unasked.items())
        return (
            f"{self.table}: refused {sum(self.unasked.values()):,} of {self.n_read:,} rows ({self.source}): {reasons}"
        )

    def summary(self, *, warnings: bool = True) -> str:
        """Gives the report as lines for a person, without a final line break.

        warnings: also what was logged as such.
        """
        lines = [f"{self.table}: {self.n_kept:,} of {self.n_read:,} rows kept ({self.source})"]
        lines += [
            f"  refused {count:,}: {reason}" for reason, count in sorted(self.rejected.items(), key=lambda p: -p[1])
        ]
        lines += [f"  emptied {count:,}: {reason}" for reason, count in self.emptied.items()]
        if self.n_duplicates:
            lines.append(f"  dropped {self.n_duplicates:,} exact repeats (same user, item, time and event)")
        if self.n_replaced:
            lines.append(f"  dropped {self.n_replaced:,} rows with a repeated id")
        if self.rejects is not None and (self.n_rejected or self.emptied or self.n_replaced):
            lines.append(f"  refused rows, those with a repeated id and emptied cells are in {self.rejects}")
        return "\n".join(lines + [f"  warning: {text}" for text in self.warnings if warnings])
