"""The verbs that use a bundle: recommend, search, similar, rerank, batch, check, versions, rollback."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
