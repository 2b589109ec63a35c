"""The benchmark prints one line per case with the agreed keys, and its scorers agree."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_rerank.py"
KEYS = {
    "case", "ours_fp32_ms", "ours_bf16_ms", "crossencoder_ms", "plain_ms", "speedup_fp32", "speedup_bf16",
    "max_abs_diff_fp32", "kendall_bf16", "floor_ms", "share_of_floor",
}  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_rerank", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "bench_rerank", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SHAPES", {"gpt2-mini": (2, 16, 2, 500)})
    monkeypatch.setattr(module, "MAX_RUNS", 1)
    return module


def test_a_case_prints_the_agreed_keys_and_exact_scores(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    case = ["--history-tokens", "9", "--candidates", "5", "--candidate-tokens", "4"]
    assert bench.main([*case, "--model", "gpt2-mini", "--json", "--plot", str(tmp_path / "speed.png")]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(printed) >= KEYS
    assert printed["max_abs_diff_fp32"] <= 1e-4
    assert (tmp_path / "speed.png").stat().st_size > 0


def test_without_case_options_all_cases_are_run(bench: ModuleType) -> None:
    chosen = bench._chosen(bench._parser().parse_args([]))
    assert len(chosen) == 3 * 3 * 2
    assert chosen[0] == (50, 20, 16)


def test_growth_is_measured_in_both_orders(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--growth", "--model", "gpt2-mini"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"newest_first_grown_ms", "newest_last_grown_ms"} <= set(printed)
