"""Wait for what another process or thread does, and keep threads going meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def wait_for(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    """Return once `condition` holds; a failure when it does not come to pass."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@contextmanager
def running(threads: Sequence[threading.Thread], stopping: threading.Event) -> Iterator[None]:
    """Run `threads`, which end when `stopping` is set, as long as the block lasts."""
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
