"""A model that cannot be had is one line and one exit code, whichever model it is, before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.model_source import require_model, require_reranker
from tests import world

ROOT = Path(__file__).resolve().parents[2]
# Nobody listens there, so that the answer is the same with and without a network.
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("encoder.name=nobody/nothing", "encoder 'nobody/nothing' could not be loaded: expected a folder with a model"),
        ("rerank.model=nobody/gpt2", "reranker 'nobody/gpt2' could not be loaded: expected a folder with a model"),
        ("rerank.model=./no-folder", "no such folder, and a hub has no such names"),
    ],
)
def test_without_a_hub_a_fit_ends_in_one_line_and_code_2(tmp_path, setting, said):
    files = world.write_files(tmp_path)
    command = [
        sys.executable, "-m", "retrieval.cli", "fit", "-q", "--items", files.items, "--interactions",
        files.interactions, "--config", files.config, "--set", setting, "--out", tmp_path / "bundle",
    ]  # fmt: skip
    environment = {**os.environ, **NO_HUB, "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


def test_a_folder_needs_no_hub(tmp_path):
    require_model(str(tmp_path), what="encoder", cure="")


def test_a_folder_without_a_gpt2_is_told_before_the_fit(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"lacks config.json or \*.safetensors\); give a folder, or rerank.model"
    ):
        require_reranker(world.tiny_config(rerank={"model": str(tmp_path)}))


def test_what_is_not_used_is_not_asked_for():
    require_reranker(world.tiny_config(use_reranker=False, rerank={"model": "nobody/gpt2"}))
    require_reranker(world.tiny_config())
