"""Figures as a person reads them."""

import pytest

from leanrec.report import formats


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formats.format_bytes, 12_345_678, "12.3 MB"),
        (formats.format_bytes, 999, "999 B"),
        (formats.format_bytes, 7_200_000_000, "7.2 GB"),
        (formats.format_duration, 0.0041, "4.1 ms"),
        (formats.format_duration, 12.34, "12.3 s"),
        (formats.format_duration, 95, "1 min 35 s"),
        (formats.format_duration, 7_300, "2 h 1 min"),
        (formats.format_ms, 0.034, "0.034 ms"),
        (formats.format_count, 100_000, "100,000"),
        (formats.format_share, 0.0312, "3.1 %"),
        (formats.format_score, 0.0021349, "0.213 %"),
        (formats.format_score, 0.0021441, "0.214 %"),
        (formats.format_score, 0.81, "81.0 %"),
        (formats.format_score, 0.0, "0 %"),
        (formats.format_server, {"version": 2, "grpc": "127.0.0.1:1"}, "Release 2 answered."),
        (formats.format_change, -0.12, "−12 %"),
        (formats.format_signed, -0.0031, "−0.0031"),
        (formats.format_signed, 0.00001, "0"),
        (formats.format_tiny, 3.1e-7, "3.1 × 10⁻⁷"),
        (formats.format_tiny, 0.02, "0.02"),
        (formats.format_tiny, 0.0, "0"),
        (formats.format_ratio, 3.77, "3.8 ×"),
        (formats.format_time, "2026-05-01T12:00:00+00:00", "2026-05-01 12:00"),
        (formats.format_time, "yesterday", "yesterday"),
    ],
)
def test_a_figure_reads_as_expected(function, value, text):
    assert function(value) == text


@pytest.mark.parametrize("name", [name for name in vars(formats) if name.startswith("format_")])
def test_a_missing_figure_is_a_dash(name):
    assert getattr(formats, name)(None) == formats.MISSING
