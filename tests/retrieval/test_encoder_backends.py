"""Every way to run the transformer gives the model's own states, and what ours does not know goes the plain way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel, XLMRobertaConfig, XLMRobertaModel

from retrieval.encoder import packed_bert
from retrieval.encoder.forward import PackedForward, PaddedForward, make_forward
from retrieval.encoder.packed_bert import PackedBert, UnsupportedModelError, attend
from retrieval.encoder.text_encoder import TextEncoder
from tests.tiny import tiny_sentence_transformer
from tests.world import TEXT_DIM, item_frame

TEXTS = [*item_frame()["title"], *(title for title in item_frame()["description"] if title), "a", "", "red " * 80]
SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "initializer_range": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sentence_transformer(tmp_path_factory.mktemp("model"), dim=TEXT_DIM)


@pytest.fixture
def model(directory: Path) -> SentenceTransformer:
    return SentenceTransformer(str(directory), device="cpu").eval()


def states(bert: PackedBert, ids: list[list[int]]) -> Iterator[np.ndarray]:
    for group in bert(ids):
        yield from group.numpy()


def encoder_of(model: SentenceTransformer, backend: str, precision: str = "float32") -> TextEncoder:
    return TextEncoder(model, name="tiny", precision=precision, backend=backend)


@pytest.mark.parametrize(
    "own",
    [
        BertModel(BertConfig(**SIZES)),
        BertModel(BertConfig(**SIZES, hidden_act="relu", layer_norm_eps=0.1)),
        RobertaModel(RobertaConfig(**SIZES, pad_token_id=1)),
        XLMRobertaModel(XLMRobertaConfig(**SIZES, pad_token_id=3)),
    ],
    ids=["bert", "bert with relu", "roberta", "xlm-roberta"],
)
def test_packed_states_are_those_of_the_model(own: nn.Module):
    own.eval()
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 50, size=length).tolist() for length in (30, 12, 12, 7, 1)]
    for one, found in zip(ids, states(PackedBert(own, dtype=torch.float32), ids), strict=True):
        with torch.inference_mode():
            expected = own(torch.tensor([one])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights_at_once", [1, 300, 1_000_000])
def test_a_packed_vector_is_the_same_bit_for_bit_in_any_company(model, monkeypatch, precision, weights_at_once):
    alone = encoder_of(model, "packed", precision)
    expected = np.concatenate([alone.encode([text]) for text in TEXTS])
    monkeypatch.setattr(packed_bert, "_WEIGHTS_AT_ONCE", weights_at_once)
    np.testing.assert_array_equal(encoder_of(model, "packed", precision).encode(TEXTS), expected)


@pytest.mark.parametrize("backend", ["packed", "padded"])
def test_bfloat16_of_each_backend_is_near_float32(model, backend):
    half = encoder_of(model, backend, "bfloat16").encode(TEXTS)
    assert (half * encoder_of(model, "padded").encode(TEXTS)).sum(axis=1).min() > 0.999


def test_openvino_gives_the_same_vectors(model):
    pytest.importorskip("openvino")
    expected = encoder_of(model, "padded").encode(TEXTS)
    np.testing.assert_allclose(encoder_of(model, "openvino").encode(TEXTS), expected, rtol=0, atol=1e-5)
    half = encoder_of(model, "openvino", "bfloat16").encode(TEXTS)
    assert (half * expected).sum(axis=1).min() > 0.999


def test_auto_is_packed_for_a_bert_on_the_cpu(model):
    assert isinstance(make_forward(model, precision="float32"), PackedForward)


def test_another_architecture_goes_the_plain_way(model):
    class Other(BertModel):
        """May compute anything."""

    model[0].auto_model.__class__ = Other
    assert isinstance(make_forward(model, precision="float32"), PaddedForward)
    with pytest.raises(ValueError, match=r"backend='packed': expected BertModel, .* got Other; use backend='auto'"):
        encoder_of(model, "packed").encode(["red cat"])


def test_a_replaced_layer_goes_the_plain_way(model):
    class Scaled(nn.Linear):
        """A layer with something added, such as an adapter."""

    attention = model[0].auto_model.encoder.layer[1].attention.self
    attention.query.__class__ = Scaled
    with pytest.raises(UnsupportedModelError, match="expected plain Linear layers, got Scaled"):
        PackedForward(model, precision="float32")
    assert isinstance(make_forward(model, precision="float32"), PaddedForward)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_that_computes_something_else_is_found_out_by_trial(model, precision):
    turned = torch.linspace(-1, 1, TEXT_DIM)
    model[0].auto_model.encoder.layer[0].register_forward_hook(lambda module, inputs, output: output * turned)
    with pytest.raises(ValueError, match=r"backend='packed': packed differs from the model's own forward \(cosine"):
        make_forward(model, precision=precision, backend="packed")
    expected = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(encoder_of(model, "auto").encode(TEXTS), expected, rtol=0, atol=1e-6)


def test_weights_changed_after_the_first_use_are_seen(model):
    encoder = encoder_of(model, "packed")
    before = encoder.encode(TEXTS)
    with torch.no_grad():
        model[0].auto_model.encoder.layer[1].output.dense.weight.mul_(-1)
    after = encoder.encode(TEXTS)
    assert np.abs(after - before).max() > 1e-2
    np.testing.assert_allclose(after, encoder_of(model, "padded").encode(TEXTS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 40.0])
def test_attention_in_bfloat16_is_a_softmax_for_scores_of_any_size(size):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 9, 8, generator=generator) for _ in range(3))
    query, key, value = (query * size).bfloat16(), key.bfloat16(), value.bfloat16()
    scores = (query @ key.transpose(-1, -2)).float()
    expected = torch.softmax(scores, -1) @ value.float()
    assert (float(scores.max()) > 88) == (size > 1)  # where an exponential leaves float32
    torch.testing.assert_close(attend(query, key, value).float(), expected, rtol=0.02, atol=0.03)


def test_an_unknown_backend_is_refused(model):
    with pytest.raises(ValueError, match="backend: expected one of auto, packed, padded, openvino, got 'onnx'"):
        encoder_of(model, "onnx")


def test_a_missing_extra_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    monkeypatch.delitem(__import__("sys").modules, "retrieval.encoder.openvino_forward", raising=False)
    with pytest.raises(ImportError, match=r'pip install "\.\[openvino\]"'):
        encoder_of(model, "openvino").encode(["red cat"])
