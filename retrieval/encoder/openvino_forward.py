"""The transformer through OpenVINO on the CPU, an optional extra; its bfloat16 uses AVX-512 BF16 and AMX.

The module is converted as it is, once per process (some 4 s for MiniLM); shapes stay dynamic.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import torch
from sentence_transformers import SentenceTransformer

from retrieval.encoder.forward import Features, Ids

try:
    import openvino  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError('backend="openvino" needs OpenVINO: pip install ".[openvino]", or use backend="auto"') from error


class OpenVinoForward:
    """The model's transformer compiled for this machine, over one padded batch."""

    def __init__(self, model: SentenceTransformer, *, precision: str) -> None:
        if model.device.type != "cpu":
            raise ValueError(f'backend="openvino" runs on the CPU, got a model on {model.device}; use device="cpu"')
        self._tokenizer = model.tokenizer
        example = {name: torch.ones(2, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
        noisy = logging.getLogger("transformers")
        level = noisy.level
        try:
            noisy.setLevel(logging.ERROR)
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # the tracer's, about shapes that it keeps dynamic all the same
                converted = openvino.convert_model(model[0].auto_model, example_input=example)
        finally:
            noisy.setLevel(level)
        self._compiled = openvino.Core().compile_model(
            converted,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            },
        )

    def __call__(self, ids: Ids) -> Iterator[Features]:
        batch = self._tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt")
        inputs = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
        states = torch.from_numpy(self._compiled(inputs)[0])
        yield {**{name: batch[name] for name in inputs}, "token_embeddings": states}
