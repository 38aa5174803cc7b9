"""Training events sewn together into sequences, so that one causal pass teaches many of them.

Every event comes with the history as it was just before it. An event's history is the beginning of a later
one's, so the latest row of a user holds the inputs of the earlier ones too: a sequence is one such row, and
each of its events points at the position at which its own history ends. Events that happened at one moment
share a position, as they share a history.

A user with more events than the history holds (H) needs several sequences. The first serves all events with
at most H before them, exactly as they would be one by one; the later ones overlap by half, so each event
further on is learnt once, from at least H / 2 and at most H of the items before it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from leanrec.errors import TrainingError
from leanrec.models.inputs import UserInputs
from leanrec.training.examples import Examples


class Sequences(NamedTuple):
    """W sequences and the E events that they teach; events lie in the order of their sequences."""

    user: UserInputs
    """The user rows, W of them; `user.history` [W, H] holds the inputs."""
    num_events: Tensor
    """[W] int64: events of each sequence; they sum to E."""
    position: Tensor
    """[E] int64: items of the sequence that lie before the event, 0..H."""
    item_index: Tensor
    """[E] int64."""
    liked: Tensor
    """[E] float32, 0 or 1."""

    def __len__(self) -> int:
        return int(self.num_events.shape[0])

    @property
    def sequence(self) -> Tensor:
        """[E] int64: the sequence of each event."""
        return torch.arange(len(self), device=self.position.device).repeat_interleave(self.num_events)

    @property
    def seen(self) -> Tensor:
        """[E, H]: the items of the sequence before each event, 0 elsewhere."""
        history = self.user.history[self.sequence]
        before = torch.arange(history.shape[1], device=history.device) < self.position.unsqueeze(1)
        return history * before

    def num_events_at(self, rows: Tensor) -> int:
        """Events in these rows."""
        return int(self.num_events[rows].sum())

    def take(self, rows: Tensor) -> Sequences:
        """The sequences at `rows`, with their events."""
        count = self.num_events[rows]
        first = (self.num_events.cumsum(0) - self.num_events)[rows]
        start_here = count.cumsum(0) - count
        events = torch.arange(int(count.sum())) + (first - start_here).repeat_interleave(count)
        user = UserInputs(*(tensor[rows] for tensor in self.user))
        return Sequences(user, count, self.position[events], self.item_index[events], self.liked[events])

    def to(self, device: torch.device) -> Sequences:
        """The same on `device`."""
        user = UserInputs(*(tensor.to(device) for tensor in self.user))
        return Sequences(user, *(tensor.to(device) for tensor in self[1:]))


def sequences_of(examples: Examples) -> Sequences:
    """The events of `examples` as sequences, each event in exactly one.

    `user_statistics[:, 0]` must count the user's events before each event, as features do; a TrainingError
    says where the history is of another length.
    """
    user = examples.user.user_index.squeeze(1)
    before = examples.user.user_statistics[:, 0].long()
    length = (examples.user.history != 0).sum(dim=1)
    width = examples.user.history.shape[1]
    _refuse_misfits(before, length, width)
    group = _groups(user, before, width)
    order = torch.argsort(before, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    num_events = torch.bincount(group)
    latest = order[num_events.cumsum(0) - 1]
    start = (before[latest] - length[latest]).repeat_interleave(num_events)
    row = UserInputs(*(tensor[latest] for tensor in examples.user))
    position = before[order] - start
    return Sequences(row, num_events, position, examples.item_index[order], examples.liked[order])


def _groups(user: Tensor, before: Tensor, width: int) -> Tensor:
    """[E]: the number of the sequence that each event belongs to, counted from 0 without a gap."""
    most = torch.zeros(int(user.max()) + 1, dtype=torch.long).scatter_reduce(0, user, before, "amax")
    stride = max(1, width // 2)
    part = torch.where(before <= width, 0, 1 + (most[user] - before) // stride)
    _, group = torch.unique(torch.stack([user, part]), dim=1, return_inverse=True)
    return group


def _refuse_misfits(before: Tensor, length: Tensor, width: int) -> None:
    wrong = torch.nonzero(length != before.clamp(max=width))
    if len(wrong) > 0:
        row = int(wrong[0])
        raise TrainingError(
            f"training event {row}: user_statistics counts {int(before[row])} events before it, its history "
            f"holds {int(length[row])}; build the training set again, or set whole_sequences: false"
        )
