"""One TOML file configures everything: what is misspelt or of the wrong type is refused by its name."""

from __future__ import annotations

import tomllib

import pytest

from retrieval.cli import main as tandem
from retrieval.config import Config, config_from, merge_values, parse_override, read_config, to_toml
from tests.world import as_toml, tiny_config, tiny_values


def test_nothing_said_is_the_defaults():
    assert config_from({}) == read_config(None) == Config()


def test_what_is_said_wins_and_the_rest_keeps_its_default():
    config = config_from({"seed": 7, "rerank": {"epochs": 9}, "text": {"budgets": {"title": 5}}})
    assert (config.seed, config.rerank.epochs, config.text.budgets["title"]) == (7, 9, 5)
    assert config.rerank.n_layer == Config().rerank.n_layer
    assert config.text.budgets["description"] == Config().text.budgets["description"]
    assert config.rerank.vector_dim == Config().rerank.vector_dim


def test_the_defaults_print_as_a_file_that_reads_back():
    assert config_from(tomllib.loads(to_toml(Config().to_dict()))) == Config()


@pytest.mark.parametrize("config", [Config(), tiny_config(), tiny_config(keep_seen=True, text={"history_items": 3})])
def test_a_configuration_survives_its_plain_values(config):
    assert config_from(config.to_dict()) == config


def test_a_file_is_read(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(as_toml(tiny_values()), encoding="utf-8")
    assert tomllib.loads(path.read_text()) == tiny_values()
    assert read_config(path) == tiny_config()


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("seed = 1\n[rerank]\nepochs = 4\nloss = 'pairwise'\n")
    config = read_config(path, {"rerank": {"epochs": 2}})
    assert (config.seed, config.rerank.epochs, config.rerank.loss) == (1, 2, "pairwise")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sead": 1}, r"unknown key sead; did you mean seed\?"),
        ({"epochs": 1}, r"unknown key epochs; did you mean finetune\.epochs or rerank\.epochs\?"),
        ({"rerank": {"epoch": 1}}, r"unknown key rerank\.epoch; did you mean rerank\.epochs\?"),
        ({"text": {"template": "x"}}, r"unknown key text\.template; did you mean text\.item_template\?"),
        ({"index": {"zzz": 1}}, r"unknown key index\.zzz; known: .*family"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(values, message):
    with pytest.raises(ValueError, match=message):
        config_from(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "many"}, r"configuration: seed: .*integer.*, got 'many'"),
        ({"seed": "7"}, r"configuration: seed: .*integer.*, got '7'"),
        ({"seed": True}, r"configuration: seed: .*integer.*, got True"),
        ({"seed": 1.5}, r"configuration: seed: .*integer.*, got 1\.5"),
        ({"keep_seen": "no"}, r"configuration: keep_seen: .*boolean.*, got 'no'"),
        ({"depths": {"rerank": [1]}}, r"configuration: depths\.rerank: .*integer.*, got \[1\]"),
        ({"text": {"item_template": 5}}, r"configuration: text\.item_template: .*string.*, got 5"),
        ({"text": {"budgets": {"title": "x"}}}, r"configuration: text\.budgets\.title: .*integer.*, got 'x'"),
        ({"encoder": {"precision": "int8"}}, r"configuration: encoder\.precision: .*'bfloat16', got 'int8'"),
        ({"rerank": 5}, r"configuration: rerank: expected a section, got 5"),
    ],
)
def test_a_wrong_type_is_refused_by_its_place(values, message):
    with pytest.raises(ValueError, match=message):
        config_from(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, r"seed: expected 0 or more, got -1"),
        ({"depths": {"rerank": 0}}, r"^configuration: depths: .*expected 1 or more, got per_source=200, rerank=0$"),
        ({"lists": {"folds": 1}}, r"^configuration: lists: folds: expected 2 or more, got 1$"),
        ({"lists": {"stop_share": 1}}, r"^configuration: lists: stop_share: expected a number between 0 and 1"),
        ({"head": {"dim": 30}}, r"^configuration: head: dim: expected a multiple of n_heads=4, got 30$"),
        ({"rerank": {"n_embd": 5}}, r"^configuration: rerank: n_embd 5 is not a multiple of n_head 4$"),
        ({"text": {"item_template": "title"}}, r"^configuration: text: item_template: expected at least one field"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_clear_line(values, message):
    with pytest.raises(ValueError, match=message):
        config_from(values)


def test_a_whole_number_is_a_number():
    assert config_from({"head_training": {"max_passes": 3, "max_seconds": 60}}).head_training.max_passes == 3.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rerank.epochs=2", {"rerank": {"epochs": 2}}),
        ("seed = 3", {"seed": 3}),
        ("keep_seen=true", {"keep_seen": True}),
        ("head_training.learning_rate=1e-3", {"head_training": {"learning_rate": 1e-3}}),
        ("encoder.name=my/model=2", {"encoder": {"name": "my/model=2"}}),
        ('encoder.name="007"', {"encoder": {"name": "007"}}),
        ("text.item_template={title}", {"text": {"item_template": "{title}"}}),
        ("encoder.cache=", {"encoder": {"cache": ""}}),
    ],
)
def test_an_override_is_a_value_at_a_place(text, expected):
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["", "seed", "=3"])
def test_an_override_without_a_value_or_a_place_is_refused(text):
    with pytest.raises(ValueError, match=r"--set: expected SECTION\.KEY=VALUE, got"):
        parse_override(text)


def test_overrides_are_merged_section_by_section():
    merged = merge_values({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "b": {"z": 1}})
    assert merged == {"a": {"x": 1, "y": 3}, "b": {"z": 1}}


@pytest.mark.parametrize("content", [b"seed = ", b"seed = 1\nseed = 2", b"\xff\xfe", b"[rerank"])
def test_what_is_no_toml_is_refused_by_its_file(tmp_path, content):
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.toml: not a TOML file"):
        read_config(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.toml' is not a file"):
        read_config(tmp_path / "nothing.toml")


def test_the_command_prints_what_a_file_and_the_options_make_of_the_defaults(tmp_path, capsys):
    file = tmp_path / "tandem.toml"
    file.write_text("keep_seen = true\n[rerank]\nn_layer = 2\n")
    assert tandem(["config", "--config", str(file), "--set", "rerank.epochs=7"]) == 0
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    config = read_config(printed)
    assert (config.keep_seen, config.rerank.n_layer, config.rerank.epochs) == (True, 2, 7)
    assert config == read_config(file, {"rerank": {"epochs": 7}})
    assert tandem(["config", "--set", "rerank.n_layers=2"]) == 2
    assert "did you mean rerank.n_layer?" in capsys.readouterr().err
