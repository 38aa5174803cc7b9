"""The content of report.json, and the few figures a person looks for first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from leanrec.report.flow import measure_durations, trace_steps
from leanrec.report.formats import (
    format_bytes,
    format_change,
    format_duration,
    format_figure,
    format_ms,
    format_ratio,
    format_share,
    format_tiny,
)
from leanrec.report.inputs import Content, ReportInputs, finite

OURS = "chain"
NAMES = {
    "chain": "LeanRec (retriever + ranker)",
    "retriever": "retriever alone",
    "item_knn": "item-KNN",
    "popularity": "popularity",
}
"""What evaluation.json calls them -> what a person reads, in the order shown."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One tile of the strip: the figure, and the sentence that puts it into proportion."""

    name: str
    text: str
    note: str
    value: float | int | str | None
    """Exact."""
    good: bool | None = None
    """Whether it keeps its bound; None where there is none."""


def collect_figures(inputs: ReportInputs, content: Content) -> dict[str, Any]:
    """Every figure of the run, exact, as report.json holds them."""
    missed = [gate["gate"] for gate in content.gates if not gate["passed"]]
    steps = trace_steps(inputs.run, inputs.journal, missed)
    durations = measure_durations(inputs.run, inputs.journal)
    run = inputs.run
    collected = {
        "run": {
            "name": run.name,
            "run_id": run.run_id,
            "started": run.started,
            "code_version": run.code_version,
            "succeeded": run.failure is None,
            "failure": run.failure,
        },
        "headline": [asdict(tile) for tile in headline(inputs, content)],
        "seconds": asdict(durations),
        "steps": [asdict(step) for step in steps],
        "rows": content.num_rows,
        "gates": content.gates,
        "validation": content.validation,
        "drift": content.drift,
        "curves": content.curves,
        "starts": content.starts,
        "evaluation": content.evaluation,
        "compression": content.front,
        "parity": content.parity,
        "release": content.release,
        "smoke": content.smoke,
        "releases": content.releases,
        "unreadable": content.unreadable,
        "settings": inputs.settings,
    }
    return dict(finite(collected))


def headline(inputs: ReportInputs, content: Content) -> list[Headline]:
    """The figures that the run has come far enough to know, at most ten."""
    tiles = [
        *_quality(content),
        *_compression(content),
        _latency(content),
        _parity(content),
        _release(content),
        _duration(inputs),
    ]
    return [tile for tile in tiles if tile is not None]


def parity_of(content: Content) -> dict[str, Any] | None:
    """The graph furthest from the trainer among those with a bound on that: the uncompressed ones."""
    graphs = [
        g
        for g in (content.parity or {}).get("graphs", [])
        if g.get("max_score_difference") is not None and g.get("bound")
    ]
    return max(graphs, key=lambda g: g["max_score_difference"] / g["bound"]) if graphs else None


def _quality(content: Content) -> list[Headline]:
    if not content.evaluation:
        return []
    lists, ranking = content.evaluation["retrieval"], content.evaluation["ranking"]
    ours = lists[OURS]["ndcg@10"]
    tiles = [Headline(name="NDCG@10", text=format_figure(ours), note=_interval_note(content), value=ours)]
    for name in ("item_knn", "popularity"):
        theirs = lists.get(name, {}).get("ndcg@10")
        if theirs:
            change = ours / theirs - 1
            note = f"its NDCG@10 is {format_figure(theirs)}"
            tiles.append(
                Headline(
                    name=f"against {NAMES[name]}",
                    text=format_change(change),
                    note=note,
                    value=change,
                    good=change > 0,
                )
            )
    liked = content.evaluation["protocol"]["liked_share"]
    auc, ece = ranking["auc"], ranking["ece"]
    chance = f"will it be liked? {format_share(liked)} are"
    bins = "of P(like), bins of equal mass"
    return [
        *tiles,
        Headline(name="AUC", text=format_figure(auc), note=chance, value=auc),
        Headline(name="calibration error", text=format_share(ece), note=bins, value=ece),
    ]


def _interval_note(content: Content) -> str:
    interval = (content.evaluation or {}).get("intervals", {}).get("ndcg@10", {}).get(OURS)
    if not interval:
        return "full ranking, held-out test events"
    return f"95 %: {format_figure(interval['low'])} to {format_figure(interval['high'])}"


def _compression(content: Content) -> list[Headline]:
    front = content.front or {}
    by_name = {c["recipe"]: c for c in front.get("candidates", [])}
    chosen, base = by_name.get(front.get("chosen", "")), by_name.get(front.get("baseline", ""))
    if not chosen or not base or not chosen.get("bytes"):
        return []
    ratio = base["bytes"] / chosen["bytes"]
    note = f"{format_ratio(ratio)} smaller than {front['baseline']} ({format_bytes(base['bytes'])})"
    if chosen is base:
        others = [c.get("within_floor", True) for c in by_name.values() if c is not base]
        missed = others and not any(others)
        note = f"uncompressed: no recipe {'is within the quality floor' if missed else 'did better'}"
    return [
        Headline(name="served bytes", text=format_bytes(chosen["bytes"]), note=note, value=chosen["bytes"])
    ]


def _latency(content: Content) -> Headline | None:
    latency = (content.smoke or {}).get("latency_ms") or {}
    if latency.get("p50") is None:
        return None
    return Headline(
        name="latency p50",
        text=format_ms(latency["p50"]),
        note=f"Triton over gRPC; p99 {format_ms(latency.get('p99'))}",
        value=latency["p50"],
    )


def _parity(content: Content) -> Headline | None:
    worst = parity_of(content)
    if worst is None:
        return None
    difference, bound = worst["max_score_difference"], worst.get("bound")
    return Headline(
        name="parity",
        text=format_tiny(difference),
        note=f"largest score difference ({worst.get('recipe', '')}), bound {format_tiny(bound)}",
        value=difference,
        good=None if bound is None else difference <= bound,
    )


def _release(content: Content) -> Headline | None:
    release = content.release
    if not release:
        return None
    previous = release.get("previous")
    note = f"{release.get('recipe') or 'published'}, " + (
        f"after v{previous}" if previous else "the first one"
    )
    return Headline(name="release", text=f"v{release['version']}", note=note, value=release["version"])


def _duration(inputs: ReportInputs) -> Headline | None:
    durations = measure_durations(inputs.run, inputs.journal)
    if not durations.total:  # in the cluster Kubeflow keeps the time
        return None
    return Headline(
        name="duration",
        text=format_duration(durations.total),
        note=f"{format_share(durations.orchestration_share)} of it orchestration",
        value=durations.total,
    )
