"""The encoding benchmark prints the agreed keys, and its ways agree with sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import bench_encode
from tests.tiny import tiny_sentence_transformer
from tests.world import item_frame


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sentence_transformer(tmp_path_factory.mktemp("model"))


def test_one_line_with_the_agreed_keys_and_vectors(model, tmp_path, capsys):
    items = tmp_path / "items.csv"
    item_frame().to_csv(items, index=False)
    options = ["--texts", "20", "--repeats", "1", "--threads", "1", "--backend", "packed,padded", "--json"]
    drawn = tmp_path / "speed.png"
    asked = [*options, "--items", str(items), "--model", str(model), "--plot", str(drawn)]
    assert bench_encode.main(asked) == 0
    line = json.loads(capsys.readouterr().out)
    assert set(line) >= {"texts", "mean_tokens", "threads", "default", "rss_mb", "sentence_transformers"}
    assert (line["texts"], line["threads"], line["sentence_transformers"]["speedup"]) == (20, 1, 1.0)
    for name in ("packed_float32", "padded_float32"):
        assert line[name]["max_abs_diff"] <= 1e-6
        assert line[name]["min_cosine"] >= 0.999999
        assert line[name]["texts_per_s"] > 0
    assert drawn.stat().st_size > 0


def test_without_a_table_of_items_the_texts_are_random_words(model, capsys):
    assert bench_encode.main(["--texts", "5", "--repeats", "1", "--backend", "padded", "--model", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "5 texts of" in shown
    assert "padded_float32" in shown


def test_bad_input_is_one_line_and_exit_code_2(model, tmp_path, capsys):
    nameless = tmp_path / "items.csv"
    nameless.write_text("name\nred cat\n")
    for arguments, reason in [
        (["--items", str(tmp_path / "nothing.csv")], "is not a file"),
        (["--items", str(nameless)], "expected a column title"),
        (["--backend", "onnx"], "--backend: expected some of packed, padded, openvino, got ['onnx']"),
        (["--texts", "0"], "--texts and --repeats: expected 1 or more"),
    ]:
        assert bench_encode.main([*arguments, "--model", str(model)]) == 2
        assert reason in capsys.readouterr().err
