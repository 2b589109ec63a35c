"""The benchmark runs, says what is absent, and speaks JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from scripts import bench_index


def test_each_engine_gives_one_json_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32))
    options = [
        "--json",
        "--n-items",
        "700",
        "--vectors",
        str(tmp_path / "base.npy"),
        "--n-queries",
        "60",
        "--threads",
        "1",
    ]
    plot = tmp_path / "plot.png"
    assert bench_index.main([*options, "--engines", "exact,ivf_sq8", "--filters", "--plot", str(plot)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["engine"] for line in lines] == ["exact", "ivf_sq8"]
    assert lines[0]["recall@100"] == 1.0
    assert lines[1]["recall@100"] > 0.9
    assert all(line["queries_per_s_1_threads"] > 0 and line["size_mb"] > 0 for line in lines)
    assert lines[1]["filters"]["random 0.5"]["recall@100"] > 0.9
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_rivals_that_are_not_installed_are_reported_absent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("scripts.bench_index.importlib.import_module", missing)
    bench_index.main(["--json", "--n-items", "300", "--dim", "8", "--n-queries", "20", "--engines", "hnswlib"])
    assert json.loads(capsys.readouterr().out) == {"engine": "hnswlib", "n_items": 300, "dim": 8, "absent": True}


def test_unknown_engines_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_index.main(["--engines", "annoy"]) == 2
    assert "--engines: expected some of exact, " in capsys.readouterr().err
