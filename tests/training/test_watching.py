"""A step's seconds by phase: each second counts once, in the backward pass, too."""

from __future__ import annotations

import pytest
import torch

from leanrec.training import watching
from leanrec.training.watching import Phases


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock of the phases shows, to be set forward."""
    shown = [0.0]
    monkeypatch.setattr(watching.time, "perf_counter", lambda: shown[0])
    return shown


def test_a_phase_within_another_counts_for_itself_alone(clock: list[float]) -> None:
    phases = Phases()
    with phases.phase("dense"):
        clock[0] += 1
        with phases.phase("embedding"):
            clock[0] += 10
            with phases.phase("communication"):
                clock[0] += 100
        clock[0] += 1000
    clock[0] += 10_000
    with phases.phase("data"):
        clock[0] += 5
    assert phases.seconds == {"data": 5, "embedding": 10, "dense": 1001, "communication": 100}


def test_what_fails_ends_its_phase(clock: list[float]) -> None:
    phases = Phases()
    with pytest.raises(ZeroDivisionError), phases.phase("data"):
        clock[0] += 1 / 0
    clock[0] += 1
    with phases.phase("dense"):
        clock[0] += 2
    assert phases.seconds["data"] == 0 and phases.seconds["dense"] == 2


def test_phases_are_entered_in_the_backward_pass(clock: list[float]) -> None:
    """A lookup, its exchange and a dense layer, each of which takes its time backwards."""

    class Taking(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value, seconds):
            ctx.seconds = seconds
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            clock[0] += ctx.seconds
            return gradient, None

    phases = Phases()
    table = torch.ones(3, requires_grad=True)
    looked_up = Taking.apply(table, 1).view(3)
    phases.enter_around(looked_up, during="embedding", after="communication")
    received = Taking.apply(looked_up, 10)
    phases.enter_with_gradients([received], "communication")
    placed = Taking.apply(received, 100)
    phases.enter_with_gradients([placed], "embedding")
    loss = Taking.apply(placed * 2, 1000).sum()
    with phases.phase("dense"):
        loss.backward()
        clock[0] += 10_000  # gradients of the dense part are waited for
    assert phases.seconds == {"data": 0, "embedding": 101, "dense": 1000, "communication": 10_010}


def test_nothing_is_entered_without_a_gradient() -> None:
    phases = Phases()
    phases.enter_with_gradients([torch.ones(3)], "embedding")
    phases.enter_around(torch.ones(3), during="embedding", after="communication")
    assert not any(phases.seconds.values())
