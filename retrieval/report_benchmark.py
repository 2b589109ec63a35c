"""Lines of a benchmark in, tables for a page and a picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval.report_view import FINAL, STAGE_ORDER

DASH = "–"
Line = Mapping[str, Any]


def render_markdown(lines: Sequence[Line]) -> str:
    """NDCG@10 and recall@100 of every stage, then the questions that matter, one row per data set; then cold items.

    A line with an `error` has a row that says so.
    """
    good = [line for line in lines if "error" not in line]
    parts = []
    if good:
        for key, title in (("ndcg10", "NDCG@10"), ("recall100", "recall@100")):
            stages = stage_order(line[key] for line in good)
            rows = [[stage, *(_figure(line, key, stage) for line in good)] for stage in stages]
            parts.append(f"{title}\n\n" + _table(["stage", *(_name(line) for line in good)], rows))
        parts.append("Final list\n\n" + _table(_FINAL_HEADER, [_final_row(line) for line in good]))
        cold = [line for line in good if "cold" in line]
        if cold:
            stages = stage_order(line["cold"]["ndcg10"] for line in cold)
            rows = [[stage, *(_cold_figure(line["cold"], stage) for line in cold)] for stage in stages]
            header = ["stage", *(f"{_name(line)} ({line['cold']['n_users']:,} users)" for line in cold)]
            parts.append("Cold items: NDCG@10 / recall@100\n\n" + _table(header, rows))
    parts += [f"{line['dataset']} · {line['split']}: {line['error']}" for line in lines if "error" in line]
    return "\n\n".join(parts) + "\n"


def plot_benchmark(lines: Sequence[Line]) -> bytes:
    """NDCG@10 by stage, a panel per data set, as one PNG.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it. ValueError: no line has figures.
    """
    from retrieval.report_plots import STYLE, Figure, colour_of, draw_bars, height_of, style, to_png

    good = [line for line in lines if "error" not in line]
    if not good:
        raise ValueError("plot_benchmark: expected at least one line with figures, got none")
    stages = stage_order(line["ndcg10"] for line in good)
    with style.context(STYLE):
        figure = Figure(figsize=(5.8 * len(good), height_of(len(stages))), layout="constrained")
        for panel, line in zip(figure.subplots(1, len(good), squeeze=False).ravel(), good, strict=True):
            values = {stage: line["ndcg10"][stage] for stage in stages if stage in line["ndcg10"]}
            draw_bars(
                panel, values, [colour_of(stage, dict.fromkeys(stages)) for stage in values], "{:.4f}", bold=FINAL
            )
            panel.set_title(f"{_name(line)}: NDCG@10")
        return to_png(figure)


def stage_order(blocks: Any) -> list[str]:
    """All stages of the blocks: baselines in their usual order, then the others as they come, `final` last."""
    names = list(dict.fromkeys(name for block in blocks for name in block))
    known = [name for name in STAGE_ORDER if name in names and name != "recall"]
    last = [name for name in ("dense", "recall", "candidates", "fusion", FINAL) if name in names]
    return known + [name for name in names if name not in known and name not in last] + last


_FINAL_HEADER = [
    "data set", "users", "final", "best baseline", "times", "final − best (95 %), p", "final − fusion (95 %), p",
    "candidates / EASE", "oracle",
]  # fmt: skip


def _final_row(line: Line) -> list[str]:
    best = line["best_baseline"]
    return [
        _name(line),
        f"{line['n_users']:,}",
        _figure(line, "ndcg10", FINAL),
        f"{best} {line['ndcg10'][best]:.4f}",
        DASH if line["final_over_best"] is None else f"{line['final_over_best']:.3f}",
        _difference(line["final_vs"][best]),
        _difference(line["final_vs"]["fusion"]) if "fusion" in line["final_vs"] else DASH,
        DASH if line["candidates_over_ease"] is None else f"{line['candidates_over_ease']:.3f}",
        f"{line['oracle']:.4f}",
    ]


def _difference(interval: Mapping[str, float]) -> str:
    return f"{interval['diff']:+.4f} ({interval['low']:+.4f} to {interval['high']:+.4f}), {interval['p_holm']:.4f}"


def _figure(line: Line, key: str, stage: str) -> str:
    """A figure, with its deviation where there were several seeds."""
    if stage not in line[key]:
        return DASH
    spread = line.get("seeds", {}).get(key, {}).get(stage) if line.get("seeds", {}).get("n", 1) > 1 else None
    return f"{line[key][stage]:.4f}" + (f" ± {spread['deviation']:.4f}" if spread and spread["deviation"] else "")


def _cold_figure(cold: Mapping[str, Any], stage: str) -> str:
    if stage not in cold["ndcg10"]:
        return DASH
    return f"{cold['ndcg10'][stage]:.4f} / {cold['recall100'][stage]:.4f}"


def _name(line: Line) -> str:
    return line["dataset"] if line["split"] == "leave-last-out" else f"{line['dataset']}, {line['split']} split"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, marks, *rows])
