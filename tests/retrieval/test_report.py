"""The report: tables say what the figures say, the page is one safe file, pictures are drawn from all of them."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import matplotlib
import pytest

from retrieval.report import render_html, render_text, write_report
from retrieval.report_plots import plot_evaluation
from retrieval.report_view import view_evaluation

PNG = b"\x89PNG\r\n\x1a\n"


def figures(value: float) -> dict[str, float]:
    return {"ndcg@10": value, "recall@10": 2 * value, "recall@50": 3 * value, "recall@100": 4 * value, "novelty": 5.0}


@pytest.fixture
def evaluation():
    stages = {"final": figures(0.12), "popularity": figures(0.05), "recall": figures(0.1), "mine": figures(0.06)}
    return {
        "dataset": "Tiny films",
        "split": "leave-last-out",
        "n_users": 1234,
        "n_items": 56,
        "stages": stages,
        "final_vs": {
            "popularity": {"diff": 0.07, "low": 0.06, "high": 0.08},
            "recall": {"diff": 0.02, "low": -0.01, "high": 0.05},
            "mine": {"diff": -0.06, "low": -0.07, "high": -0.05},
        },
        "seconds": {"encoder": 12.5, "reranker": 1234.0},
        "warm": {"n_users": 1200, "stages": {"final": figures(0.125)}},
        "cold": {"stages": {"final": figures(0.01)}},
        "fusion": {"fused": {"fitted": 0.125}, "without": {"dense": 0.105, "popular": 0.126}},
        "ceiling": {"recall@200": 0.61},
    }


class Page(HTMLParser):
    """Collects what a page would load or run, and what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def row_of(text: str, stage: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(stage)).split()


def test_table_has_a_row_per_stage_with_final_last(evaluation):
    text = render_text(evaluation)
    assert text.startswith("Tiny films · leave-last-out · 1,234 users · 56 items\n")
    table = text.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table[2:]] == ["popularity", "recall", "mine", "final"]
    assert row_of(text, "popularity") == ["popularity", "0.0500", "0.1000", "0.1500", "0.2000", "5.00"]


def test_the_best_of_each_column_has_a_star_but_novelty_has_none(evaluation):
    text = render_text(evaluation)
    assert row_of(text, "final") == ["final", "*0.1200", "*0.2400", "*0.3600", "*0.4800", "5.00"]
    assert "\x1b[1m" not in text
    assert "\x1b[1m*0.1200\x1b[0m" in render_text(evaluation, bold=True)


def test_differences_are_called_what_their_intervals_show(evaluation):
    text = render_text(evaluation)
    verdicts = {line.split()[2]: line for line in text.splitlines() if line.startswith("final - ")}
    assert list(verdicts) == ["popularity", "recall", "mine"]  # largest first
    assert re.search(r"\+0\.0700\s+\+0\.0600 to \+0\.0800\s+better$", verdicts["popularity"])
    assert verdicts["recall"].endswith("no clear difference")
    assert verdicts["mine"].endswith("worse")


def test_warm_cold_ceiling_fusion_and_seconds_are_told(evaluation):
    text = render_text(evaluation)
    assert "warm items (1,200 users)" in text
    assert "cold items\n" in text
    assert "Ceiling: 0.6100" in text
    assert re.search(r"dense\s+\+0\.0200", text)  # 0.125 - 0.105
    assert re.search(r"popular\s+-0\.0010", text)  # 0.125 - 0.126
    assert "encoder 12.5 · reranker 1,234.0" in text


def test_a_figure_that_is_missing_is_a_dash(evaluation):
    evaluation["stages"]["recall"]["recall@50"] = None
    evaluation["stages"]["mine"]["recall@100"] = float("nan")
    text = render_text(evaluation)
    assert row_of(text, "recall")[3] == "–"
    assert row_of(text, "mine")[4] == "–"


def test_grouped_seconds_are_named_after_group_and_step(evaluation):
    evaluation["seconds"] = {"fit": {"encoder": 2, "index": 1}, "evaluate": 3}
    assert view_evaluation(evaluation).seconds == {"fit: encoder": 2, "fit: index": 1, "evaluate": 3}


def test_plain_weights_are_shown_as_weights(evaluation):
    evaluation["fusion"] = {"dense": 0.3, "lexical": -0.1, "rerank": 0.9}
    view = view_evaluation(evaluation)
    assert view.fusion_unit == "weight in the fused score"
    assert list(view.fusion) == ["rerank", "dense", "lexical"]


def test_the_page_loads_nothing_and_runs_nothing(evaluation):
    page = Page()
    page.feed(render_html(evaluation))
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert {"script", "link", "iframe"} & set(page.tags) == set()
    assert page.tags.count("img") == len(plot_evaluation(view_evaluation(evaluation)))


def test_names_are_shown_and_never_run(evaluation):
    bad = "<img src=x onerror=alert(1)>&\"'</pre><script>"
    evaluation["dataset"] = bad
    evaluation["stages"][bad] = figures(0.01)
    evaluation["seconds"][bad] = 1.0
    source = render_html(evaluation)
    assert "<script" not in source
    assert "<img src=x" not in source
    page = Page()
    page.feed(source)
    assert any(bad in text for text in page.text)


def test_one_picture_for_each_group_of_figures(evaluation):
    pictures = plot_evaluation(view_evaluation(evaluation))
    assert list(pictures) == [
        "NDCG@10 by stage",
        "Recall by depth of the list",
        "NDCG@10 of the final list minus each stage",
        "NDCG@10 on warm and cold items",
        "What each part adds to the final list",
        "Wall time by step",
    ]
    assert all(picture.startswith(PNG) for picture in pictures.values())


def test_the_least_that_is_an_evaluation_can_be_reported(tmp_path):
    least = {"dataset": "d", "split": "time", "stages": {"final": {"ndcg@10": 0.0}}}
    assert "final  *0.0000" in render_text(least)
    assert "<h1>d</h1>" in render_html(least)
    assert write_report(least, tmp_path / "r.png").read_bytes().startswith(PNG)


def test_dollars_and_backslashes_in_names_are_not_formulas(evaluation):
    evaluation["stages"] = {r"$\frac$": figures(0.1), "final": figures(0.2)}
    evaluation["final_vs"] = {}
    assert len(plot_evaluation(view_evaluation(evaluation))) == 5


def test_drawing_leaves_the_callers_plot_settings_alone(evaluation):
    before = dict(matplotlib.rcParams)
    plot_evaluation(view_evaluation(evaluation))
    assert dict(matplotlib.rcParams) == before


def test_the_ending_of_the_path_says_what_is_written(evaluation, tmp_path):
    assert write_report(evaluation, tmp_path / "a" / "r.html").read_text().startswith("<!doctype html>")
    assert write_report(evaluation, str(tmp_path / "r.PNG")).read_bytes().startswith(PNG)
    assert write_report(evaluation, tmp_path / "r.txt").read_text() == render_text(evaluation)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "r.PNG", "r.txt"]
    with pytest.raises(ValueError, match=r"ends in \.html, \.png or \.txt, got 'r\.pdf'"):
        write_report(evaluation, "r.pdf")


def test_without_matplotlib_the_tables_work_and_the_page_says_what_to_install(evaluation, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "retrieval.report_plots")
    assert "Tiny films" in render_text(evaluation)
    with pytest.raises(ImportError, match=re.escape('pip install ".[report]"')):
        render_html(evaluation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {}}, "at least one stage with figures"),
        ({"stages": [1]}, "expected stages to map"),
        ({"stages": None}, "expected stages to map"),
        ({"seconds": 3}, "expected seconds to be a mapping, got 3"),
        ({"final_vs": {"ease": {"diff": 1}}}, r"final_vs\['ease'\] with diff, low and high"),
    ],
)
def test_what_is_no_evaluation_is_refused(evaluation, change, message):
    with pytest.raises(ValueError, match=message):
        render_text({**evaluation, **change})


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match=r"\['split', 'stages'\] missing; make one with: tandem evaluate"):
        render_text({"dataset": "d"})
