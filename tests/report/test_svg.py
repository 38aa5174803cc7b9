"""Drawings keep to their frame and escape what they are told to write."""

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leanrec.report import charts
from leanrec.report.svg import Plot, span, ticks


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 6))
def test_ticks_lie_inside_and_are_about_as_many_as_asked(low, length, about):
    found = ticks(low, low + length, about)
    air = length * 1e-6 + 1e-9 * abs(low)
    assert all(low - air <= value <= low + length + air for value in found)
    assert len(found) <= about + 1


def test_equal_values_still_have_a_range():
    low, high = span([2.0, 2.0])
    assert low < 2.0 < high
    assert span([0.0])[0] < span([0.0])[1]


def test_words_are_escaped():
    drawing = Plot(title='a "<b>"', x=(0, 1), y=(0, 1)).text(1, 1, "<script>").markup()
    assert "<script>" not in drawing and "&lt;script&gt;" in drawing
    ElementTree.fromstring(str(drawing))


def test_names_of_recipes_do_not_hide_each_other():
    same = [{"recipe": f"r{n}", "bytes": 1_000_000, "latency_ms": {"p50": 2.0}} for n in range(4)]
    drawing = ElementTree.fromstring(str(charts.draw_front(same, "r0")))
    names = [e for e in drawing.iter("text") if e.text and e.text.startswith("r") and e.text[1:].isdigit()]
    assert len({(e.get("x"), e.get("y")) for e in names}) == 4


def test_a_name_at_the_edge_beside_another_dot_keeps_off_both():
    sizes = {"fp32": (5_410_413, 1.19), "lean": (599_167, 0.65), "least": (162_471, 0.62)}
    front = [{"recipe": name, "bytes": b, "latency_ms": {"p50": ms}} for name, (b, ms) in sizes.items()]
    drawing = ElementTree.fromstring(str(charts.draw_front(front, "lean")))
    (least,) = (e for e in drawing.iter("text") if e.text == "least")
    dots = {float(dot.get("cx")): float(dot.get("cy")) for dot in drawing.iter("circle")}
    lean = sorted(dots)[1]
    middle, half = float(least.get("x")), 7.0 * len("least") / 2
    assert least.get("text-anchor") == "middle" and middle - half > charts.LEFT
    assert lean - middle < half + 7, "it would be no test"
    below = float(least.get("y"))
    assert all(below + 2 < dot - 7 or below - 10 > dot + 7 for dot in (dots[lean], dots[sorted(dots)[0]]))


@pytest.mark.parametrize("epochs", [[], [{"epoch": 1, "loss": None}]])
def test_a_figure_that_no_epoch_has_is_not_drawn(epochs):
    assert charts.draw_curve("Ranker", epochs, "loss", "loss") is None


def test_a_single_epoch_is_drawn():
    ElementTree.fromstring(str(charts.draw_curve("Ranker", [{"epoch": 1, "loss": 0.5}], "loss", "loss")))


def test_the_histogram_has_a_bar_for_each_bin():
    drawing = charts.draw_histogram({"edges": [0.0, 1e-8, 2e-8], "counts": [5, 3]})
    assert len(list(ElementTree.fromstring(str(drawing)).iter("rect"))) == 2


def test_the_front_runs_through_what_nothing_is_both_smaller_and_quicker_than():
    points = [(4.0, 1.0), (1.0, 5.0), (2.0, 6.0), (2.5, 3.0), (5.0, 0.5)]
    corners = charts.staircase(points)
    assert corners == [(1, 5), (2.5, 5), (2.5, 3), (4, 3), (4, 1), (5, 1), (5, 0.5)]
    assert charts.staircase([]) == []
