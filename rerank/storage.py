"""A reranker as a directory that Hugging Face's classes read: weights, tokenizer, and what is Tandem's own beside them.

`config.json`, `model.safetensors` and the tokenizer files are GPT-2's own (`AutoModelForSequenceClassification
.from_pretrained(directory)` works); `tandem_rerank.json` holds prompt and training choices, `soft_tokens.safetensors`
the projections of vectors and features. A history model, where there is one, stands beside them (`rerank.blend`).
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import nn
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerBase

from rerank.config import RerankConfig
from rerank.files import CURE, load_weights, read_json, read_tensors
from rerank.model import SoftTokens, load_classifier
from rerank.prompt import Template

FORMAT = 1
FACTS = "tandem_rerank.json"
SOFT = "soft_tokens.safetensors"


def save_parts(
    directory: str | Path,
    gpt2: GPT2ForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase | None,
    soft: SoftTokens | None,
    config: RerankConfig,
    template: Template,
) -> None:
    """Write a reranker into `directory`, which is made if needed; parts it lacks are removed there."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    gpt2.save_pretrained(str(directory))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(directory))
    else:
        (directory / "tokenizer_config.json").unlink(missing_ok=True)  # an earlier reranker's; none is read without it
    (directory / SOFT).unlink(missing_ok=True)
    if soft is not None:
        save_file({k: v.detach().cpu().contiguous() for k, v in soft.state_dict().items()}, str(directory / SOFT))
    facts = {"format": FORMAT, "config": config.to_dict(), "template": template.to_dict()}
    (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load_parts(
    directory: str | Path,
) -> tuple[
    GPT2ForSequenceClassification,
    PreTrainedTokenizerBase | None,
    SoftTokens | None,
    RerankConfig | None,
    Template | None,
]:
    """Read what `save_parts` wrote, or any GPT-2 classifier with one label (then config and template are None).

    Raises FileNotFoundError for a missing directory or file, ValueError for an unknown format.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such reranker directory")
    if not (directory / "model.safetensors").is_file() and not list(directory.glob("model-*.safetensors")):
        raise FileNotFoundError(f"{directory}: no model.safetensors (.bin weights are refused)")
    gpt2, tokenizer = load_classifier(directory)
    _align(gpt2)
    facts_file = directory / FACTS
    if not facts_file.is_file():
        return gpt2.eval(), tokenizer, None, None, None
    facts = read_json(facts_file)
    if facts.get("format") != FORMAT:
        raise ValueError(f"{facts_file}: format {facts.get('format')!r}, this version reads {FORMAT}; update tandem")
    if not isinstance(facts.get("config"), dict) or not isinstance(facts.get("template"), dict):
        raise ValueError(f"{facts_file}: damaged: expected config and template; {CURE}")
    config = RerankConfig.from_dict(facts["config"])
    soft = None
    if config.vector_dim:
        if not (directory / SOFT).is_file():
            raise FileNotFoundError(f"{directory / SOFT}: the projections of vectors are missing")
        soft = SoftTokens(config.vector_dim, config.n_features, gpt2.config.n_embd)
        load_weights(soft, read_tensors(directory / SOFT), directory / SOFT)
        _align(soft)
        soft.eval()
    return gpt2.eval(), tokenizer, soft, config, Template.from_dict(facts["template"])


def _align(module: nn.Module) -> None:
    """Copy weights out of the mapped file: matrix libraries round differently on unaligned memory."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()
