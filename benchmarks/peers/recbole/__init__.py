"""RecBole: the process that runs it, asked from here."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.peers.environment import peer_python
from leanrec.errors import HostError

FOLDER = Path(__file__).parent
REQUIREMENTS = FOLDER / "requirements.txt"


class RecBole:
    """One model of RecBole in a process of its own; a context manager that ends it.

    `options` are RecBole's settings, over its defaults.
    """

    def __init__(
        self, model: str, *, seed: int, threads: int = 1, options: dict[str, Any] | None = None
    ) -> None:
        self._work = tempfile.TemporaryDirectory(prefix="leanrec-bench-")
        self._log = (Path(self._work.name) / "log").open("w+")
        arguments = [model, str(seed), str(threads), json.dumps(options or {})]
        self._process = subprocess.Popen(
            [str(peer_python(REQUIREMENTS)), str(FOLDER / "peer.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()
        self._work.cleanup()

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """One request to peer.py and its answer; a HostError with the peer's last words where it died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            words = (self._log.read().strip() or "it left no word").splitlines()[-1]
            raise HostError(f"RecBole ended while it was asked to {do}: {words}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def split(self) -> tuple[dict[str, np.ndarray], int, int]:
        """What peer.py wrote of its split, and the numbers of users and items, the unknown counted."""
        file = Path(self._work.name) / "split.npz"
        counts = self.ask("split", to=str(file))
        with np.load(file) as arrays:
            return dict(arrays), counts["num_users"], counts["num_items"]

    def scores(self, split: str) -> np.ndarray:
        """What RecBole ranks, [U, N]."""
        file = Path(self._work.name) / "scores.npy"
        self.ask("scores", split=split, to=str(file))
        return np.asarray(np.load(file))
