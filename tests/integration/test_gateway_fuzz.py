"""Requests that nobody meant: made of the gateway's own OpenAPI, and broken tensors and messages to Triton.

LEANREC_FUZZ_REQUESTS sets how many are sent (a few hundred by default, 10,000 for docs/reliability.md).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from process_table import command_of, descendants
from running_gateway import API_KEY, ITEM_IDS, USERS, GatewayWorld, gateway_world
from schemathesis import GenerationMode
from tiny_release import top_k, user_row
from tritonclient.grpc import service_pb2 as proto

from leanrec.triton import TritonClient

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_client import client_process

pytestmark = pytest.mark.integration

NUM_REQUESTS = int(os.environ.get("LEANREC_FUZZ_REQUESTS", "300"))
SHARE = max(50, NUM_REQUESTS // 5)
WARM_UP = max(200, SHARE)
"""Requests of each kind before memory is measured: caches and allocators fill."""
MEMORY_GROWTH = 0.05
DECLARED = {200, 400, 401, 404, 405, 409, 413, 422, 429, 503}
QUIET = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],
}
SENT = {"method", "url", "params", "json", "data", "headers"}
KEPT_OUT = ("/readyz", "/healthz", "/metrics")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayWorld]:
    with gateway_world(tmp_path_factory.mktemp("fuzz")) as world:
        world.start()
        yield world


class Requests:
    """Sends, counts the answers, and finds those that no gateway of ours may give."""

    def __init__(self, world: GatewayWorld) -> None:
        self.client = world.client()
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []

    def send(self, request: httpx.Request) -> None:
        answer = self.client.send(request)
        self.statuses[answer.status_code] += 1
        degraded = answer.status_code != 503 or "retry-after" in answer.headers
        if answer.status_code not in DECLARED or not degraded or not self._is_in_form(answer):
            self.faults.append(
                f"{request.method} {request.url} {request.content!r}: {answer.status_code} {answer.text}"
            )

    def _is_in_form(self, answer: httpx.Response) -> bool:
        try:
            body = answer.json()
        except ValueError:
            return False
        if answer.status_code >= 400 and not (body.keys() == {"error"} and body["error"]["message"]):
            return False
        return "x-request-id" in answer.headers


def plausible(number: int) -> tuple[str, dict[str, object]]:
    """A request as products send it; memory is measured between two rounds of the same ones."""
    user, item = USERS[number % len(USERS)], ITEM_IDS[number % len(ITEM_IDS)]
    event = {"event_id": f"w{number}", "user_id": user, "item_id": item, "type": "impression"}
    return [
        ("/v1/recommendations", {"user_id": user, "k": 1 + number % 12, "diversity": 0.5, "explain": True}),
        ("/v1/rank", {"user_id": user, "item_ids": [item]}),
        ("/v1/events", {"events": [event]}),
    ][number % 3]


class Memory:
    """What processes hold of their own, in memory or swapped out; pages of files come and go.

    Triton is one process, in which its models run.
    """

    def __init__(self, world: GatewayWorld, **processes: int) -> None:
        self._triton = world.triton.pid
        self._processes = processes
        self._before = self._now()

    def growth(self) -> dict[str, float]:
        """By program, the growth since this was made; no process may have ended meanwhile."""
        now = self._now()
        assert now.keys() == self._before.keys()
        return {name: round(now[name] / before - 1, 4) for name, before in self._before.items()}

    def _now(self) -> Counter[str]:
        held = Counter({name: _held(process) for name, process in self._processes.items()})
        for process in descendants(self._triton):
            held[f"{Path(command_of(process)).name}"] += _held(process)
        assert held["tritonserver"] > 0, held
        return held


def _held(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    found = re.findall(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB", status, re.M)
    return 1024 * sum(map(int, found))


def assert_no_growth(what: str, growth: dict[str, float]) -> None:
    print(json.dumps({"memory growth": what, **growth}))
    assert max(growth.values()) <= MEMORY_GROWTH, growth


def test_requests_made_of_the_openapi_get_an_answer_or_a_sentence(world: GatewayWorld) -> None:
    requests = Requests(world)
    for number in range(WARM_UP):
        path, body = plausible(number)
        requests.send(requests.client.build_request("POST", path, json=body))
    document = requests.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [one.ok() for one in schema.get_all_operations()]
    operations = [one for one in operations if one.path not in KEPT_OUT]
    assert len(operations) >= 7
    assert world.process is not None
    memory = Memory(world, gateway=world.process.pid)
    share = max(1, NUM_REQUESTS // (2 * len(operations)))
    for operation, mode in itertools.product(operations, GenerationMode):
        # Made one after another in one pass: hypothesis would otherwise look for the smallest failure.
        @settings(max_examples=share, **QUIET)
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            keywords = case.as_transport_kwargs(base_url=world.url)
            keywords = {
                k: v
                for k, v in keywords.items()
                if k in ("method", "url", "params", "json", "data", "headers")
            }
            headers = {**dict(keywords.pop("headers", {})), "X-API-Key": API_KEY}
            content = keywords.pop("data", None)
            try:
                request = requests.client.build_request(
                    **keywords, headers=headers, content=content if isinstance(content, str | bytes) else None
                )
            except (UnicodeError, TypeError, ValueError, httpx.InvalidURL):
                return  # what no HTTP client can send
            requests.send(request)

        # An operation that takes nothing can be asked nothing wrong.
        with suppress(Unsatisfiable):
            send()
    for body in HOSTILE_BODIES:
        for path in ("/v1/recommendations", "/v1/rank", "/v1/events"):
            requests.send(requests.client.build_request("POST", path, content=body))
    total = requests.statuses.total()
    print(json.dumps({"requests": total, "statuses": requests.statuses}))
    assert not requests.faults, requests.faults[:5]
    assert requests.statuses[200] and requests.statuses[422]
    assert total >= NUM_REQUESTS
    assert world.process.poll() is None
    assert_no_growth("HTTP requests", memory.growth())


HOSTILE_BODIES = [
    b"",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"user_id": "\xff"}',
    b'{"user_id": "\\ud800"}',
    b'{"user_id": "\\ud800", "item_ids": ["\\udfff"]}',
    b'{"events": [{"event_id": "\\ud800", "user_id": "u", "item_id": "i1", "type": "click"}]}',
    b'{"user_id": "u", "k": 1e400}',
    b'{"user_id": "u", "k": NaN}',
    b'{"user_id": "u", "diversity": Infinity}',
    b'{"user_id": "u", "user_id": "v"}',
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b'{"user_id": "' + b"x" * 300_000 + b'"}',
]


TENSORS = st.sampled_from(sorted(user_row()))
DTYPES = st.sampled_from([np.int64, np.int32, np.float32, np.float64, np.bool_, np.uint8])
SHAPES = st.lists(st.integers(0, 9), min_size=0, max_size=4)
NUMBERS = st.sampled_from([0, 1, -1, 20, 21, 2**31, 2**62, -(2**62)])


def call(function: Callable[..., None], times: int, **strategies: st.SearchStrategy) -> None:
    """Call `function` with what hypothesis makes up."""
    settings(max_examples=times, **QUIET)(given(**strategies)(function))()


def test_broken_tensors_end_in_a_sentence_and_harm_nobody(world: GatewayWorld) -> None:
    outcomes: Counter[str] = Counter()
    with client_process(world.triton.grpc) as client:

        def ask(name: str, dtype: type, shape: list[int], value: int, k: int) -> None:
            rows = user_row()
            rows[name] = np.full(shape, value).astype(dtype)
            outcome = client.recommend(rows, k)
            assert outcome
            if isinstance(outcome, list):
                assert all(len(user) <= k for user in outcome)
            outcomes["ServingError" if isinstance(outcome, str) else "answered"] += 1

        made_up = {
            "name": TENSORS,
            "dtype": DTYPES,
            "shape": SHAPES,
            "value": NUMBERS,
            "k": st.integers(-1, 14),
        }
        call(ask, 2 * WARM_UP, **made_up)  # Triton's server holds but 7 MB: 0.3 MB are 5 %
        memory = Memory(world, client=client.pid)
        call(ask, SHARE, **made_up)
        growth = memory.growth()
        rows = user_row(batch=2)
        best = client.recommend(rows, 3)
    print(json.dumps(outcomes))
    assert best == top_k(rows, factor=1.0)["item_index"][:, :3].tolist()
    assert_no_growth("broken tensors", growth)


def test_messages_that_are_no_protobuf_are_refused_and_harm_nobody(world: GatewayWorld) -> None:
    good = _message()
    with grpc.insecure_channel(world.triton.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        codes: Counter[str] = Counter()

        def send(cut: int, at: int, put: bytes, made_up: bytes | None) -> None:
            message = (
                made_up if made_up is not None else (good[:at] + put + good[at + len(put) :])[: max(1, cut)]
            )
            try:
                infer(message, timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1

        damage = {
            "cut": st.just(len(good)) | st.integers(0, len(good)),
            "at": st.integers(0, len(good) - 1),
            "put": st.binary(max_size=12),
            "made_up": st.none() | st.binary(max_size=64),
        }
        call(send, 2 * WARM_UP, **damage)
        memory = Memory(world)
        call(send, SHARE, **damage)
        growth = memory.growth()
    print(json.dumps(codes))
    # INTERNAL is gRPC's own word for a message that it cannot read.
    assert codes.keys() <= {"OK", "INVALID_ARGUMENT", "INTERNAL", "NOT_FOUND", "UNIMPLEMENTED", "UNAVAILABLE"}
    with TritonClient(world.triton.grpc, timeout_s=20) as triton:
        answer = triton.infer("recommender", user_row())
    np.testing.assert_array_equal(answer.outputs["item_index"], top_k(user_row(), factor=1.0)["item_index"])
    assert_no_growth("made-up messages", growth)


def _message() -> bytes:
    request = proto.ModelInferRequest(model_name="recommender")
    for name, array in user_row().items():
        datatype = "FP32" if array.dtype == np.float32 else "INT64"
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()
