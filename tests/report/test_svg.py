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
