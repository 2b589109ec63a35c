"""Losses over the scores of several lists, packed one list after the other, with graded labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

ListLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(scores (n,), labels (n,), lists int64 (n,): which list each row belongs to, from 0) -> mean loss of the lists."""


def listwise(scores: torch.Tensor, labels: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between the softmax of the scores and the labels divided by their sum (ListNet's top-one
    probability, Cao et al. 2007, with the labels themselves as target), weighted by the root of the number of wanted
    candidates. Lists without a positive label weigh nothing.

    What one user takes goes together: it says more than one choice and less than as many. With equal weights what those
    who take one thing want is learned at the cost of those who take a hundred: on 656 users of two earlier moments of
    MovieLens-1M, GPT-2 beside a fusion of such roots adds .076 to NDCG@10 of the former and takes .099 from the
    latter; with the root it adds .020 and takes .014, within chance.
    """
    n_lists = int(lists.max()) + 1
    top = torch.full((n_lists,), -torch.inf, dtype=scores.dtype, device=scores.device).scatter_reduce(
        0, lists, scores.detach(), "amax", include_self=True
    )
    sums = torch.zeros_like(top).index_add(0, lists, torch.exp(scores - top[lists]))
    log_share = scores - top[lists] - torch.log(sums)[lists]
    mass = torch.zeros_like(top).index_add(0, lists, labels)
    weights = torch.zeros_like(top).index_add(0, lists, (labels > 0).to(top.dtype)).sqrt()
    per_list = torch.zeros_like(top).index_add(0, lists, -labels * log_share) / mass.clamp_min(1e-12)
    return (weights * per_list).sum() / weights.sum().clamp_min(1)


def pairwise(scores: torch.Tensor, labels: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(-(s_i - s_j))) over the pairs of a list with label_i > label_j (RankNet, Burges et al. 2005),
    weighted by the difference of the labels, averaged per list.
    """
    losses = []
    for number in range(int(lists.max()) + 1):
        mine = lists == number
        gaps = labels[mine][:, None] - labels[mine][None, :]
        weights = gaps.clamp_min(0)
        if (weights > 0).any():
            differences = scores[mine][:, None] - scores[mine][None, :]
            losses.append((F.softplus(-differences) * weights).sum() / weights.sum())
    return torch.stack(losses).mean() if losses else scores.sum() * 0


def pointwise(scores: torch.Tensor, labels: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy with labels cut to 0..1, averaged within and then over lists."""
    losses = F.binary_cross_entropy_with_logits(scores, labels.clamp(0, 1), reduction="none")
    n_lists = int(lists.max()) + 1
    sums = torch.zeros(n_lists, device=scores.device).index_add(0, lists, losses)
    counts = torch.zeros_like(sums).index_add(0, lists, torch.ones_like(losses))
    return (sums / counts.clamp_min(1)).mean()


LOSSES: dict[str, ListLoss] = {"listwise": listwise, "pairwise": pairwise, "pointwise": pointwise}
