"""Numbers as a person reads them; exact values stay in report.json."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

MISSING = "–"


def format_bytes(value: float | None) -> str:
    """12345678 -> '12.3 MB' (powers of 1000)."""
    if value is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000 or unit == "GB":
            return f"{_three_digits(value) if unit != 'B' else round(value)} {unit}"
        value /= 1000
    return MISSING


def format_duration(seconds: float | None) -> str:
    """0.0041 -> '4.1 ms', 95 -> '1 min 35 s'."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return format_ms(seconds * 1000)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_ms(value: float | None) -> str:
    """4.123 -> '4.1 ms'."""
    return MISSING if value is None else f"{_three_digits(value)} ms"


def format_count(value: float | None) -> str:
    """100000 -> '100,000'."""
    return MISSING if value is None else f"{value:,.0f}"


def format_figure(value: float | None, digits: int = 3) -> str:
    """A figure between 0 and 1, or a loss: 0.11873 -> '0.119'."""
    return MISSING if value is None else f"{value:.{digits}f}"


def format_share(value: float | None) -> str:
    """0.1234 -> '12.3 %'."""
    return MISSING if value is None else f"{value * 100:.1f} %"


def format_score(value: float | None) -> str:
    """A score with three digits that count, small as it may be: 0.0021349 -> '0.213 %'."""
    if value is None:
        return MISSING
    if not value:
        return "0 %"
    decimals = min(6, max(0, 2 - math.floor(math.log10(abs(value * 100)))))
    return f"{value * 100:.{decimals}f} %"


def format_server(server: dict[str, Any] | None) -> str:
    """{"version": 2, "models": {"ranker": [1, 2]}} -> 'Release 2 answered; Triton had loaded ...'"""
    if server is None:
        return MISSING
    parts = []
    if server.get("version") is not None:
        parts.append(f"Release {server['version']} answered")
    models = server.get("models")
    if isinstance(models, dict) and models:
        loaded = [f"{name} {' and '.join(map(str, versions))}" for name, versions in models.items()]
        parts.append(f"Triton had loaded {', '.join(loaded)}")
    return "; ".join(parts) + "." if parts else ""


def format_change(value: float | None) -> str:
    """A relative change with its sign: 0.12 -> '+12 %'."""
    return MISSING if value is None else f"{value * 100:+.0f} %".replace("-", "−")


def format_signed(value: float | None, digits: int = 4) -> str:
    """-0.0031 -> '−0.0031'."""
    if value is None:
        return MISSING
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else "0"


def format_tiny(value: float | None) -> str:
    """A difference near the float's precision: 3.1e-07 -> '3.1 × 10⁻⁷'."""
    if value is None:
        return MISSING
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.3g}"
    exponent = math.floor(math.log10(abs(value)))
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value / 10**exponent:.1f} × 10{raised}"


def format_ratio(value: float | None) -> str:
    """3.14 -> '3.1 ×'."""
    return MISSING if value is None else f"{value:.1f} ×"


def format_time(value: str | float | None) -> str:
    """An ISO time as '2026-05-01 12:30'."""
    if value is None:
        return MISSING
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return str(value)


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 1 else f"{value:.2g}"
