"""The JSON of an evaluation in, a table for the terminal and a page to send around out.

The page is one file: pictures are inside it, nothing is loaded from anywhere, and its own policy forbids scripts.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping
from pathlib import Path

from retrieval.report_view import (
    FINAL,
    EvaluationView,
    Stages,
    best_of,
    metrics_of,
    view_evaluation,
)

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
DASH = "–"
SEGMENT_TITLES = {
    "history": "by length of the history",
    "popularity": "by popularity of the target",
    "segment": "by segment of the user",
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
 body {{ margin: 0; background: #f5f6f8; color: #1f2933; font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }}
 main {{ max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }}
 h1 {{ font-size: 24px; margin: 0 0 2px; }} h2 {{ font-size: 17px; margin: 0 0 12px; }}
 p.facts {{ color: #667085; margin: 0 0 24px; }} p.note {{ color: #667085; font-size: 13px; margin: 10px 0 0; }}
 section {{ background: #fff; border: 1px solid #e4e7ec; border-radius: 10px; padding: 18px 20px; margin: 0 0 18px;
   overflow-x: auto; }}
 table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
 th, td {{ padding: 6px 10px; text-align: right; border-bottom: 1px solid #eef0f3; white-space: nowrap; }}
 th {{ color: #667085; font-weight: 600; font-size: 13px; }}
 th:first-child, td:first-child {{ text-align: left; }}
 tr.final td {{ background: #fdf3f0; }} td.best {{ font-weight: 700; }}
 td.better {{ color: #12806a; font-weight: 600; }} td.worse {{ color: #c23a1e; font-weight: 600; }}
 .pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 18px;
   margin: 0 0 18px; }}
 .pictures section {{ margin: 0; }} img {{ width: 100%; height: auto; display: block; }}
 details pre {{ font-size: 12px; overflow-x: auto; }} summary {{ cursor: pointer; color: #667085; }}
</style></head><body><main>
{body}
</main></body></html>
"""

SIGNIFICANT = 0.05
"""A corrected p-value below this is called a difference."""


def render_text(evaluation: Mapping[str, object], *, bold: bool = False) -> str:
    """The tables for a terminal: a row per stage, the best of each column with a star (and bold, where asked for).

    Raises:
        ValueError: not an evaluation, see `retrieval.report_view.view_evaluation`.
    """
    view = view_evaluation(evaluation)
    blocks = [view.heading, _text_stages(view.stages, bold=bold)]
    if view.ceiling is not None:
        blocks.append(f"Ceiling: {view.ceiling:.4f} of the targets are among the candidates that are reranked.")
    if view.oracle is not None:
        blocks.append(f"A perfect order of the candidates would have NDCG@10 {view.oracle:.4f}.")
    if view.deviations:
        blocks.append("Deviation over the seeds\n" + _text_stages(view.deviations, bold=False, stars=False))
    for name, (n_users, stages) in view.parts.items():
        users = "" if n_users is None else f" ({n_users:,} users)"
        blocks.append(f"{name} items{users}\n" + _text_stages(stages, bold=bold))
    for title in view.segments:
        header, rows = segment_table(view, title)
        blocks.append(f"NDCG@10 {SEGMENT_TITLES.get(title, f'by {title}')}\n" + _text_table(header, rows))
    if view.final_vs:
        rows = [[f"final - {name}", *cells] for name, cells in _interval_cells(view)]
        blocks.append(_text_table(["NDCG@10", *_interval_header(view)], rows))
    if view.fusion:
        rows = [[name, f"{value:+.4f}"] for name, value in view.fusion.items()]
        blocks.append(f"{view.fusion_unit}\n" + _text_table(["part", "value"], rows))
    if view.seconds:
        blocks.append("seconds: " + " · ".join(f"{name} {value:,.1f}" for name, value in view.seconds.items()))
    return "\n\n".join(blocks) + "\n"


def render_html(evaluation: Mapping[str, object]) -> str:
    """The page: tables, pictures and, folded away, the JSON itself.

    Raises:
        ValueError: not an evaluation. ImportError: matplotlib is not installed; the message says how to get it.
    """
    from retrieval.report_plots import plot_evaluation

    view = view_evaluation(evaluation)
    parts = [
        f"<h1>{html.escape(view.dataset)}</h1>",
        f'<p class="facts">{html.escape(view.heading.removeprefix(view.dataset + " · "))}</p>',
        _section("All stages", _html_stages(view.stages) + _ceiling_note(view)),
        '<div class="pictures">',
        *(_picture(title, body) for title, body in plot_evaluation(view).items()),
        "</div>",
    ]
    if view.final_vs:
        parts.append(_section("NDCG@10 of the final list against each stage", _html_intervals(view)))
    for name, (n_users, stages) in view.parts.items():
        users = "" if n_users is None else f" ({n_users:,} users)"
        parts.append(_section(f"{name.capitalize()} items{users}", _html_stages(stages)))
    for title in view.segments:
        name = SEGMENT_TITLES.get(title, f"by {title}")
        parts.append(_section(f"NDCG@10 {name}", _html_segments(view, title)))
    raw = html.escape(json.dumps(evaluation, indent=1, ensure_ascii=False, default=str))
    parts.append(f"<section><details><summary>The figures as JSON</summary><pre>{raw}</pre></details></section>")
    return _PAGE.format(title=html.escape(f"{view.dataset}: evaluation"), body="\n".join(parts))


def check_report_path(path: str | Path) -> None:
    """Tell that a report can be made there, before the hours that its figures take.

    Raises:
        ValueError: another ending than .html, .htm, .png or .txt. ImportError: matplotlib is not installed.
    """
    kind = Path(path).suffix.lower()
    if kind not in (".html", ".htm", ".png", ".txt"):
        raise ValueError(f"expected a report path that ends in .html, .png or .txt, got {str(path)!r}")
    if kind != ".txt":
        import retrieval.report_plots  # noqa: F401 - says what to install


def write_report(evaluation: Mapping[str, object], path: str | Path) -> Path:
    """Write the page (.html), all pictures in one (.png) or the tables (.txt), by the path's ending; all or nothing.

    Raises:
        ValueError: another ending, or not an evaluation. ImportError: matplotlib is not installed.
    """
    path = Path(path)
    check_report_path(path)
    kind = path.suffix.lower()
    if kind in (".html", ".htm"):
        body = render_html(evaluation).encode()
    elif kind == ".png":
        from retrieval.report_plots import plot_overview

        body = plot_overview(view_evaluation(evaluation))
    else:
        body = render_text(evaluation).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(body)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    return path


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.2f}" if metric == "novelty" else f"{value:.4f}"


def segment_table(view: EvaluationView, title: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a segment table: NDCG@10 per stage, a column per segment with its number of users."""
    columns = view.segments[title]
    header = ["stage", *(name if count is None else f"{name} ({count:,})" for name, (count, _) in columns.items())]
    stages = list(dict.fromkeys(stage for _, found in columns.values() for stage in found))
    rows = [
        [stage, *(_number("ndcg@10", found.get(stage, {}).get("ndcg@10")) for _, found in columns.values())]
        for stage in stages
    ]
    return header, rows


def _text_stages(stages: Stages, *, bold: bool, stars: bool = True) -> str:
    metrics = metrics_of(stages)
    best = {metric: best_of(stages, metric) for metric in metrics}
    rows = []
    for stage, figures in stages.items():
        row = [stage]
        for metric in metrics:
            is_best = stars and metric in figures and figures[metric] == best[metric]
            row.append(("*" if is_best else "") + _number(metric, figures.get(metric)))
        rows.append(row)
    return _text_table(["stage", *metrics], rows, bold=bold)


def _text_table(header: list[str], rows: list[list[str]], *, bold: bool = False) -> str:
    """Columns of equal width, the first to the left; cells with a star in bold where asked for."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        for cell, width in zip(cells[1:], widths[1:], strict=True):
            text = cell.rjust(width)
            padded.append(f"{BOLD}{text}{PLAIN}" if bold and cell.startswith("*") else text)
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])


def _interval_header(view: EvaluationView) -> list[str]:
    return ["difference", "95 % interval", *(["p (Holm)"] if view.p_values else []), ""]


def _interval_cells(view: EvaluationView) -> list[tuple[str, list[str]]]:
    """Per stage: difference, interval, p-value where there are any, and what the interval means."""
    return [
        (
            name,
            [
                f"{diff:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                *([f"{view.p_values[name]:.4f}" if name in view.p_values else DASH] if view.p_values else []),
                _verdict(low, high, view.p_values.get(name) if view.p_values else None),
            ],
        )
        for name, (diff, low, high) in view.final_vs.items()
    ]


def _verdict(low: float, high: float, p_holm: float | None) -> str:
    """What an interval means; where many stages are compared, only if the corrected p-value says so too."""
    if p_holm is not None and p_holm >= SIGNIFICANT:
        return "no clear difference"
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _picture(title: str, body: bytes) -> str:
    data = base64.b64encode(body).decode()
    return f'<section><img alt="{html.escape(title)}" src="data:image/png;base64,{data}"></section>'


def _html_stages(stages: Stages) -> str:
    metrics = metrics_of(stages)
    best = {metric: best_of(stages, metric) for metric in metrics}
    lines = ["<table><tr><th>stage</th>" + "".join(f"<th>{html.escape(name)}</th>" for name in metrics) + "</tr>"]
    for stage, figures in stages.items():
        cells = [f"<td>{html.escape(stage)}</td>"]
        for metric in metrics:
            is_best = metric in figures and figures[metric] == best[metric]
            opened = '<td class="best">' if is_best else "<td>"
            cells.append(f"{opened}{_number(metric, figures.get(metric))}</td>")
        opened = '<tr class="final">' if stage == FINAL else "<tr>"
        lines.append(f"{opened}{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])


def _html_intervals(view: EvaluationView) -> str:
    lines = ["<table>", _html_row(["final minus", *_interval_header(view)], "th")]
    for name, (*cells, verdict) in _interval_cells(view):
        mark = f' class="{verdict}"' if verdict in ("better", "worse") else ""
        lines.append(_html_row([name, *cells]).replace("</tr>", f"<td{mark}>{verdict}</td></tr>"))
    note = (
        '<p class="note">Paired bootstrap over users. An interval that holds zero shows no clear difference. '
        "p: sign flips over users, corrected for the number of stages (Holm).</p>"
    )
    return "\n".join([*lines, "</table>", note])


def _html_segments(view: EvaluationView, title: str) -> str:
    header, rows = segment_table(view, title)
    return "\n".join(["<table>", _html_row(header, "th"), *(_html_row(row) for row in rows), "</table>"])


def _html_row(cells: list[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _ceiling_note(view: EvaluationView) -> str:
    if view.ceiling is None:
        return ""
    return (
        f'<p class="note">{view.ceiling:.4f} of the targets are among the candidates that are reranked: '
        "no reranker can bring more of them to the top."
        + (f" A perfect order of them would have NDCG@10 {view.oracle:.4f}." if view.oracle is not None else "")
        + "</p>"
    )
