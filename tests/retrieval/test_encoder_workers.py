"""Large catalogues: several processes give the vectors of one, and a killed run goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from retrieval.encoder import text_encoder
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.encoder.workers import map_in_processes
from tests.tiny import WORDS, tiny_sentence_transformer
from tests.world import TEXT_DIM

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [" ".join((first, second, *["red"] * (number % 7))) for number, first in enumerate(WORDS) for second in WORDS]
KILLED = """
import sys
from pathlib import Path
from retrieval.encoder import text_encoder
from tests.retrieval.test_encoder_workers import TEXTS
text_encoder.TEXTS_PER_SLICE = 16
load = text_encoder.TextEncoder.load
load(sys.argv[1], device="cpu", precision="bfloat16", cache_directory=Path(sys.argv[2])).encode(TEXTS)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sentence_transformer(tmp_path_factory.mktemp("model"), dim=TEXT_DIM)


def test_several_processes_give_the_vectors_of_one(directory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(text_encoder, "TEXTS_PER_SLICE", 100)
    some = TEXTS[:350] + TEXTS[:10]
    one, two = (
        TextEncoder.load(
            str(directory), device="cpu", precision="bfloat16", workers=n, cache_directory=tmp_path / str(n)
        )
        for n in (1, 2)
    )
    expected = one.encode(some)
    np.testing.assert_array_equal(two.encode(some, progress="embed"), expected)
    assert "350/350" in (shown := capsys.readouterr().err)
    assert "texts/s" in shown
    assert len(list(tmp_path.rglob("1/*/shard-*.safetensors"))) == 4
    # Shards are named by their content: the slices are the same ones.
    assert {path.name for path in tmp_path.rglob("1/*/shard-*")} == {
        path.name for path in tmp_path.rglob("2/*/shard-*")
    }


def test_a_worker_that_dies_is_an_error_and_not_a_wait_for_ever():
    with pytest.raises(ChildProcessError, match="one of 2 encoding processes could not start or died"):
        list(map_in_processes(partial(os._exit, 1), [["red"], ["cat"]], n_workers=2))


def test_less_than_one_worker_is_refused(directory):
    with pytest.raises(ValueError, match="workers: expected 1 or more, got 0"):
        TextEncoder.load(str(directory), device="cpu", workers=0)


def test_a_killed_run_keeps_its_finished_slices_and_the_next_one_encodes_the_rest(directory, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(directory), str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("shard-*.safetensors"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = 16 * len(list(tmp_path.rglob("shard-*.safetensors")))
    assert 3 * 16 <= kept < len(TEXTS)

    def load(**options) -> TextEncoder:
        return TextEncoder.load(str(directory), device="cpu", precision="bfloat16", **options)

    resumed = load(cache_directory=tmp_path)
    assert resumed.cache is not None
    assert len(resumed.cache) == kept
    vectors = resumed.encode(TEXTS)
    assert len(resumed.cache) == len(TEXTS)
    np.testing.assert_array_equal(vectors, load().encode(TEXTS))
