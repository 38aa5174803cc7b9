"""The random states of every process: a run that goes on in mid-epoch draws what it would have drawn."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def random_state(draw: torch.Generator) -> dict[str, Tensor]:
    """This process's rank -> the states of torch's generators and of `draw`, as bytes."""
    return {str(dist.get_rank()): torch.cat([torch.get_rng_state(), draw.get_state(), *_of_gpu()])}


def take_up_random(states: dict[str, Tensor], draw: torch.Generator) -> None:
    """Put what `random_state` gave every process back in place, once, where as many run now as then.

    With another number of them nobody can draw what would have been drawn.
    """
    if len(states) != dist.get_world_size():
        return
    state = states[str(dist.get_rank())]
    first, second = len(torch.get_rng_state()), len(draw.get_state())
    torch.set_rng_state(state[:first].clone())
    draw.set_state(state[first : first + second].clone())
    if torch.cuda.is_available() and len(state) > first + second:
        torch.cuda.set_rng_state(state[first + second :].clone())
    states.clear()


def _of_gpu() -> list[Tensor]:
    return [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
