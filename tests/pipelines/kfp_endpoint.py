"""A small KFP endpoint: it takes what the real API server takes and remembers it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from json_server import JsonHandler, serving

API = "/apis/v2beta1"


@dataclass
class Endpoint:
    """Its address and what it was sent: bodies by path."""

    address: str = ""
    received: dict[str, list[Any]] = field(default_factory=dict)


@contextmanager
def kfp_endpoint() -> Iterator[Endpoint]:
    """Serve on a free port of this machine until the block ends."""
    endpoint = Endpoint()

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            if self.path.startswith(f"{API}/healthz"):
                self.answer({"multi_user": False})
            elif self.path.startswith(f"{API}/experiments"):
                self.answer({"experiments": []})
            else:
                self.answer({}, status=404)

        def do_POST(self) -> None:
            body = self.body()
            path = self.path.split("?")[0].removeprefix(API)
            endpoint.received.setdefault(path, []).append(
                json.loads(body) if body[:1] == b"{" else body.decode()
            )
            answers = {
                "/experiments": {"experiment_id": "e1", "display_name": "leanrec"},
                "/runs": {"run_id": "r1", "display_name": "run"},
                "/recurringruns": {"recurring_run_id": "rr1"},
            }
            self.answer(answers.get(path, {}), status=200 if path in answers else 404)

    with serving(Handler) as endpoint.address:
        yield endpoint
