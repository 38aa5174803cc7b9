"""The report's plots, each from the plain values of report.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from leanrec.report.formats import format_bytes, format_figure, format_ms, format_tiny
from leanrec.report.svg import LEFT, RIGHT, WIDTH, Plot, Point, span

BAR = 18
ROW = 48


def draw_curve(title: str, epochs: Sequence[dict[str, Any]], figure: str, label: str) -> Markup | None:
    """One figure over the epochs; None when no epoch has it."""
    points = [(float(e["epoch"]), float(e[figure])) for e in epochs if e.get(figure) is not None]
    if not points:
        return None
    xs = (min(x for x, _ in points), max(x for x, _ in points))
    words, ys = f"{title}: {label} over {len(points)} epochs", span([y for _, y in points])
    plot = Plot(title=words, x=xs, y=ys, height=190)
    plot.axes("epoch", "", lambda v: f"{v:.0f}", lambda v: f"{v:.3g}", whole_x=True).line(points)
    for epoch, value in points:
        plot.dot((epoch, value), f"epoch {epoch:.0f}: {value:.4f}", radius=2.5)
    return plot.markup()


def draw_intervals(rows: Sequence[dict[str, Any]], figure: str) -> Markup:
    """A bar and a 95 % interval for each row {name, value, low, high, ours}."""
    highest = max([row["high"] for row in rows] + [row["value"] for row in rows]) or 1.0
    height = ROW * len(rows) + 22
    title = f"{figure} of " + ", ".join(row["name"] for row in rows)
    plot = Plot(title=title, x=(0, highest * 1.14), y=(0, 1), height=height)

    def across(value: float) -> float:
        return 4 + (WIDTH - RIGHT - 4) * value / (highest * 1.14)

    for place, row in enumerate(rows):
        top = place * ROW
        middle = top + 17 + BAR / 2
        kind = "accent" if row["ours"] else "other"
        plot.text(4, top + 12, row["name"], kind="label" if row["ours"] else "tick")
        hint = f"{row['name']}: {row['value']:.4f}, 95 % {row['low']:.4f} to {row['high']:.4f}"
        plot.bar(4, top + 17, across(row["value"]) - 4, BAR, hint, kind)
        plot.whisker(across(row["low"]), across(row["high"]), middle)
        plot.text(across(row["high"]) + 5, middle + 4, format_figure(row["value"]), kind="label")
    plot.text(4, height - 8, f"{figure}; whiskers: 95 % interval over users", kind="name")
    return plot.markup()


def draw_calibration(points: Sequence[dict[str, Any]]) -> Markup:
    """Predicted P(like) against the share observed; the diagonal is perfection."""
    plot = Plot(
        title="Calibration: predicted against observed share of likes", x=(0, 1), y=(0, 1), height=260
    )
    plot.axes("predicted P(like)", "observed share", lambda v: f"{v:.1f}", lambda v: f"{v:.1f}")
    plot.line([(0, 0), (1, 1)], kind="ideal")
    plot.line([(p["predicted"], p["observed"]) for p in points])
    for p in points:
        hint = f"predicted {p['predicted']:.3f}, observed {p['observed']:.3f}, {p['count']:,} pairs"
        plot.dot((p["predicted"], p["observed"]), hint)
    return plot.markup()


def draw_front(candidates: Sequence[dict[str, Any]], chosen: str) -> Markup | None:
    """Bytes against p50 latency, a dot a recipe; hollow: below the quality floor; filled large: chosen.

    The dashed line is the front of the two among those within the floor.
    """
    measured = [c for c in candidates if c.get("bytes") is not None and _p50(c) is not None]
    if not measured:
        return None
    megabytes = [c["bytes"] / 1e6 for c in measured]
    latencies = [float(_p50(c) or 0) for c in measured]
    plot = Plot(
        title="Recipes by bytes served and latency; " + f"{chosen} is chosen",
        x=span(megabytes, from_zero=True, margin=0.16),
        y=span(latencies, from_zero=True, margin=0.16),
        height=260,
    )
    plot.axes("megabytes served", "p50 latency, ms", lambda v: f"{v:g}", lambda v: f"{v:g}")
    fit = [c.get("within_floor", True) for c in measured]
    plot.line(staircase([(x, y) for x, y, ok in zip(megabytes, latencies, fit, strict=True) if ok]), "ideal")
    dots = []
    for c, x, y in zip(measured, megabytes, latencies, strict=True):
        name, ours = c["recipe"], c["recipe"] == chosen
        kind = "accent" if ours else "other" if c.get("within_floor", True) else "hollow"
        plot.dot((x, y), f"{name}: {format_bytes(c['bytes'])}, {format_ms(y)}", kind, radius=7 if ours else 5)
        dots.append((x, y, name, "label" if ours else "tick"))
    _name_dots(plot, dots)
    return plot.markup()


def draw_latency(latency: dict[str, Any]) -> Markup:
    """Bars of p50, p95 and p99."""
    rows = [(name, float(latency[name])) for name in ("p50", "p95", "p99") if latency.get(name) is not None]
    highest = max(value for _, value in rows) or 1.0
    plot = Plot(title="Latency: " + ", ".join(f"{n} {format_ms(v)}" for n, v in rows), x=(0, 1), y=(0, 1))
    plot.height = 34 * len(rows) + 6
    for place, (name, value) in enumerate(rows):
        top = place * 34 + 6
        width = max(2.0, (WIDTH - LEFT - 76) * value / highest)
        plot.text(4, top + 14, name, kind="label" if name == "p50" else "tick")
        kind = "accent" if name == "p50" else "other"
        plot.bar(LEFT, top, width, BAR, f"{name} {format_ms(value)}", kind)
        plot.text(LEFT + width + 6, top + 14, format_ms(value), kind="label")
    return plot.markup()


def draw_histogram(histogram: dict[str, Any]) -> Markup | None:
    """Score differences {"edges": n + 1 values, "counts": n}, both axes logarithmic: few large ones show."""
    edges, counts = histogram.get("edges") or [], histogram.get("counts") or []
    if len(edges) != len(counts) + 1 or not counts or edges[-1] <= edges[0]:
        return None
    # The first bin begins at 0, which has no logarithm: it is drawn as wide as a power of ten.
    places = [math.log10(edge) for edge in edges[1:]]
    places = [places[0] - 1, *places]
    tallest = math.log10(1 + max(counts))
    plot = Plot(
        title=f"Differences between trainer and Triton, {sum(counts):,} scores, "
        f"the largest below {format_tiny(edges[-1])}",
        x=(places[0], places[-1]),
        y=span([0.0, tallest], from_zero=True),
    )
    powers = [math.log10(1 + 10**power) for power in range(math.floor(tallest) + 1)]
    plot.axes(
        "|trainer − Triton|", "", _power_of_ten, lambda v: f"{10**v - 1:,.0f}", whole_x=True, y_ticks=powers
    )
    for low, high, start, end, count in zip(edges, edges[1:], places, places[1:], counts, strict=False):
        if not count:
            continue
        left, top = plot.at(start, math.log10(1 + count))
        right, bottom = plot.at(end, 0)
        hint = f"{count:,} scores differ by {format_tiny(low)} to {format_tiny(high)}"
        plot.bar(left + 0.5, top, right - left - 1, bottom - top, hint)
    return plot.markup()


def _power_of_ten(exponent: float) -> str:
    return "10" + f"{exponent:.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def staircase(points: Sequence[Point]) -> list[Point]:
    """The corner points of what nothing is both smaller and quicker than, from the smallest on."""
    steps: list[Point] = []
    for x, y in sorted(points):
        if not steps or y < steps[-1][1]:
            steps += [(x, steps[-1][1])] if steps else []
            steps.append((x, y))
    return steps


def _p50(candidate: dict[str, Any]) -> float | None:
    return (candidate.get("latency_ms") or {}).get("p50")


ANCHORS = ((0.0, "start"), (1.0, "end"), (0.5, "middle"), (0.5, "middle"))
"""Where a name begins in the room for it: right of its dot, left, above, below; letters leave some of it."""


def _name_dots(plot: Plot, dots: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each dot's name (x, y, name, kind of text) where it hides neither a dot nor another name."""
    taken = [(px - 7, px + 7, py - 7, py + 7) for px, py in (plot.at(x, y) for x, y, _, _ in dots)]
    for x, y, name, kind in dots:
        px, py = plot.at(x, y)
        length = 7.0 * len(name)
        about = min(max(px - length / 2, LEFT + 1), plot.width - length - 1)
        places = [(px + 11, py + 4), (px - 11 - length, py + 4), (about, py - 12), (about, py + 20)]
        boxes = [(left, left + length, below - 10, below + 2) for left, below in places]
        inside = [n for n, (left, right, _, _) in enumerate(boxes) if left > LEFT and right < plot.width]
        free = [n for n in inside if not any(_meet(boxes[n], other) for other in taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        (left, below), (share, anchor) = places[chosen], ANCHORS[chosen]
        plot.text(left + share * length, below, name, anchor=anchor, kind=kind)


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
