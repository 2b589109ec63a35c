"""The command `tandem`: its verbs are in cli_train.py, cli_serve.py, cli_index.py; here are their frame and exit codes.

Nothing heavy is imported before a verb runs, so that help comes at once.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from retrieval import cli_index, cli_serve, cli_train
from retrieval.exit_codes import BAD_INPUT, INTERRUPTED, OK, guarded

DISTRIBUTION = "tandem-recommender"
_HELP = """Tandem, a two-stage text recommender: BERT and FAISS find candidates, GPT-2 orders them.

\b
tandem demo                                             the whole life on MovieLens-100K
tandem fit --items I --interactions F --out bundle      train both stages, publish a bundle
tandem recommend bundle --user 42                       ten items for a user
tandem batch bundle --users users.parquet --out lists   lists for many users, resumable
tandem check bundle                                     is every file as it was written?
tandem index move bundle --to milvus --uri URI          search the vectors on a Milvus server

Files are parquet, CSV or JSON lines. Items: item_id, title; optional description, category, brand, any attribute.
Interactions: user_id, item_id, timestamp; optional event, weight, label. `tandem VERB --help` has options and examples.

\b
Exit codes: 0 done, 2 bad input, 3 damaged bundle or file, 4 resources (disk, memory, lock, a missing extra),
130 Ctrl-C, 143 SIGTERM. Errors are one line on stderr; TANDEM_TRACEBACK=1 shows where they come from.
"""
# Read by the libraries when they are imported, which happens inside the verbs.
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "true",
}
_CHATTY = ("faiss", "sentence_transformers", "transformers", "huggingface_hub", "httpx", "filelock", "bm25s")

app = typer.Typer(
    name="tandem",
    help=_HELP,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is at the moment: `main` may be called more than once in a process."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def version() -> str:
    """The installed version of the distribution, or that nothing is installed."""
    from importlib import metadata

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tandem {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _frame(
    context: typer.Context,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, show_default=False, help="Say more on stderr; -vv: the libraries too."
        ),
    ] = 0,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(BAD_INPUT)
    _set_up_logging(verbose)


def _set_up_logging(verbose: int) -> None:
    """Warnings of ours always, our steps with -v, everything with -vv; the libraries' chatter only with -vv."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    root = logging.getLogger()
    if not any(isinstance(handler, _StderrHandler) for handler in root.handlers):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR if verbose < 2 else logging.NOTSET)
    if verbose < 2:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        if (loaded := sys.modules.get("transformers.utils.logging")) is not None:
            loaded.disable_progress_bar()  # too late for the variables: somebody calls `main` from Python


cli_train.register(app)
cli_serve.register(app)
cli_index.register(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code; see `retrieval.exit_codes`."""
    for stream in (sys.stdout, sys.stderr):  # a title that the terminal's encoding lacks is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="tandem", standalone_mode=False)
    except typer.Abort as error:
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # Typer would make a plain 1 of it
            raise error.__context__ from None
        raise
    except Exception as error:
        # Typer's usage errors share no public base class over its versions; they all can format themselves.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "tandem"
        raise ValueError(f"{describe().rstrip('.')}; see {path} --help") from None
    return code if isinstance(code, int) else OK


if __name__ == "__main__":
    raise SystemExit(main())
