"""The catalogue's softmax against PyTorch's own, in three precisions."""

from __future__ import annotations

import pytest
import torch

from retrieval.encoder.softmax_loss import softmax_loss


def inputs(dtype: torch.dtype, n: int = 6, n_classes: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    users, classes = (torch.randn(size, 5, generator=generator, dtype=dtype) for size in (n, n_classes))
    # A class is wanted twice, so that its gradient is a sum.
    wanted = torch.arange(n).clamp_max(n - 2)
    return users.requires_grad_(), classes.requires_grad_(), wanted


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_cross_entropy(smoothing):
    users, classes, wanted = inputs(torch.float64)
    expected = torch.nn.functional.cross_entropy(users @ classes.T, wanted, label_smoothing=smoothing)
    want = torch.autograd.grad(3 * expected, (users, classes))
    loss = softmax_loss(users, classes, wanted, smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, (users, classes)), want)


def test_gradients_are_slopes():
    users, classes, wanted = inputs(torch.float64)
    assert torch.autograd.gradcheck(lambda u, c: softmax_loss(u, c, wanted, smoothing=0.2), (users, classes))


def test_under_autocast_only_products_lose_precision():
    users, classes, wanted = inputs(torch.float32, 400, 900)
    exact = softmax_loss(users, classes, wanted, smoothing=0.1)
    want = torch.autograd.grad(exact, (users, classes))
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax_loss(users, classes, wanted, smoothing=0.1)
    assert loss.dtype == torch.float32
    got = torch.autograd.grad(loss, (users, classes))
    assert loss.item() == pytest.approx(exact.item(), rel=5e-3)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
        assert cosine.item() > 0.9999
        assert (one.norm() / other.norm()).item() == pytest.approx(1, abs=5e-3)


def test_large_logits_do_not_overflow():
    users, classes, wanted = inputs(torch.float32)
    loss = softmax_loss(1e4 * users, classes, wanted)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(part).all() for part in torch.autograd.grad(loss, (users, classes)))
