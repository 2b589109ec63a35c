"""What every reranker promises, for random prompts: equal to one plain pair at a time, independent, newest kept.

Inherit `RerankerContract` and set `make` (a reranker and the tolerance of its number format).
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank import Reranker, RerankInput
from tests.tiny import WORDS

# The contract is inherited on purpose; every subclass draws its own examples.
FEW = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)

texts = st.lists(st.sampled_from(WORDS), min_size=0, max_size=9).map(" ".join)


@st.composite
def inputs(draw: st.DrawFn) -> RerankInput:
    """A history of 0 to 7 items and 0 to 6 candidates, with words, vectors of 8 and 3 features."""
    history = draw(st.lists(texts, max_size=7))
    candidates = draw(st.lists(texts, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return RerankInput(
        tuple(history),
        tuple(candidates),
        context_vectors=rng.normal(size=(len(history), 8)),
        candidate_vectors=rng.normal(size=(len(candidates), 8)),
        candidate_features=rng.normal(size=(len(candidates), 3)),
    )


def plain_scores(reranker: Reranker, given_input: RerankInput) -> np.ndarray:
    """Every pair alone, in full, through transformers' own forward in float32."""
    gpt2, soft = reranker.gpt2, reranker.soft
    encoded = reranker.encoder.encode(given_input)
    words = gpt2.transformer.wte
    scores = np.zeros(encoded.n_candidates, dtype=np.float32)
    with torch.no_grad():
        for row in range(encoded.n_candidates):
            parts = []
            if soft is not None and encoded.context_vectors is not None:
                parts += [soft.start[None], soft.embed_context(torch.tensor(encoded.context_vectors.copy()))]
            parts.append(words(torch.tensor(encoded.context_ids)))
            if soft is not None and encoded.candidate_vectors is not None:
                features = encoded.candidate_features
                assert features is not None
                parts.append(
                    soft.embed_candidates(
                        torch.tensor(encoded.candidate_vectors[row : row + 1]), torch.tensor(features[row : row + 1])
                    )
                )
            if encoded.candidate_ids is not None:
                parts.append(words(torch.tensor(encoded.candidate_ids[row])))
            scores[row] = gpt2(inputs_embeds=torch.cat(parts)[None]).logits.item()
    if reranker.config.prior and given_input.candidate_features is not None:
        scores += given_input.candidate_features[:, -1]
    return scores


class RerankerContract:
    """Subclass as `Test...` and give `make` and `tolerance`."""

    tolerance = 1e-5

    def make(self) -> Reranker:
        raise NotImplementedError

    @given(given_input=inputs())
    @FEW
    def test_score_equals_the_plain_forward_of_one_pair(self, given_input: RerankInput) -> None:
        reranker = self.make()
        expected = plain_scores(reranker, given_input)
        np.testing.assert_allclose(reranker.score(given_input), expected, rtol=0, atol=self.tolerance)

    @given(batch=st.lists(inputs(), min_size=1, max_size=5))
    @FEW
    def test_score_does_not_depend_on_the_batch(self, batch: list[RerankInput]) -> None:
        reranker = self.make()
        together = reranker.score_many(batch)
        for alone, found in zip(batch, together, strict=True):
            np.testing.assert_allclose(found, reranker.score(alone), rtol=0, atol=self.tolerance)

    @given(given_input=inputs(), seed=st.integers(0, 2**32 - 1))
    @FEW
    def test_score_does_not_depend_on_the_order_of_candidates(self, given_input: RerankInput, seed: int) -> None:
        reranker = self.make()
        order = np.random.default_rng(seed).permutation(given_input.n_candidates)
        assert given_input.candidate_vectors is not None
        assert given_input.candidate_features is not None
        shuffled = RerankInput(
            given_input.context_texts,
            tuple(given_input.candidate_texts[row] for row in order),
            given_input.context_vectors,
            given_input.candidate_vectors[order],
            given_input.candidate_features[order],
        )
        np.testing.assert_allclose(
            reranker.score(shuffled), reranker.score(given_input)[order], rtol=0, atol=self.tolerance
        )

    @given(given_input=inputs().filter(lambda i: i.n_candidates > 1))
    @FEW
    def test_score_does_not_depend_on_the_neighbours(self, given_input: RerankInput) -> None:
        reranker = self.make()
        assert given_input.candidate_vectors is not None
        assert given_input.candidate_features is not None
        first = RerankInput(
            given_input.context_texts,
            given_input.candidate_texts[:1],
            given_input.context_vectors,
            given_input.candidate_vectors[:1],
            given_input.candidate_features[:1],
        )
        np.testing.assert_allclose(reranker.score(first), reranker.score(given_input)[:1], rtol=0, atol=self.tolerance)

    @given(given_input=inputs(), older=st.lists(texts, min_size=30, max_size=40))
    @FEW
    def test_newest_history_is_never_cut(self, given_input: RerankInput, older: list[str]) -> None:
        encoder = self.make().encoder
        newest = "robot lamp"
        assert given_input.context_vectors is not None
        vectors = np.concatenate([np.full((1, 8), 7.0), np.zeros((40, 8)), given_input.context_vectors])
        long = RerankInput(
            (newest, *older, *given_input.context_texts),
            given_input.candidate_texts,
            vectors,
            given_input.candidate_vectors,
            given_input.candidate_features,
        )
        encoded = encoder.encode(long)
        if encoder.tokens is not None and encoder.config.history_tokens:
            wanted = encoder.tokens.ids([newest])[0].tolist()
            ids = encoded.context_ids.tolist()
            assert len(ids) <= encoder.config.history_tokens
            assert any(ids[i : i + len(wanted)] == wanted for i in range(len(ids)))
        if encoded.context_vectors is not None:
            assert len(encoded.context_vectors) == encoder.config.max_history_items
            assert (encoded.context_vectors == 7.0).all(axis=1).sum() == 1
