"""The load: everything is asked once, by as many callers as said, and in turns alike."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from leanrec.triton.load import Load, closed_loop, in_turns

REQUESTS = {"x": np.arange(3)[:, None]}


def test_every_request_is_sent_and_rows_come_in_turn():
    seen: Counter[int] = Counter()
    lock = threading.Lock()

    def ask(request):
        assert request["x"].shape == (1, 1)
        with lock:
            seen[int(request["x"][0, 0])] += 1

    load = closed_loop(ask, REQUESTS, callers=4, num_requests=90)
    assert seen == {0: 30, 1: 30, 2: 30}
    assert load.milliseconds.shape == (90,) and (load.milliseconds >= 0).all()
    assert load.requests_per_s == pytest.approx(90 / load.seconds)


def test_so_many_callers_are_there_at_once():
    together = threading.Barrier(5)
    closed_loop(lambda _: together.wait(timeout=10), REQUESTS, callers=5, num_requests=5)


def test_what_a_request_raises_is_raised():
    def ask(_):
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        closed_loop(ask, REQUESTS, callers=2, num_requests=4)


def test_turns_ask_each_as_often():
    asked: list[tuple[str, int]] = []
    asks = {
        name: (lambda request, name=name: asked.append((name, request["x"].item()))) for name in ("a", "b")
    }
    loads = in_turns(asks, REQUESTS, callers=1, num_requests=8, turns=4)
    assert "".join(name for name, _ in asked) == "aabbbbaaaabbbbaa"
    # Each goes on from turn to turn, so the nth time of one belongs to the request of the nth of the other.
    rows = {name: [row for who, row in asked if who == name] for name in asks}
    assert rows["a"] == rows["b"] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert all(len(load.milliseconds) == 8 for load in loads.values())


def test_percentiles_are_of_all_parts():
    parts = [Load(milliseconds=np.array([1.0]), seconds=1.0), Load(milliseconds=np.array([3.0]), seconds=1.0)]
    both = Load.of(parts)
    assert both.percentiles()["p50"] == 2.0 and both.requests_per_s == 1.0
