"""The figures of an evaluation in, PNG pictures out.

A stage has the same colour in every picture: baselines are muted, the recall stage and the final list stand out.
Settings are changed while a picture is drawn and then put back, so that a caller's own plots stay as they are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

from retrieval.report_view import FINAL, EvaluationView

try:
    from matplotlib import style
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
except ImportError as error:
    raise ImportError('the evaluation report needs matplotlib: pip install ".[report]"') from error

COLOURS = {
    "popularity": "#98a2b3",
    "neighbours": "#4e7fd1",
    "ease": "#8b6fc9",
    "lexical": "#c89b2b",
    "content": "#a3715a",
    "recall": "#12937f",
    FINAL: "#d9482b",
}
OTHER = ("#5f6b7a", "#7aa35a", "#b65c9e", "#3f9fb5")  # stages that have no colour of their own, in order
INK, FAINT, GRID = "#1f2933", "#667085", "#e4e7ec"
DOTS_PER_INCH = 160
STYLE = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along, so pictures look the same everywhere
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "xtick.labelcolor": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}

Draw = Callable[[Axes, EvaluationView], None]


def plot_evaluation(view: EvaluationView) -> dict[str, bytes]:
    """One PNG per picture that the figures allow, by title, in reading order."""
    pictures = {}
    for title, (draw, n_rows) in _wanted(view).items():
        with style.context(STYLE):
            figure = Figure(figsize=(5.8, height_of(n_rows)), layout="constrained")
            _draw_titled(figure.add_subplot(), title, draw, view)
            pictures[title] = to_png(figure)
    return pictures


def plot_overview(view: EvaluationView) -> bytes:
    """All pictures in one PNG, two beside each other, under the evaluation's heading."""
    wanted = _wanted(view)
    n_rows = (len(wanted) + 1) // 2
    with style.context(STYLE):
        spaced = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15, hspace=0.06, wspace=0.06)
        figure = Figure(figsize=(13, 0.9 + 3.6 * n_rows), layout=spaced)
        figure.suptitle(view.heading, x=0.015, ha="left", fontsize=14, fontweight="bold")
        panels = figure.subplots(n_rows, 2, squeeze=False).ravel()
        for panel, (title, (draw, _)) in zip(panels, wanted.items(), strict=False):
            _draw_titled(panel, title, draw, view)
        for panel in panels[len(wanted) :]:
            panel.set_axis_off()
        return to_png(figure)


def colour_of(stage: str, stages: Mapping[str, object]) -> str:
    """A stage's colour: its own, or the next spare one in the order of the stages."""
    if stage in COLOURS:
        return COLOURS[stage]
    spare = [name for name in stages if name not in COLOURS]
    return OTHER[spare.index(stage) % len(OTHER)] if stage in spare else OTHER[0]


def _wanted(view: EvaluationView) -> dict[str, tuple[Draw, int]]:
    """The pictures that have something to show, each with how many rows it is high."""
    pictures: dict[str, tuple[Draw, int]] = {}
    if any("ndcg@10" in figures for figures in view.stages.values()):
        pictures["NDCG@10 by stage"] = (_draw_ndcg, len(view.stages))
    if any(len(_recalls(figures)) > 1 for figures in view.stages.values()):
        pictures["Recall by depth of the list"] = (_draw_recall, 9)
    if view.final_vs:
        pictures["NDCG@10 of the final list minus each stage"] = (_draw_intervals, len(view.final_vs))
    if view.parts:
        names = " and ".join(view.parts)
        pictures[f"NDCG@10 on {names} items"] = (_draw_parts, len(view.stages))
    if view.fusion:
        pictures["What each part adds to the final list"] = (_draw_fusion, len(view.fusion))
    if view.seconds:
        pictures["Wall time by step"] = (_draw_seconds, len(view.seconds))
    return pictures


def _draw_titled(panel: Axes, title: str, draw: Draw, view: EvaluationView) -> None:
    panel.set_title(title)
    draw(panel, view)


def _draw_ndcg(panel: Axes, view: EvaluationView) -> None:
    values = {stage: figures["ndcg@10"] for stage, figures in view.stages.items() if "ndcg@10" in figures}
    colours = [colour_of(stage, view.stages) for stage in values]
    draw_bars(panel, values, colours, "{:.4f}", bold=FINAL)


def _draw_recall(panel: Axes, view: EvaluationView) -> None:
    """Lines over the depth, named at their right ends."""
    lines = {stage: _recalls(figures) for stage, figures in view.stages.items() if len(_recalls(figures)) > 1}
    depths = sorted({k for points in lines.values() for k in points})
    top = max(value for points in lines.values() for value in points.values())
    if view.ceiling is not None:
        top = max(top, view.ceiling)
        panel.axhline(view.ceiling, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        panel.annotate(
            f"ceiling of the candidates {view.ceiling:.3f}", (depths[0], view.ceiling), (0, 4),
            textcoords="offset points", fontsize=8.5, color=FAINT,
        )  # fmt: skip
    for stage, points in lines.items():
        strong = stage in (FINAL, "recall")
        panel.plot(
            list(points), list(points.values()), marker="o", markersize=5 if strong else 3.5,
            linewidth=2.4 if strong else 1.5, color=colour_of(stage, view.stages), zorder=3 if strong else 2,
        )  # fmt: skip
    panel.set_ylim(0, top * 1.12 or 1)
    panel.set_xlim(depths[0] - 0.06 * depths[-1], depths[-1] * 1.36)
    panel.set_xticks(depths, [f"top {k}" for k in depths])
    panel.grid(axis="y")
    ends = {stage: points[max(points)] for stage, points in lines.items()}
    for stage, height in _spread(ends, gap=top * 0.062).items():
        panel.annotate(
            f"{stage} {ends[stage]:.3f}", (max(lines[stage]), height), (7, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=colour_of(stage, view.stages),
            fontweight="bold" if stage == FINAL else "normal", annotation_clip=False,
        )  # fmt: skip


def _draw_parts(panel: Axes, view: EvaluationView) -> None:
    """Two bars per stage, one for each part of the items; the later part is paler."""
    stages = [name for name in view.stages if any(name in stages for _, stages in view.parts.values())]
    height = 0.72 / len(view.parts)
    top = 0.0
    for place, (part, (_, figures)) in enumerate(view.parts.items()):
        values = [figures.get(stage, {}).get("ndcg@10", 0.0) for stage in stages]
        top = max(top, *values)
        rows = [row + (place - (len(view.parts) - 1) / 2) * height for row in range(len(stages))]
        colours = [colour_of(stage, view.stages) for stage in stages]
        panel.barh(rows, values, height=height * 0.92, color=colours, alpha=1.0 - 0.55 * place)
        for row, value in zip(rows, values, strict=True):
            panel.annotate(
                f"{value:.4f} {part}", (value, row), (5, 0), textcoords="offset points", va="center", fontsize=7.5
            )
    panel.set_xlim(0, top * 1.3 or 1)
    panel.set_yticks(range(len(stages)), stages)
    panel.set_ylim(len(stages) - 0.4, -0.6)
    panel.grid(axis="x")
    panel.locator_params(axis="x", nbins=6)


def _draw_intervals(panel: Axes, view: EvaluationView) -> None:
    """A point and its interval per stage; what crosses zero is drawn hollow."""
    names = list(view.final_vs)
    panel.axvline(0, color=INK, linewidth=1)
    for row, name in enumerate(names):
        diff, low, high = view.final_vs[name]
        colour = colour_of(name, view.stages)
        clear = low > 0 or high < 0
        panel.plot([low, high], [row, row], color=colour, linewidth=2.4, solid_capstyle="round")
        panel.plot(diff, row, "o", markersize=7, color=colour, markerfacecolor=colour if clear else "white")
        panel.annotate(
            f"{diff:+.4f}", (diff, row), (0, 7), textcoords="offset points", ha="center", fontsize=8.5,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.7)
    panel.grid(axis="x")
    panel.locator_params(axis="x", nbins=6)
    panel.set_xlabel("with 95 % intervals; right of zero the final list is better")


def _draw_fusion(panel: Axes, view: EvaluationView) -> None:
    draw_bars(panel, view.fusion, [COLOURS["recall"]] * len(view.fusion), "{:+.4f}")
    panel.set_xlabel(view.fusion_unit)


def _draw_seconds(panel: Axes, view: EvaluationView) -> None:
    draw_bars(panel, view.seconds, [OTHER[0]] * len(view.seconds), "{:,.1f} s")


def draw_bars(panel: Axes, values: dict[str, float], colours: list[str], form: str, *, bold: str = "") -> None:
    """Horizontal bars from the top down, each with its number at its end."""
    names = list(values)
    panel.barh(range(len(names)), list(values.values()), height=0.62, color=colours)
    low, high = min(0.0, *values.values()), max(0.0, *values.values())
    width = (high - low) or 1.0
    panel.set_xlim(low - (0.2 * width if low < 0 else 0), high + 0.2 * width)
    for row, (name, value) in enumerate(values.items()):
        panel.annotate(
            form.format(value), (value, row), (5 if value >= 0 else -5, 0), textcoords="offset points",
            va="center", ha="left" if value >= 0 else "right", fontsize=9, color=INK,
            fontweight="bold" if name == bold else "normal",
        )  # fmt: skip
    if low < 0:
        panel.axvline(0, color=FAINT, linewidth=0.8)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.grid(axis="x")
    panel.locator_params(axis="x", nbins=6)


def _recalls(figures: Mapping[str, float]) -> dict[int, float]:
    """Recall by depth, rising: {10: ..., 50: ..., 100: ...}."""
    found = {
        int(name.removeprefix("recall@")): value
        for name, value in figures.items()
        if name.startswith("recall@") and name.removeprefix("recall@").isdigit()
    }
    return dict(sorted(found.items()))


def _spread(heights: Mapping[str, float], *, gap: float) -> dict[str, float]:
    """Heights for labels that do not touch: from the lowest up, each at its own or `gap` above the one below."""
    order = sorted(heights, key=lambda name: heights[name])
    placed = {}
    floor = 0.0
    for name in order:
        placed[name] = max(heights[name], floor)
        floor = placed[name] + gap
    return placed


def height_of(n_rows: int) -> float:
    """Inches for a picture with so many rows."""
    return 1.25 + 0.34 * max(n_rows, 3)


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG that depend on nothing but what is drawn."""
    body = io.BytesIO()
    figure.savefig(body, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
    return body.getvalue()
