"""GPT-2 as a language model whose words are items: what comes next after a history, learned at every place of it.

A cross-encoder learns from lists, one label each; a language model learns from every interaction there is. It has one
soft token per item (its vectors, projected) and answers for any item that has vectors, new ones too. Its score of a
candidate is added to the cross-encoder's (`rerank.blend`).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from rerank.config import HistoryModelConfig
from rerank.files import CURE, load_weights, read_json, read_tensors

FACTS, PROJECTIONS = "tandem_history.json", "projections.safetensors"
_BLOCKED = -1e4  # added where a token may not look; finite, so that a row of padding stays finite too


class HistoryModel(nn.Module):
    """GPT-2 over item tokens, oldest first, with the projections into and out of it."""

    def __init__(self, config: HistoryModelConfig) -> None:
        super().__init__()
        self.config = config
        shape = GPT2Config(
            vocab_size=1,  # no words: everything comes in as vectors
            n_positions=config.history_items,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.gpt2 = GPT2Model(shape)
        self.item_map = nn.Linear(config.vector_dim, config.n_embd)
        self.input_map = nn.Linear(config.n_embd, config.n_embd)
        self.user_map = nn.Linear(config.n_embd, config.n_embd)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))
        nn.init.orthogonal_(self.item_map.weight)
        nn.init.zeros_(self.item_map.bias)

    def item_vectors(self, vectors: Tensor, rows: Tensor | None = None) -> Tensor:
        """Items in the model's own space, length 1: (n, vector_dim) -> (n, n_embd). No item has weights of its own, so
        their rows say nothing here."""
        return nn.functional.normalize(self.item_map(vectors), dim=-1)

    def states(self, item_vectors: Tensor, padding: Tensor) -> Tensor:
        """What is expected after every item of the history: (n_users, length, n_embd), length 1.

        Args:
            item_vectors: (n_users, length, n_embd), oldest first, padded at the old end.
            padding: bool (n_users, length), true where there is no item; what comes out there is meaningless.
        """
        length = padding.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=padding.device).triu(1)
        blocked = (causal | padding[:, None, :])[:, None]
        inputs = self.input_map(item_vectors)
        mask = torch.zeros(blocked.shape, dtype=inputs.dtype, device=inputs.device).masked_fill_(blocked, _BLOCKED)
        places = ((~padding).long().cumsum(1) - 1).clamp_min(0)
        hidden = self.gpt2(inputs_embeds=inputs, attention_mask=mask, position_ids=places).last_hidden_state
        # The newest item's own vector is the best single guess of the next one.
        return nn.functional.normalize(self.user_map(hidden) + item_vectors, dim=-1)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.log_scale.device

    def save(self, directory: str | Path) -> None:
        """Write a directory that `load` reads, and `AutoModel.from_pretrained` too (GPT-2 itself)."""
        directory = Path(directory)
        self.gpt2.save_pretrained(str(directory))
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("gpt2.")}
        save_file({name: value.cpu().contiguous() for name, value in own.items()}, str(directory / PROJECTIONS))
        (directory / FACTS).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path, *, device: torch.device | str = "cpu") -> HistoryModel:
        """What `save` wrote. Raises FileNotFoundError where a file is missing."""
        directory = Path(directory)
        for name in (FACTS, PROJECTIONS, "model.safetensors"):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory / name}: expected a part of the history model here")
        facts = read_json(directory / FACTS)
        try:
            model = cls(HistoryModelConfig(**facts))
        except TypeError as error:
            raise ValueError(f"{directory / FACTS}: damaged: {error}; {CURE}") from error
        weights = {f"gpt2.{name}": value for name, value in read_tensors(directory / "model.safetensors").items()}
        load_weights(model, {**read_tensors(directory / PROJECTIONS), **weights}, directory)
        return model.to(device).eval()
