"""Batch runs that are killed, stopped, damaged or changed, and what the next run makes of them."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest

from indexes import DamagedArtefact, Locked
from indexes.files import exclusive
from retrieval.batch import BatchOptions, UserStream, check_output, local, run_batch
from retrieval.batch.users import UserChunk
from retrieval.recommend import Recommender
from retrieval.storage import save_bundle
from retrieval.update import add_items
from tests import world
from tests.retrieval.batch_runs import K, bytes_of, score, some_users, watched

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def users() -> pd.DataFrame:
    """Every user of the world and a stranger; two segments."""
    return some_users()


def test_nothing_is_seen_before_everything_is_done(recommender, users, tmp_path):
    out = tmp_path / "lists"
    seen = []
    score(watched(recommender, lambda: seen.append(out.exists())), users, out)
    assert seen == [False] * 6
    assert check_output(out)["n_users"] == 41


def test_a_stopped_run_goes_on_where_it_stopped(recommender, users, tmp_path):
    score(recommender, users, tmp_path / "whole")
    calls = []

    def stop_at_the_fourth() -> None:
        calls.append(True)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(watched(recommender, stop_at_the_fourth), users, tmp_path / "lists")
    assert not (tmp_path / "lists").exists()
    assert score(recommender, users, tmp_path / "lists")["n_computed"] == 41 - 3 * 8
    assert bytes_of(tmp_path / "lists") == bytes_of(tmp_path / "whole")


def test_a_killed_process_leaves_a_run_that_goes_on_byte_for_byte(bundle, tmp_path):
    histories = [[world.item_id("toy", number), world.item_id("film", number // 12)] for number in range(300)]
    users = pd.DataFrame({"user_id": [f"u{number}" for number in range(300)], "history": histories})
    users.to_parquet(tmp_path / "users.parquet")
    command = [sys.executable, "-m", "retrieval.cli", "batch", str(bundle), "--users", str(tmp_path / "users.parquet")]
    command += ["--out", str(tmp_path / "lists"), "-k", str(K), "--chunk-size", "8"]
    command += ["--device", "cpu", "--precision", "float32"]
    receipts = tmp_path / ".lists.partial" / "receipts"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (receipts.is_dir() and len(list(receipts.glob("part-*.json"))) >= 3) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "lists").exists()

    here = Recommender.load(bundle, device="cpu", precision="float32")
    went_on = score(here, users, tmp_path / "lists")
    assert 0 < went_on["n_computed"] < 300
    score(here, users, tmp_path / "whole")
    assert not list(tmp_path.glob(".*.partial"))
    rows = [pd.read_parquet(tmp_path / name).sort_values(["user_id", "rank"]) for name in ("lists", "whole")]
    assert rows[0].to_csv() == rows[1].to_csv()
    assert not rows[0].duplicated(["user_id", "rank"]).any()


def test_half_made_and_altered_parts_are_made_again(recommender, users, tmp_path):
    score(recommender, users, tmp_path / "whole")

    def stop() -> None:
        if len(list(work.glob("receipts/*.json"))) == 3:
            raise OSError(28, "No space left on device")

    work = tmp_path / ".lists.partial"
    with pytest.raises(OSError, match="No space left"):
        score(watched(recommender, stop), users, tmp_path / "lists")
    (work / "parts" / "part-000000.parquet").write_bytes(b"PAR1")
    (work / "receipts" / "part-000001.parquet.json").write_bytes(b"{")
    (work / "parts" / ".part-000003.parquet.99.tmp").write_bytes(b"half")
    assert score(recommender, users, tmp_path / "lists")["n_computed"] == 41 - 8
    assert bytes_of(tmp_path / "lists") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"file": 1}, {"sha256": 7}, {"n_rows": "32"}, {"n_users": True}, {"n_rows": 999}])
def test_a_receipt_or_success_that_says_something_else_is_made_again(recommender, users, tmp_path, change):
    def stop() -> None:
        if len(list(receipts.glob("*.json"))) == 2:
            raise KeyboardInterrupt

    receipts, out = tmp_path / ".lists.partial" / "receipts", tmp_path / "lists"
    with pytest.raises(KeyboardInterrupt):
        score(watched(recommender, stop), users[:24], out)
    receipt = receipts / "part-000000.parquet.json"
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), **change}))
    report = score(recommender, users[:24], out)
    assert (report["n_computed"], report["n_rows"]) == (16, 24 * K)
    success = json.loads((out / "_SUCCESS").read_text())
    success["parts"][1] |= change
    (out / "_SUCCESS").write_text(json.dumps(success))
    with pytest.raises(DamagedArtefact):
        check_output(out)
    assert score(recommender, users[:24], out)["n_computed"] == 24


def test_a_full_disk_leaves_no_lists_and_the_next_run_succeeds(recommender, users, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            score(recommender, users, tmp_path / "lists")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not (tmp_path / "lists").exists()
    assert score(recommender, users, tmp_path / "lists")["n_users"] == 41


def test_finished_lists_are_not_computed_again(recommender, users, tmp_path):
    score(recommender, users, tmp_path / "lists")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "lists").iterdir()}
    assert score(recommender, users, tmp_path / "lists")["n_computed"] == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "lists").iterdir()} == before


def test_damaged_lists_are_found_and_made_again(recommender, users, tmp_path):
    score(recommender, users, tmp_path / "lists")
    part = tmp_path / "lists" / "part-000002.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    with pytest.raises(DamagedArtefact, match=r"part-000002.parquet: expected sha256"):
        check_output(tmp_path / "lists")
    assert score(recommender, users, tmp_path / "lists")["n_computed"] == 41
    assert part.read_bytes() == whole


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("success", ["", "[]", '{"job": 1}', None])
def test_a_folder_that_holds_what_no_batch_wrote_is_left_alone(recommender, users, tmp_path, success, restart):
    out = tmp_path / "lists"
    if success is None:  # ours, and somebody's file beside it
        score(recommender, users[:8], out)
        (out / "notes.txt").write_text("keep me")
    else:
        (out / "sub").mkdir(parents=True)
        (out / "_SUCCESS").write_text(success)
        (out / "part-00000-4f5a.snappy.parquet").write_bytes(b"PAR1")
    before = sorted(out.rglob("*"))
    with pytest.raises(ValueError, match=r"found files that no batch wrote \((_SUCCESS, part-00000-4f|notes\.txt\))"):
        score(recommender, users[:8], out, restart=restart)
    assert sorted(out.rglob("*")) == before


def test_users_that_grow_fewer_while_they_are_read_are_refused(recommender, users, tmp_path):
    class Shrinking(UserStream):
        """Two chunks, and one from the second pass on."""

        n_passes = 0

        def __iter__(self) -> Iterator[UserChunk]:
            self.n_passes += 1
            return itertools.islice(super().__iter__(), 2 if self.n_passes == 1 else 1)

    options = BatchOptions(k=K, chunk_users=8)
    with pytest.raises(ValueError, match="the users changed while they were read; run again"):
        run_batch(recommender, Shrinking(users[:16], chunk_users=8), tmp_path / "lists", options)
    assert not (tmp_path / "lists").exists()


def test_changed_options_are_refused_unless_told_to_restart(recommender, users, tmp_path):
    score(recommender, users, tmp_path / "lists")
    with pytest.raises(ValueError, match=r"made with other options \(k 4 -> 3\); give the old ones again"):
        score(recommender, users, tmp_path / "lists", k=3)
    assert not list(tmp_path.glob(".*"))
    assert score(recommender, users, tmp_path / "lists", k=3, restart=True)["n_rows"] == 41 * 3
    assert len(pd.read_parquet(tmp_path / "lists")) == 41 * 3


def test_an_unfinished_run_of_other_options_is_refused_unless_told_to_restart(recommender, users, tmp_path):
    def stop() -> None:
        if (tmp_path / ".lists.partial" / "receipts" / "part-000001.parquet.json").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(watched(recommender, stop), users, tmp_path / "lists")
    with pytest.raises(ValueError, match=r"an unfinished run made with other options \(filters None -> .colour"):
        score(recommender, users, tmp_path / "lists", filters="colour = 'red'")
    assert score(recommender, users, tmp_path / "lists", filters="colour = 'red'", restart=True)["n_computed"] == 41


def test_another_bundle_or_other_users_are_refused(recommender, users, tmp_path):
    score(recommender, users, tmp_path / "lists")
    with pytest.raises(ValueError, match="holds the lists of other users"):
        score(recommender, users[:40], tmp_path / "lists")
    save_bundle(tmp_path / "bundle", recommender)
    other = Recommender.load(tmp_path / "bundle", device="cpu", precision="float32")
    with pytest.raises(ValueError, match=r"finished lists of another version of the bundle \(bundle '"):
        score(other, users, tmp_path / "lists")


def test_a_new_catalogue_goes_on_with_no_run_until_it_is_published(recommender, users, tmp_path):
    def stop() -> None:
        if (tmp_path / ".lists.partial" / "receipts" / "part-000001.parquet.json").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(watched(recommender, stop), users, tmp_path / "lists")
    larger = add_items(recommender, pd.DataFrame({"item_id": ["extra"], "title": ["red cat"]}))
    with pytest.raises(ValueError, match="expected a recommender loaded from a bundle; save it with save_bundle"):
        score(larger, users, tmp_path / "lists")
    save_bundle(tmp_path / "bundle", larger)
    published = Recommender.load(tmp_path / "bundle", device="cpu", precision="float32")
    with pytest.raises(
        ValueError, match=r"an unfinished run of another version of the bundle \(bundle '.*one per night, or --restart"
    ):
        score(published, users, tmp_path / "lists")


def test_only_the_chunks_whose_users_changed_are_computed_again(recommender, users, tmp_path):
    def stop() -> None:
        if (tmp_path / ".lists.partial" / "receipts" / "part-000003.parquet.json").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(watched(recommender, stop), users, tmp_path / "lists")
    changed = users.copy()
    changed.loc[9, "user_id"] = "somebody else"
    score(recommender, changed, tmp_path / "whole")
    assert score(recommender, changed, tmp_path / "lists")["n_computed"] == 41 - 3 * 8
    assert bytes_of(tmp_path / "lists") == bytes_of(tmp_path / "whole")


def test_a_run_that_ends_leaves_the_folder_of_one_that_has_just_begun(recommender, users, tmp_path, monkeypatch):
    work, commit = tmp_path / ".lists.partial", local._commit
    with ExitStack() as held:

        def commit_and_let_another_begin(*asked) -> None:
            commit(*asked)
            work.mkdir()
            assert held.enter_context(exclusive(work / ".lock")) is None

        monkeypatch.setattr(local, "_commit", commit_and_let_another_begin)
        score(recommender, users[:8], tmp_path / "lists")
        with pytest.raises(Locked):
            score(recommender, users[:8], tmp_path / "lists")


def test_two_runs_at_once_are_refused(recommender, users, tmp_path):
    (tmp_path / ".lists.partial").mkdir()
    with (
        exclusive(tmp_path / ".lists.partial" / ".lock"),
        pytest.raises(Locked, match=f"locked by process {os.getpid()}"),
    ):
        score(recommender, users, tmp_path / "lists")
