"""The next batch is made while the present one is learnt from.

A thread takes the next rows out of memory, draws what the ranker is shown beside them and puts all of it on
the device. Processes exchange nothing there: two threads' collectives might meet in another order elsewhere.

TorchRec's own pipeline (TrainPipelineSparseDist) exchanges the next batch's ids, too, but finds them by
tracing the model symbolically, and ours cannot be traced: which rows of a table are looked up depends on the
values of what was drawn, and each distinct one is asked for once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

Make = Callable[[Tensor], Any]


class Prefetcher:
    """Makes batches from rows, the ones that are asked for `ahead` in a thread of its own.

    Use it as a context manager, at whose end no thread is left. `make` runs on one thread at a time.

        >>> with Prefetcher(lambda rows: rows * 2, torch.device("cpu")) as batches:
        ...     batches.ahead(torch.tensor([1, 2]))
        ...     batches.take(torch.tensor([1, 2]))
        tensor([2, 4])
    """

    def __init__(self, make: Make, device: torch.device) -> None:
        """`make` answers a batch of tensors on `device`, in tuples or alone, for rows [B]."""
        self._make = make
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._next: Future[Any] | None = None

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def ahead(self, rows: Tensor) -> None:
        """Begin to make the batch of `rows`, which the next `take` must ask for."""
        self._next = self._thread.submit(self._make_aside, rows)

    def take(self, rows: Tensor) -> Any:
        """The batch of `rows`: what was begun ahead, when it is done, or made now; what `make` raised."""
        if self._next is None:
            return self._make(rows)
        made, self._next = self._next.result(), None
        if self._stream is not None:
            now = torch.cuda.current_stream(self._stream.device)
            now.wait_stream(self._stream)
            for value in tree_leaves(made):
                if isinstance(value, Tensor) and value.is_cuda:
                    value.record_stream(now)
        return made

    def _make_aside(self, rows: Tensor) -> Any:
        """On a GPU in a stream of its own, so that it waits for nothing of the step."""
        with ExitStack() as stack:
            if self._stream is not None:
                stack.enter_context(torch.cuda.device(self._stream.device))
                stack.enter_context(torch.cuda.stream(self._stream))
            return self._make(rows)
