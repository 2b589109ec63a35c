"""What a scheduler reads: every error becomes one line on stderr and one exit code.

    0 done · 1 a defect of this program · 2 bad input · 3 damaged artefact · 4 resources (disk, memory, lock, an extra)
    130 Ctrl-C · 141 nobody reads the output any more · 143 SIGTERM

TANDEM_TRACEBACK=1 shows the traceback as well.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

OK, DEFECT, BAD_INPUT, DAMAGED, RESOURCES = 0, 1, 2, 3, 4
INTERRUPTED, NO_READER, TERMINATED = 130, 141, 143
TRACEBACK_VARIABLE = "TANDEM_TRACEBACK"
_MAX_MESSAGE = 2_000
# Wrong paths are bad input although Python counts them among the system's errors.
_WRONG_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# How what is written in Rust (safetensors, tokenizers) tells an error of the system, in classes of its own.
_TOLD_BY_RUST = re.compile(r"\(os error (\d+)\)")

# What the readers tell a caller in Python, by the option that is the same on every command line.
_ARGUMENT = re.compile(r"\b(encoding|on_duplicate|device|precision)='([^' ]*)'")
_FOR_PYTHON = re.compile(r", in Python \w+=\{[^}]*\}")


class Terminated(BaseException):
    """SIGTERM arrived; it passes every `except Exception`, so `finally` blocks clean up and the process ends."""


def exit_code_of(error: BaseException) -> int:
    """The exit code of an error, by its class."""
    error = _system_error(error) or error
    if isinstance(error, Terminated):
        return TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return NO_READER
    if _is_loaded(error, "indexes.errors", "DamagedArtefact"):  # a ValueError too, so it is asked for first
        return DAMAGED
    if isinstance(error, (ValueError, KeyError, *_WRONG_PATH)):
        return BAD_INPUT
    if isinstance(error, OSError | MemoryError | ImportError) or _is_loaded(error, "torch", "OutOfMemoryError"):
        return RESOURCES
    return DEFECT


def _is_loaded(error: BaseException, module: str, name: str) -> bool:
    """Whether it is of a class that its module, if it was imported at all, defines; nothing is imported to find out."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _system_error(error: BaseException) -> OSError | None:
    """The error of the system that a library tells in a class that is neither Python's nor ours."""
    if isinstance(error, OSError | ValueError) or not (found := _TOLD_BY_RUST.search(str(error))):
        return None
    return OSError(int(found[1]), os.strerror(int(found[1])))


def error_line(error: BaseException) -> str:
    """What went wrong in one line without control characters; what is not our own error is named by its class."""
    error = _system_error(error) or error
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f" ({error.filename})" if error.filename else ""
        return f"expected room on the disk, got none{where}: {error.strerror}; free some and give the command again"
    if isinstance(error, PermissionError) and error.filename:
        return (
            f"{error.filename}: expected to be allowed to read or write it, got: {error.strerror}; see its permissions"
        )
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = "".join(
        character if unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") else " " for character in text
    )
    line = as_options(" ".join(line.split()))
    if len(line) > _MAX_MESSAGE:
        line = line[:_MAX_MESSAGE] + " ..."
    if exit_code_of(error) == DEFECT:
        line = f"{type(error).__name__}: {line} (a defect of this program; {TRACEBACK_VARIABLE}=1 shows where)"
    return line or type(error).__name__


def as_options(line: str) -> str:
    """The line with arguments of Python in the words of the command line: `encoding='x'` is `--encoding x`."""
    line = _ARGUMENT.sub(lambda found: f"--{found[1].replace('_', '-')} {found[2]}", line)
    return _FOR_PYTHON.sub("", line)


def guarded(call: Callable[[], int]) -> int:
    """Run `call` and return its exit code; an error becomes its one line on stderr and its code.

    SIGTERM ends the call like Ctrl-C does: what is unfinished is cleaned up on the way out.
    """
    try:
        with _sigterm_raises():
            code = call()
            sys.stdout.flush()  # a full disk or a closed pipe shows here, not after we said that all is well
            return code
    except SystemExit as error:  # argparse has said what is wrong
        return error.code if isinstance(error.code, int) else OK if error.code is None else BAD_INPUT
    except BaseException as error:
        return report(error)


def report(error: BaseException) -> int:
    """Print the one line of an error to stderr (and the traceback where asked for) and return its exit code."""
    code = exit_code_of(error)
    if os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0"):
        traceback.print_exception(error)
    if code == NO_READER:
        _forget_stdout()
    elif code in (INTERRUPTED, TERMINATED):
        print("error: interrupted" if code == INTERRUPTED else "error: terminated", file=sys.stderr)
    else:
        print(f"error: {error_line(error)}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # or the interpreter would try again at its end and put 120 in place of our code
        _forget_stdout()
    return code


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere: the reader of our output has gone."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # no real file behind it
        return


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
