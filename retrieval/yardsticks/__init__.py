"""What Tandem is measured against and never serves: neighbours, EASE, ALS, BPR and SASRec, each tuned on validation."""

from __future__ import annotations

from collections.abc import Callable

from retrieval.yardsticks.base import Measurement, Task, Tuned, make_task, measure_yardstick

NAMES = ("neighbours_only", "neighbours_tuned", "ease_tuned", "als", "bpr", "sasrec")
"""Without text, with text, and so on; the names differ from the sources' own, which Tandem tunes less finely."""

__all__ = ["NAMES", "Measurement", "Task", "Tuned", "fitter", "make_task", "measure_yardstick"]


def fitter(name: str) -> Callable[[Task], Tuned]:
    """The yardstick of a name.

    Raises:
        ValueError: an unknown name. ImportError: ALS and BPR without the extra `yardsticks`.
    """
    from retrieval.yardsticks import linear

    if name in ("als", "bpr"):
        from retrieval.yardsticks import factors

        return factors.fit_als if name == "als" else factors.fit_bpr
    if name in ("sasrec", "sasrec_as_published"):
        from retrieval.yardsticks import sasrec

        return sasrec.fit_sasrec if name == "sasrec" else sasrec.fit_sasrec_as_published
    known = {
        "neighbours_only": linear.fit_neighbours,
        "neighbours_tuned": linear.fit_neighbours_with_content,
        "ease_tuned": linear.fit_ease,
    }
    if name not in known:
        raise ValueError(f"yardsticks: expected some of {', '.join(NAMES)}, got {name!r}")
    return known[name]
