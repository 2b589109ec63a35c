"""The JSON of an evaluation in, its figures checked and in reading order out: what tables and plots are drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

STAGE_ORDER = ("popularity", "neighbours", "ease", "lexical", "content", "recall", "ceiling")
FINAL = "final"
METRIC_ORDER = ("ndcg@10", "recall@10", "recall@50", "recall@100", "mrr@10", "hit@10", "coverage", "novelty")
HIGHER_IS_BETTER = METRIC_ORDER[:6]  # coverage and novelty describe a list, more of them is not better in itself

Stages = dict[str, dict[str, float]]


@dataclass(frozen=True)
class EvaluationView:
    """Figures ready to show.

    stages: metric values per stage, baselines first, `final` last. parts: the warm and the cold items (or any other
    part of the targets) by name, with the number of users where it is known. final_vs: (diff, low, high) of final
    minus each stage. ceiling: the share of targets among the candidates, which no reranking can exceed.
    fusion: what each part adds to the fused list, largest first; fusion_unit says in which measure.
    p_values: of final against each stage, corrected for their number. segments: per table (history, popularity, ...)
    and segment the number of users and the figures. oracle: NDCG@10 if the candidates were ordered perfectly.
    deviations: of each stage's figures over several seeds.
    """

    dataset: str
    split: str
    n_users: int | None
    n_items: int | None
    stages: Stages
    parts: dict[str, tuple[int | None, Stages]]
    final_vs: dict[str, tuple[float, float, float]]
    seconds: dict[str, float]
    fusion: dict[str, float]
    fusion_unit: str
    ceiling: float | None
    p_values: dict[str, float] = field(default_factory=dict)
    segments: dict[str, dict[str, tuple[int | None, Stages]]] = field(default_factory=dict)
    oracle: float | None = None
    deviations: Stages = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """One line that says what was evaluated on what."""
        counts = [
            f"{count:,} {noun}"
            for count, noun in ((self.n_users, "users"), (self.n_items, "items"))
            if count is not None
        ]
        return " · ".join([self.dataset, self.split, *counts])


def view_evaluation(evaluation: Mapping[str, object]) -> EvaluationView:
    """Check and order an evaluation as `tandem evaluate --json` writes it.

    Required: dataset, split, stages. A figure that is null or not finite counts as absent. Keys that are not known
    here are left alone.

    Raises:
        ValueError: a required key is missing, or something that must be a mapping or a number is not.
    """
    missing = {"dataset", "split", "stages"} - set(evaluation)
    if missing:
        raise ValueError(
            f"expected an evaluation with dataset, split and stages, {sorted(missing)} missing; "
            "make one with: tandem evaluate --json FILE"
        )
    parts = {}
    for name in ("warm", "cold"):
        if evaluation.get(name):
            block = _mapping(evaluation, name)
            parts[name] = (_count(block, "n_users"), _stages(block.get("stages", block), name))
    fusion, unit = _fusion(evaluation)
    return EvaluationView(
        dataset=str(evaluation["dataset"]),
        split=str(evaluation["split"]),
        n_users=_count(evaluation, "n_users"),
        n_items=_count(evaluation, "n_items"),
        stages=_stages(evaluation["stages"], "stages"),
        parts=parts,
        final_vs=_intervals(evaluation),
        seconds=_seconds(evaluation),
        fusion=dict(sorted(fusion.items(), key=lambda item: -item[1])),
        fusion_unit=unit,
        ceiling=_ceiling(evaluation),
        p_values=_p_values(evaluation),
        segments=_segments(evaluation),
        oracle=_numbers(_mapping(evaluation, "oracle")).get("ndcg@10"),
        deviations=_deviations(evaluation),
    )


def metrics_of(stages: Stages) -> list[str]:
    """The metrics that any stage has, the known ones first."""
    present = {metric: None for values in stages.values() for metric in values}
    return [metric for metric in METRIC_ORDER if metric in present] + [
        metric for metric in present if metric not in METRIC_ORDER
    ]


def best_of(stages: Stages, metric: str) -> float | None:
    """The highest value of a metric where higher is better, else None."""
    values = [figures[metric] for figures in stages.values() if metric in figures]
    return max(values) if values and metric in HIGHER_IS_BETTER else None


def _stages(value: object, key: str) -> Stages:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected {key} to map stage names to figures, got {value!r}")
    found = {str(name): _numbers(figures) for name, figures in value.items() if isinstance(figures, Mapping)}
    if key == "stages" and not any(found.values()):
        raise ValueError(f"expected at least one stage with figures, got {value!r}")
    known = [*STAGE_ORDER]

    def place(name: str) -> tuple[int, int]:
        return (2, 0) if name == FINAL else (0, known.index(name)) if name in known else (1, 0)

    return {name: found[name] for name in sorted(found, key=place) if found[name]}


def _intervals(evaluation: Mapping[str, object]) -> dict[str, tuple[float, float, float]]:
    found = {}
    for name, value in _mapping(evaluation, "final_vs").items():
        figures = _numbers(value) if isinstance(value, Mapping) else {}
        if not {"diff", "low", "high"} <= set(figures):
            raise ValueError(f"expected final_vs[{name!r}] with diff, low and high, got {value!r}")
        found[str(name)] = (figures["diff"], figures["low"], figures["high"])
    return {name: found[name] for name in sorted(found, key=lambda name: -found[name][0])}


def _p_values(evaluation: Mapping[str, object]) -> dict[str, float]:
    found = {
        str(name): _finite(value.get("p_holm"))
        for name, value in _mapping(evaluation, "final_vs").items()
        if isinstance(value, Mapping)
    }
    return {name: p for name, p in found.items() if p is not None}


def _segments(evaluation: Mapping[str, object]) -> dict[str, dict[str, tuple[int | None, Stages]]]:
    tables = {}
    for title in _mapping(evaluation, "segments"):
        table = _mapping(_mapping(evaluation, "segments"), title)
        blocks = {name: _mapping(table, name) for name in table}
        found = {name: (_count(block, "n_users"), _stages(block.get("stages"), name)) for name, block in blocks.items()}
        if found:
            tables[title] = found
    return tables


def _deviations(evaluation: Mapping[str, object]) -> Stages:
    """The deviation of every stage's figures, where there were several seeds."""
    block = _mapping(evaluation, "seeds")
    if (_count(block, "n") or 0) < 2:
        return {}
    found = {}
    for stage, metrics in _mapping(block, "stages").items():
        if isinstance(metrics, Mapping):
            spread = {str(m): _numbers(value) for m, value in metrics.items() if isinstance(value, Mapping)}
            found[str(stage)] = {m: values["deviation"] for m, values in spread.items() if "deviation" in values}
    return found


def _fusion(evaluation: Mapping[str, object]) -> tuple[dict[str, float], str]:
    """Either plain numbers per part, or the figures of a fitted fusion, from which the loss without each is taken."""
    block = _mapping(evaluation, "fusion")
    fused, without = block.get("fused"), block.get("without")
    if isinstance(fused, Mapping) and isinstance(without, Mapping):
        whole = _numbers(fused).get("fitted")
        if whole is not None:
            losses = {name: whole - value for name, value in _numbers(without).items()}
            return losses, "NDCG@10 on validation lost without this part"
    weights = block.get("weights")
    return _numbers(weights if isinstance(weights, Mapping) else block), "weight in the fused score"


def _seconds(evaluation: Mapping[str, object]) -> dict[str, float]:
    """Seconds by step; the steps of a group are named after both."""
    found: dict[str, float] = {}
    for name, value in _mapping(evaluation, "seconds").items():
        if isinstance(value, Mapping):
            found |= {f"{name}: {step}": seconds for step, seconds in _numbers(value).items()}
        else:
            found |= _numbers({name: value})
    return found


def _ceiling(evaluation: Mapping[str, object]) -> float | None:
    value = evaluation.get("ceiling")
    if isinstance(value, Mapping):
        recalls = [figure for name, figure in _numbers(value).items() if name.startswith("recall")]
        return max(recalls) if recalls else None
    return _finite(value)


def _mapping(evaluation: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = evaluation.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"expected {key} to be a mapping, got {value!r}")
    return value


def _count(evaluation: Mapping[str, object], key: str) -> int | None:
    value = _finite(evaluation.get(key))
    return None if value is None else int(value)


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    found = {str(name): _finite(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
