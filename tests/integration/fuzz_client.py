"""Our client of Triton as a process of its own, whose memory can be watched: tensors in, outcomes out."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from leanrec.errors import ServingError
from serving.client import Recommender

Outcome = list[list[int]] | str
"""Each user's item indices, best first, or the sentence of a ServingError."""


class ClientProcess:
    """The client behind two pipes; anything but an answer or a ServingError ends it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def recommend(self, tensors: dict[str, np.ndarray], k: int) -> Outcome:
        """What `Recommender.recommend` answers or raises there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((tensors, k), self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


@contextmanager
def client_process(address: str) -> Iterator[ClientProcess]:
    """A client of the Triton at `address`, until the end of the block."""
    command = [sys.executable, str(Path(__file__)), address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield ClientProcess(process)
        process.communicate()
    assert process.returncode == 0


def main(address: str) -> None:
    """Ask what the parent sends until it sends no more."""
    with Recommender(address, timeout_s=20) as recommender:
        while True:
            try:
                tensors, k = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answered = recommender.recommend(tensors, k)
                outcome: Outcome = [[item.item_index for item in user] for user in answered]
            except ServingError as error:
                outcome = str(error)
            pickle.dump(outcome, sys.stdout.buffer)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
