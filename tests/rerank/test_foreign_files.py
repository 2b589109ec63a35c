"""What lies in a model's directory is checked: missing weights, code that would run, parts of another model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from rerank import CrossEncoder, RerankConfig, Reranker
from rerank.model import build_model
from tests.rerank.test_reranker import WORDS_ONLY, reranker
from tests.tiny import tiny_gpt2, tiny_tokenizer


def without(directory: Path, part: str) -> None:
    """Take every tensor whose name holds `part` out of the weights."""
    file = directory / "model.safetensors"
    kept = {name: value.clone() for name, value in load_file(str(file)).items() if part not in name}
    save_file(kept, str(file), metadata={"format": "pt"})


@pytest.mark.parametrize("part", [".h.1.", "score.weight"])
def test_missing_weights_are_refused_by_name(part: str, tmp_path: Path) -> None:
    reranker(**WORDS_ONLY).save(tmp_path)
    without(tmp_path, part)
    message = rf"model\.safetensors: expected all weights of a classifier, got none for \['.*{part.strip('.')}"
    for load in (Reranker.load, CrossEncoder):
        with pytest.raises(ValueError, match=message):
            load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=message):
        build_model(RerankConfig.from_dict({"model": str(tmp_path), **WORDS_ONLY}))


def test_a_language_model_may_be_trained_but_not_scored_with(tmp_path: Path) -> None:
    shape = GPT2Config(vocab_size=200, n_positions=96, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(shape).save_pretrained(str(tmp_path))
    tiny_tokenizer().save_pretrained(str(tmp_path))
    gpt2, _, _ = build_model(RerankConfig.from_dict({"model": str(tmp_path), **WORDS_ONLY}))
    assert gpt2.score.weight.shape == (1, 16)
    with pytest.raises(ValueError, match=r"got none for \['score\.weight'\]; save it again, or train one"):
        Reranker.load(tmp_path, device="cpu")
    without(tmp_path, "wpe")
    with pytest.raises(ValueError, match=r"got none for \['transformer\.wpe\.weight'\]"):
        build_model(RerankConfig.from_dict({"model": str(tmp_path), **WORDS_ONLY}))


def test_code_in_a_models_directory_is_not_run_even_if_yes_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, flag = tmp_path / "model", tmp_path / "ran"
    tiny_gpt2().save_pretrained(str(model))
    tiny_tokenizer().save_pretrained(str(model))
    code = f"from transformers import GPT2Config\nopen({str(flag)!r}, 'w').close()\nclass Config(GPT2Config): pass\n"
    (model / "ours.py").write_text(code)
    facts = json.loads((model / "config.json").read_text())
    facts |= {"auto_map": {"AutoConfig": "ours.Config"}, "model_type": "ours"}
    (model / "config.json").write_text(json.dumps(facts))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ValueError, match="trust_remote_code"):
        Reranker.load(model, device="cpu")
    assert not flag.exists()
