"""The encoder gives the vectors of sentence-transformers, and asks the model only about texts it has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from retrieval.encoder.cache import VectorCache
from retrieval.encoder.text_encoder import TextEncoder, find_encoder, resolve_device
from retrieval.text import MAX_CHARACTERS
from tests.tiny import tiny_sentence_transformer
from tests.world import TEXT_DIM, item_frame

TEXTS = [*item_frame()["title"], *(title for title in item_frame()["description"] if title), "a", "red " * 80]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sentence_transformer(tmp_path_factory.mktemp("model"), dim=TEXT_DIM)


@pytest.fixture
def encoder(directory: Path) -> TextEncoder:
    return TextEncoder.load(str(directory), device="cpu", precision="float32")


class Counting(TextEncoder):
    """Remembers which texts reached the model."""

    def _encode_unique(self, texts: list[str], progress: str | None) -> Iterator[tuple[int, np.ndarray]]:
        self.asked = [*getattr(self, "asked", []), *texts]
        return super()._encode_unique(texts, progress)


def cached(directory: Path, cache: Path) -> Counting:
    return Counting.load(str(directory), device="cpu", precision="float32", cache_directory=cache)  # type: ignore[return-value]


def asked(encoder: Counting, texts: Sequence[str]) -> list[str]:
    encoder.asked = []
    encoder.encode(texts)
    return encoder.asked


def test_vectors_are_those_of_sentence_transformers(directory, encoder):
    model = SentenceTransformer(str(directory), device="cpu")
    expected = model.encode(TEXTS, convert_to_numpy=True, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, rtol=0, atol=1e-6)


def test_vectors_are_float32_of_length_1_in_the_order_of_the_texts(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), encoder.dim) == (len(TEXTS), TEXT_DIM)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    backwards = encoder.encode(TEXTS[::-1])
    np.testing.assert_allclose(backwards[::-1], vectors, atol=1e-6)


def test_a_vector_does_not_depend_on_the_other_texts(encoder):
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_text_given_twice_is_encoded_once(directory, tmp_path):
    assert asked(cached(directory, tmp_path), ["red cat", "blue dog", "red cat"]) == ["blue dog", "red cat"]


def test_no_text_gives_no_vector(encoder):
    assert encoder.encode([]).shape == (0, TEXT_DIM)


def test_an_empty_text_has_a_vector(encoder):
    assert np.isfinite(encoder.encode(["", " "])).all()


def test_a_control_token_in_a_text_is_ordinary_characters(encoder):
    tokenizer = encoder.model.tokenizer
    ids = tokenizer(["red [SEP] cat"], truncation=True, max_length=64)["input_ids"][0]
    assert ids.count(tokenizer.sep_token_id) == 1
    assert ids[-1] == tokenizer.sep_token_id
    spelled, plain = encoder.encode(["red [SEP] cat", "red cat"])
    assert np.abs(spelled - plain).max() > 1e-3


def test_bytes_after_the_first_4000_characters_are_not_read(encoder):
    long = "red cat " * 500 + "blue " * 200_000
    np.testing.assert_array_equal(encoder.encode([long]), encoder.encode([long[:MAX_CHARACTERS]]))


def test_half_a_surrogate_pair_is_encoded_as_a_question_mark(encoder):
    np.testing.assert_array_equal(encoder.encode(["red \ud83d cat"]), encoder.encode(["red ? cat"]))


@pytest.mark.parametrize("text", [None, 7, float("nan"), b"red cat"])
def test_what_is_no_text_is_refused_by_its_position(encoder, text):
    with pytest.raises(ValueError, match=f"text 1: expected str, got {type(text).__name__}"):
        encoder.encode(["red cat", text])


def test_weights_that_are_damaged_are_refused(directory):
    encoder = TextEncoder.load(str(directory), device="cpu", precision="float32")
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="zero or non-finite vector for 'red cat'"):
        encoder.encode(["red cat"])


def test_bfloat16_is_near_float32(directory):
    half = TextEncoder.load(str(directory), device="cpu", precision="bfloat16")
    full = TextEncoder.load(str(directory), device="cpu", precision="float32")
    assert (half.encode(TEXTS) * full.encode(TEXTS)).sum(axis=1).min() > 0.999


def test_an_unknown_precision_is_refused(directory):
    with pytest.raises(ValueError, match="precision: expected auto, float32 or bfloat16, got 'int8'"):
        TextEncoder.load(str(directory), device="cpu", precision="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device='cuda': no CUDA device is available"):
        resolve_device("cuda")


def test_an_encoder_that_cannot_be_had_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"could not be loaded: .*no such folder.*\.\[offline\]"):
        TextEncoder.load(str(tmp_path / "nothing here"), device="cpu")


def test_a_directory_is_taken_as_it_is(tmp_path):
    assert find_encoder(str(tmp_path)) == str(tmp_path)


def test_a_saved_encoder_is_read_by_its_own_library(encoder, tmp_path):
    encoder.save(tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS[:3]), encoder.encode(TEXTS[:3]), atol=1e-5)
    assert not list(tmp_path.rglob("*.bin"))


def test_a_saved_encoder_has_the_same_fingerprint(encoder, tmp_path):
    encoder.save(tmp_path)
    assert TextEncoder.load(str(tmp_path), device="cpu", precision="float32").fingerprint == encoder.fingerprint


def test_other_weights_precision_or_pooling_have_another_fingerprint(directory, encoder, tmp_path):
    others = tiny_sentence_transformer(tmp_path / "seed", dim=TEXT_DIM, seed=1)
    modules = [Transformer(str(directory)), Pooling(TEXT_DIM, pooling_mode="cls"), Normalize()]
    first_token = TextEncoder(SentenceTransformer(modules=modules, device="cpu"), name="cls", precision="float32")
    fingerprints = {
        encoder.fingerprint,
        TextEncoder.load(str(directory), device="cpu", precision="bfloat16").fingerprint,
        TextEncoder.load(str(others), device="cpu", precision="float32").fingerprint,
        first_token.fingerprint,
    }
    assert len(fingerprints) == 4


def test_a_second_run_encodes_nothing(directory, tmp_path):
    first = cached(directory, tmp_path)
    vectors = first.encode(TEXTS)
    assert set(first.asked) == set(TEXTS)
    second = cached(directory, tmp_path)
    assert asked(second, TEXTS) == []
    np.testing.assert_array_equal(second.encode(TEXTS), vectors)


def test_only_a_changed_text_is_encoded_again(directory, tmp_path):
    cached(directory, tmp_path).encode(TEXTS)
    assert asked(cached(directory, tmp_path), ["green robot song", *TEXTS]) == ["green robot song"]


def test_another_model_does_not_read_these_vectors(directory, tmp_path):
    cached(directory, tmp_path / "cache").encode(["red cat"])
    others = tiny_sentence_transformer(tmp_path / "model", dim=TEXT_DIM, seed=1)
    assert asked(cached(others, tmp_path / "cache"), ["red cat"]) == ["red cat"]


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_damaged_shard_is_encoded_again_and_said(directory, tmp_path, caplog, place):
    expected = cached(directory, tmp_path).encode(TEXTS)
    (shard,) = tmp_path.rglob("shard-*.safetensors")
    damaged = bytearray(shard.read_bytes())
    damaged[place] ^= 1
    shard.write_bytes(damaged)
    again = cached(directory, tmp_path)
    np.testing.assert_array_equal(again.encode(TEXTS), expected)
    assert set(again.asked) == set(TEXTS)
    assert "is damaged" in caplog.text


def test_a_shard_cut_short_is_encoded_again(directory, tmp_path):
    cached(directory, tmp_path).encode(TEXTS)
    (shard,) = tmp_path.rglob("shard-*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-10])
    assert set(asked(cached(directory, tmp_path), TEXTS)) == set(TEXTS)


def test_a_shard_that_was_being_written_when_the_program_died_is_not_read(directory, tmp_path):
    cache = cached(directory, tmp_path).cache
    assert cache is not None
    assert cache.directory is not None
    (cache.directory / ".shard-half").write_bytes(b"half a shard")
    assert asked(cached(directory, tmp_path), ["red cat"]) == ["red cat"]


def test_vectors_of_another_length_are_ignored(tmp_path, caplog):
    VectorCache(tmp_path, dim=3).add(["red cat"], np.ones((1, 3), np.float32))
    assert len(VectorCache(tmp_path, dim=4)) == 0
    assert "another length" in caplog.text
    assert len(VectorCache(tmp_path, dim=3)) == 1


def test_a_cache_tells_what_it_does_not_know(tmp_path):
    cache = VectorCache(tmp_path, dim=2)
    cache.add(["a", "b"], np.array([[1, 0], [0, 1]], np.float32))
    out = np.zeros((3, 2), np.float32)
    assert cache.fill(["b", "c", "a"], out) == [1]
    np.testing.assert_array_equal(out, [[0, 1], [0, 0], [1, 0]])
