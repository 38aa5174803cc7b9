"""Build the run report: one HTML page that needs nothing else, and report.json with exact values."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChainableUndefined, Environment, PackageLoader, Undefined
from markupsafe import Markup

from leanrec.errors import LeanRecError
from leanrec.files import write_json, write_text
from leanrec.report import charts, formats
from leanrec.report.figures import NAMES, OURS, collect_figures
from leanrec.report.inputs import ReportInputs, read_content

HTML_FILE = "report.html"
JSON_FILE = "report.json"
LATEST = "latest"

CURVES = {
    "loss": "training loss",
    "metric": "validation figure",
    "ndcg": "validation NDCG",
    "auc": "validation AUC",
    "rmse": "validation RMSE",
}
"""Figures of an epoch -> what a person reads; those that an epoch lacks are left out."""

STARTS = {"warm": "from the release", "full": "from nothing"}
"""Where training started, as starts.json names it -> what a person reads."""

METRICS = ("ndcg", "recall", "hit_rate", "mrr", "coverage")


def build_report(inputs: ReportInputs, output: Path) -> Path:
    """Write `report.html` and `report.json` into the folder `output`; answers the page's path.

    A run that failed gets a report too: what is there is shown, and what stopped it stands on top.
    """
    figures = collect_figures(inputs, read_content(inputs))
    write_json(Path(output) / JSON_FILE, figures)
    page = Path(output) / HTML_FILE
    write_text(page, render(figures))
    return page


def render(figures: dict[str, Any]) -> str:
    """The page for the content of report.json."""
    environment = Environment(
        loader=PackageLoader("leanrec.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,
    )
    environment.filters.update(_filters())
    style = environment.loader.get_source(environment, "style.css")[0] if environment.loader else ""
    return environment.get_template("report.html.j2").render(
        **figures,
        names=NAMES,
        ours=OURS,
        metrics=METRICS,
        start_names=STARTS,
        style=Markup(style),  # noqa: S704  (our own file)
        plots=_plots(figures),
        missed=[(gate["gate"], c) for gate in figures["gates"] for c in gate["checks"] if not c["passed"]],
        settings_text=yaml.safe_dump(figures["settings"], sort_keys=False) if figures["settings"] else "",
    )


def write_latest(runs: Path, run: Path) -> Path:
    """Point `runs/latest` to the folder `run` inside `runs`, in one step; answers the link's path.

    Raises a LeanRecError when something that is not a link stands in its place.
    """
    runs, run = Path(runs), Path(run)
    link = runs / LATEST
    if link.exists() and not link.is_symlink():
        raise LeanRecError(f"{link}: is not a link to the newest run but a file or folder; move it away")
    target = os.path.relpath(run.resolve(), runs.resolve())
    # A link cannot be written over, but it can be renamed over.
    with tempfile.TemporaryDirectory(prefix=f".{LATEST}.", dir=runs) as beside:
        fresh = Path(beside) / LATEST
        fresh.symlink_to(target)
        fresh.replace(link)
    return link


def _filters() -> dict[str, Callable[..., str]]:
    """The formats by name; a figure that an artifact lacks is shown as missing."""

    def lenient(function: Callable[..., str]) -> Callable[..., str]:
        return lambda value, *rest: function(None if isinstance(value, Undefined) else value, *rest)

    return {
        name.removeprefix("format_"): lenient(function)
        for name, function in vars(formats).items()
        if name.startswith("format_")
    }


def _plots(figures: dict[str, Any]) -> dict[str, Any]:
    """Every plot that the figures suffice for, by name."""
    names = ("starts", "intervals", "calibration", "front", "parity", "latency", "offline", "online")
    plots: dict[str, Any] = {**dict.fromkeys(names), "curves": _curves(figures["curves"] or {})}
    evaluation, front, parity = figures["evaluation"], figures["compression"], figures["parity"]
    if evaluation:
        plots["intervals"] = charts.draw_intervals(_interval_rows(evaluation), "NDCG@10")
        plots["calibration"] = charts.draw_calibration(evaluation["ranking"]["calibration"])
    if figures["starts"]:
        plots["starts"] = charts.draw_intervals(_start_rows(figures["starts"]), "NDCG@10")
    if front:
        plots["front"] = charts.draw_front(front["candidates"], front["chosen"])
    if parity and parity.get("histogram"):
        plots["parity"] = charts.draw_histogram(parity["histogram"])
    releases = figures["releases"]
    if releases and len(releases["releases"]) > 1:
        plots["offline"] = charts.draw_intervals(_release_rows(releases, _offline), "NDCG@10")
    if releases and (rows := _release_rows(releases, _online)):
        plots["online"] = charts.draw_intervals(rows, "clicks of impressions")
    latency = (figures["smoke"] or {}).get("latency_ms")
    if latency and latency.get("p50") is not None:
        plots["latency"] = charts.draw_latency(latency)
    return plots


def _curves(curves: dict[str, Any]) -> list[dict[str, Any]]:
    drawn = []
    for model, epochs in curves.items():
        for figure, label in CURVES.items():
            title = f"{model.capitalize()}: {label}"
            plot = charts.draw_curve(title, epochs, figure, label)
            if plot:
                drawn.append({"title": title, "plot": plot})
    return drawn


def _interval_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    intervals = evaluation["intervals"]["ndcg@10"]
    return [
        {"name": title, "ours": name == OURS, **intervals[name]}
        for name, title in NAMES.items()
        if name in intervals
    ]


def _start_rows(starts: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": STARTS[start], "ours": start == starts["chosen"], **figures["test"]["ndcg@10"]}
        for start, figures in starts["starts"].items()
    ]


def _release_rows(
    releases: dict[str, Any], interval_of: Callable[[dict[str, Any]], dict[str, float] | None]
) -> list[dict[str, Any]]:
    """What `draw_intervals` takes, for the releases that have the figure."""
    return [
        {
            "name": f"release {release['version']}, {release['role']}",
            "ours": release["version"] == releases["stable"],
            **interval,
        }
        for release in releases["releases"]
        if (interval := interval_of(release))
    ]


def _offline(release: dict[str, Any]) -> dict[str, float] | None:
    return release["offline"]["ndcg@10"]


def _online(release: dict[str, Any]) -> dict[str, float] | None:
    online = release["online"] or {}
    interval = online.get("click_through_interval")
    return interval and {"value": online["click_through"], "low": interval[0], "high": interval[1]}
