"""The report shows segments, corrected p-values, the oracle bound and deviations, and does without them."""

from __future__ import annotations

import re

import pytest

from retrieval import report
from retrieval.report import render_html, render_text, segment_table
from retrieval.report_view import view_evaluation


@pytest.fixture
def evaluation():
    def part(n_users: int, final: float) -> dict:
        return {"n_users": n_users, "stages": {"ease": {"ndcg@10": 0.05}, "final": {"ndcg@10": final}}}

    def spread(mean: float, deviation: float) -> dict:
        return {"ndcg@10": {"mean": mean, "deviation": deviation}}

    return {
        "dataset": "Tiny films",
        "split": "time",
        "stages": {"ease": {"ndcg@10": 0.05}, "final": {"ndcg@10": 0.08}},
        "final_vs": {"ease": {"diff": 0.03, "low": 0.01, "high": 0.05, "p": 0.01, "p_holm": 0.02}},
        "oracle": {"ndcg@10": 0.4321},
        "ceiling": 0.5,
        "segments": {"history": {"1-2": part(1200, 0.06), "21+": part(30, 0.09)}, "segment": {}},
        "seeds": {"n": 3, "stages": {"ease": spread(0.05, 0.0), "final": spread(0.08, 0.0011)}},
    }


def test_a_segment_table_has_a_column_per_segment_with_its_users(evaluation):
    header, rows = segment_table(view_evaluation(evaluation), "history")
    assert header == ["stage", "1-2 (1,200)", "21+ (30)"]
    assert rows == [["ease", "0.0500", "0.0500"], ["final", "0.0600", "0.0900"]]


def test_the_text_says_all_of_it(evaluation):
    text = render_text(evaluation)
    assert "NDCG@10 by length of the history\nstage" in text
    assert "NDCG@10 by segment" not in text  # that table is empty
    assert re.search(r"final - ease\s+\+0\.0300\s+\+0\.0100 to \+0\.0500\s+0\.0200\s+better", text)
    assert "A perfect order of the candidates would have NDCG@10 0.4321." in text
    assert re.search(r"Deviation over the seeds\nstage\s+ndcg@10\n[- ]+\nease\s+0\.0000\nfinal\s+0\.0011", text)


def test_the_page_says_all_of_it(evaluation):
    page = render_html(evaluation)
    assert "<th>1-2 (1,200)</th>" in page
    assert "<th>p (Holm)</th>" in page
    assert '<td>0.0200</td><td class="better">better</td></tr>' in page
    assert "NDCG@10 0.4321" in page


def test_an_evaluation_of_one_seed_without_p_values_is_shown_as_before(evaluation):
    for key in ("oracle", "segments", "seeds"):
        del evaluation[key]
    del evaluation["final_vs"]["ease"]["p_holm"]
    text = render_text(evaluation)
    assert "Holm" not in text
    assert "Deviation" not in text


def test_a_segment_without_figures_is_refused(evaluation):
    evaluation["segments"]["history"]["1-2"]["stages"] = 3
    with pytest.raises(ValueError, match="expected 1-2 to map stage names to figures, got 3"):
        render_text(evaluation)


def test_a_difference_is_called_one_only_if_its_corrected_p_value_says_so_too():
    assert report._verdict(0.01, 0.2, None) == "better"
    assert report._verdict(0.01, 0.2, 0.04) == "better"
    assert report._verdict(0.01, 0.2, 0.4) == "no clear difference"
    assert report._verdict(-0.2, -0.01, 0.001) == "worse"
