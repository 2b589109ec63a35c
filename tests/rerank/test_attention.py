"""Parts of attention joined by their log-sums are one softmax, forwards and backwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rerank.attention import _differentiable, _in_place, attend, flash_takes, join
from rerank.encode import Encoded
from rerank.training_run import TrainingRun
from tests.rerank.test_train import LISTS, config_of, words_of_tiny


def parts(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4), (2, 3, 6, 4), (2, 3, 6, 4)]
    return tuple(torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)


def test_two_joined_parts_equal_one_softmax() -> None:
    query, key, value, more_keys, more_values = parts()
    joined, log_sum = join(attend(query, key, value, scaling=0.5), attend(query, more_keys, more_values, scaling=0.5))
    scores = query @ torch.cat([key, more_keys], 2).transpose(-1, -2) * 0.5
    expected = scores.softmax(-1) @ torch.cat([value, more_values], 2)
    torch.testing.assert_close(joined, expected)
    torch.testing.assert_close(log_sum, scores.logsumexp(-1))


def test_a_part_without_any_visible_key_weighs_nothing() -> None:
    query, key, value, more_keys, more_values = parts()
    hidden = torch.ones(1, 1, 1, 7, dtype=torch.bool)
    visible = attend(query, more_keys, more_values, scaling=1.0)
    for unseen in (
        attend(query, key, value, scaling=1.0, hidden=hidden),
        _in_place(query, key, value, 1.0, hidden),
    ):
        joined, _ = join(visible, unseen)
        torch.testing.assert_close(joined, visible[0])


@pytest.mark.parametrize("with_holes", [False, True])
def test_all_ways_give_the_same_numbers(with_holes: bool) -> None:
    query, key, value, _, _ = parts()
    hidden = None
    if with_holes:
        hidden = torch.zeros(2, 1, 1, 7, dtype=torch.bool)
        hidden[1, ..., 4:] = True
    blocked = attend(query, key, value, scaling=0.5, hidden=hidden)
    for other in (
        _differentiable(query, key, value, 0.5, hidden, 0.0),
        _in_place(query, key, value, 0.5, hidden),
    ):
        torch.testing.assert_close(blocked[0], other[0])
        torch.testing.assert_close(blocked[1], other[1])


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "taken"),
    [
        (torch.bfloat16, 64, (8, 0), True),
        (torch.float16, 256, (9, 0), True),
        (torch.float32, 64, (9, 0), False),
        (torch.bfloat16, 20, (9, 0), False),
        (torch.bfloat16, 264, (9, 0), False),
        (torch.float16, 64, (7, 5), False),
    ],
)
def test_cudas_blocked_kernel_is_asked_only_for_what_it_computes(
    dtype: torch.dtype, head_dim: int, capability: tuple[int, int], taken: bool
) -> None:
    assert flash_takes(dtype, head_dim, capability) is taken


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head_dim", [20, 64, 264])
def test_heads_of_any_width_are_attended_on_cuda(head_dim: int) -> None:
    query, key, value = torch.randn(3, 2, 4, 9, head_dim, generator=torch.Generator().manual_seed(0))
    exact = _in_place(query, key, value, 0.1, None)
    found = attend(*(part.cuda().bfloat16() for part in (query, key, value)), scaling=0.1)
    torch.testing.assert_close(found[0].float().cpu(), exact[0], rtol=0.05, atol=0.05)
    torch.testing.assert_close(found[1].cpu(), exact[1], rtol=0.05, atol=0.05)


def test_gradients_through_the_shared_context_equal_those_of_plain_pairs() -> None:
    run = TrainingRun(LISTS, LISTS[:1], config_of(dropout=0.0), words_of_tiny(), None, "cpu", None, lambda line: None)
    batch = [run.encoder.encode(entry.input) for entry in LISTS[:3]]
    weights = torch.linspace(-1, 1, sum(encoded.n_candidates for encoded in batch))
    (run.scores(batch) * weights).sum().backward()
    shared = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    run.model.zero_grad()
    plain = torch.stack([_plain(run, encoded, row) for encoded in batch for row in range(encoded.n_candidates)])
    (plain * weights).sum().backward()
    assert shared
    for name, parameter in run.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(shared[name], parameter.grad, rtol=1e-4, atol=1e-5)


def _plain(run: TrainingRun, encoded: Encoded, row: int) -> torch.Tensor:
    assert encoded.candidate_ids is not None
    ids = torch.tensor(np.concatenate([encoded.context_ids, encoded.candidate_ids[row]]))
    return run.gpt2(inputs_embeds=run.gpt2.transformer.wte(ids)[None]).logits[0, 0]
