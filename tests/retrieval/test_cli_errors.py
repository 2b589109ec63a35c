"""What the command says when something is wrong: one line, the code a scheduler needs, and before any work."""

from __future__ import annotations

from safetensors import SafetensorError

from retrieval.exit_codes import error_line, exit_code_of


def test_a_full_disk_is_a_want_of_resources_whoever_tells_it():
    told = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (told, OSError(28, "No space left on device", "x.parquet")):
        line = error_line(error)
        assert exit_code_of(error) == 4
        assert line.startswith("expected room on the disk, got none")
        assert line.endswith("free some and give the command again")
    missing = SafetensorError("Error while serializing: I/O error: No such file or directory (os error 2)")
    assert exit_code_of(missing) == exit_code_of(FileNotFoundError(2, "x")) == 2
