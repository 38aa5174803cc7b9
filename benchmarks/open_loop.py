"""Requests at a steady rate, in a process of its own: `python -m benchmarks.open_loop < plan.json`.

A request is sent when its time has come, whether or not those before it were answered, so a server that
stalls is charged for all that it kept waiting. One JSON line a request comes out at the end (a pipe that
nobody reads would stop the clock): when it was due (seconds of the monotonic clock), how long its answer took
from then, the version that answered and the first score.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sys
import time
from itertools import cycle
from typing import Any

import uvloop

from leanrec.errors import ServingError
from leanrec.triton.async_client import AsyncTritonClient


async def _send(plan: dict[str, Any]) -> None:
    requests = cycle(enumerate(base64.b64decode(request) for request in plan["requests"]))
    triton = AsyncTritonClient([plan["triton"]], deadline_s=plan["deadline_s"], hedge_after_s=1e9)

    async def ask(row: int, request: bytes, due: float) -> dict[str, Any]:
        outcome: dict[str, Any] = {"due": due, "row": row}
        try:
            answer = await triton.infer(request)
            outcome |= {"version": answer.version, "score": float(answer.outputs["score"][0, 0])}
        except ServingError as error:
            outcome["error"] = str(error)
        return outcome | {"seconds": time.monotonic() - due}

    gc.collect()
    gc.disable()  # a collection of thousands of answers takes 400 ms, which would be told of the server
    began, tasks = time.monotonic(), []
    for number in range(int(plan["rate"] * plan["seconds"])):
        due = began + number / plan["rate"]
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        row, request = next(requests)
        tasks.append(asyncio.create_task(ask(row, request, due)))
    outcomes = await asyncio.gather(*tasks)
    await triton.close()
    print("\n".join(map(json.dumps, outcomes)))


if __name__ == "__main__":
    uvloop.run(_send(json.load(sys.stdin)))
