"""The validation page: one self-contained HTML file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NUM_BARS = 48
_MAX_RATING_BARS = 20


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a chart: what it stands for, its count, and its height in percent of the highest."""

    label: str
    count: int
    height: float


def render_page(report: dict[str, Any], events: pa.Table) -> str:
    """The page for the content of validation.json, with the events' times and ratings as charts."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("leanrec.validation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    by_table = {name: [e for e in report["expectations"] if e["table"] == name] for name in report["rows"]}
    return environment.get_template("validation.html.j2").render(
        report=report,
        by_table=by_table,
        num_broken=sum(not e["passed"] for e in report["expectations"]),
        times=bars_of_times(events),
        ratings=bars_of_ratings(events),
    )


def bars_of_times(events: pa.Table) -> list[Bar]:
    """Events over time in equal spans, oldest first; none when there is nothing to span."""
    if "timestamp" not in events.column_names:
        return []
    times = pc.cast(events["timestamp"].drop_null(), pa.int64()).to_numpy()
    if len(times) == 0:
        return []
    counts, edges = np.histogram(times, bins=_NUM_BARS)
    starts = edges[:-1].astype("datetime64[us]").astype("datetime64[D]")
    return _bars([str(start) for start in starts], counts)


def bars_of_ratings(events: pa.Table) -> list[Bar]:
    """Events for each rating, or for spans of ratings where there are many; NaN is left out."""
    if "rating" not in events.column_names:
        return []
    ratings = events["rating"].to_numpy()
    ratings = ratings[np.isfinite(ratings)]
    values, counts = np.unique(ratings, return_counts=True)
    if len(values) > _MAX_RATING_BARS:
        counts, edges = np.histogram(ratings, bins=_MAX_RATING_BARS)
        values = edges[:-1]
    return _bars([f"{value:g}" for value in values], counts)


def _bars(labels: list[str], counts: np.ndarray) -> list[Bar]:
    highest = max(int(counts.max(initial=0)), 1)
    return [
        Bar(label=label, count=int(count), height=round(100 * int(count) / highest, 2))
        for label, count in zip(labels, counts, strict=True)
    ]
