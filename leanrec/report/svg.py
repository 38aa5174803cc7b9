"""A small plot: two scales, axes, lines and marks as inline SVG.

Colours come from the page's style sheet through classes, so one drawing serves light and dark, and
nothing but text is drawn in a size that a phone could not show: a drawing is hardly ever scaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 14, 40

Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass
class Plot:
    """Draw into it, then take `markup()`. Coordinates are data values."""

    title: str
    """What the plot shows, for those who do not see it."""
    x: tuple[float, float]
    y: tuple[float, float]
    width: int = WIDTH
    height: int = HEIGHT
    parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        """The place of a data value in the drawing."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (
            self.height - TOP - BOTTOM
        )

    def axes(
        self,
        x_label: str,
        y_label: str,
        x_format: Format,
        y_format: Format,
        *,
        whole_x: bool = False,
        y_ticks: Sequence[float] | None = None,
    ) -> Plot:
        """Grid lines, tick labels and the axes' names; an empty name leaves the ticks more room.

        `y_ticks` are the values with a grid line where round ones would not do, as on a logarithmic scale.
        """
        for value in ticks(*self.y, 4) if y_ticks is None else y_ticks:
            _, py = self.at(self.x[0], value)
            self.parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>'
            )
            self.text(LEFT - 7, py + 4, y_format(value), anchor="end")
        for value in ticks(*self.x, 5):
            if whole_x and value != round(value):
                continue
            px, _ = self.at(value, self.y[0])
            self.text(px, self.height - BOTTOM + 16, x_format(value), anchor="middle")
        self.text((LEFT + self.width - RIGHT) / 2, self.height - 6, x_label, anchor="middle", kind="name")
        middle = (TOP + self.height - BOTTOM) / 2
        self.parts.append(
            f'<text class="name" text-anchor="middle" transform="translate(11 {middle:.1f}) rotate(-90)">'
            f"{escape(y_label)}</text>"
        )
        return self

    def line(self, points: Sequence[Point], kind: str = "accent") -> Plot:
        """A line through `points`."""
        places = " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.at(*point) for point in points))
        self.parts.append(f'<polyline class="line {kind}" points="{places}"/>')
        return self

    def dot(self, point: Point, hint: str, kind: str = "accent", radius: float = 3.5) -> Plot:
        """A dot; `hint` shows when the pointer rests on it."""
        px, py = self.at(*point)
        self.parts.append(
            f'<circle class="dot {kind}" cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}">'
            f"<title>{escape(hint)}</title></circle>"
        )
        return self

    def text(self, px: float, py: float, words: str, *, anchor: str = "start", kind: str = "tick") -> Plot:
        """Words at a place of the drawing."""
        self.parts.append(
            f'<text class="{kind}" x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
        )
        return self

    def bar(
        self, left: float, top: float, width: float, height: float, hint: str, kind: str = "accent"
    ) -> Plot:
        """A bar at a place of the drawing; `hint` shows when the pointer rests on it."""
        self.parts.append(
            f'<rect class="bar {kind}" x="{left:.1f}" y="{top:.1f}" width="{max(width, 1.0):.1f}" '
            f'height="{height:.1f}" rx="2"><title>{escape(hint)}</title></rect>'
        )
        return self

    def whisker(self, left: float, right: float, y: float) -> Plot:
        """An interval as a thin line at a place of the drawing."""
        self.parts.append(
            f'<line class="whisker" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        return self

    def markup(self) -> Markup:
        """The drawing as one SVG element."""
        label = escape(self.title)
        drawing = "".join(self.parts)
        size = f'viewBox="0 0 {self.width} {self.height}" style="max-width: {self.width * 1.2:.0f}px"'
        svg = f'<svg {size} role="img" aria-label="{label}">{drawing}</svg>'
        return Markup(svg)  # noqa: S704  (every word in it was escaped when it was drawn)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) between `low` and `high`, about so many."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    stride = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first = math.ceil(low / stride - 1e-9)
    return [round(n * stride, 12) for n in range(first, math.floor(high / stride + 1e-9) + 1)]


def span(values: Sequence[float], *, from_zero: bool = False, margin: float = 0.08) -> tuple[float, float]:
    """A range around `values` with some air, never of length zero."""
    low, high = min(values), max(values)
    air = (high - low) * margin or abs(high) * margin or 1.0
    return (0.0 if from_zero and low >= 0 else low - air), high + air
