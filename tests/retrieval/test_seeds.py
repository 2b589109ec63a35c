"""Several seeds become means and deviations, by hand."""

from __future__ import annotations

import pytest

from retrieval.config import Config
from retrieval.seeds import over_seeds, with_seeds


def run(value: float, **more: object) -> dict:
    return {"stages": {"final": {"ndcg@10": value}, "ease": {"ndcg@10": 0.1}}, **more}


def test_means_and_sample_deviations():
    found = over_seeds([run(0.1), run(0.2), run(0.3)])
    assert found["n"] == 3
    assert found["stages"]["final"]["ndcg@10"]["mean"] == pytest.approx(0.2)
    assert found["stages"]["final"]["ndcg@10"]["deviation"] == pytest.approx(0.1)  # sqrt((.01 + 0 + .01) / 2)
    assert found["stages"]["ease"]["ndcg@10"]["deviation"] == pytest.approx(0)


def test_one_run_has_no_deviation():
    assert over_seeds([run(0.1)])["stages"]["final"]["ndcg@10"] == {"mean": 0.1, "deviation": 0.0}


def test_a_stage_that_only_some_runs_have_is_left_out():
    other = {"stages": {"final": {"ndcg@10": 0.2}}}
    assert set(over_seeds([run(0.1), other])["stages"]) == {"final"}


def test_cold_figures_are_spread_too():
    found = over_seeds([run(0.1, cold=run(0.01)), run(0.1, cold=run(0.03))])
    assert found["cold"]["final"]["ndcg@10"]["mean"] == pytest.approx(0.02)


def test_no_run_is_refused():
    with pytest.raises(ValueError, match="expected at least one evaluation"):
        over_seeds([])


def test_each_run_has_its_own_seed_and_the_first_is_told():
    found = with_seeds(lambda config: run(config.seed / 10), Config(seed=4), 3)
    assert found["stages"]["final"]["ndcg@10"] == 0.4
    assert found["seeds"]["stages"]["final"]["ndcg@10"]["mean"] == pytest.approx((0.4 + 0.5 + 0.6) / 3)
    assert "seeds" not in with_seeds(lambda config: run(0.1), Config(), 1)
