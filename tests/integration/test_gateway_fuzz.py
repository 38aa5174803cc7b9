"""Requests that nobody meant: made of the gateway's own OpenAPI, and broken tensors and messages to Triton.

LEANREC_FUZZ_REQUESTS sets how many are sent (a few hundred by default, 10,000 for docs/reliability.md).
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
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
from running_gateway import API_KEY, ITEM_IDS, USERS, GatewayWorld, gateway_world
from schemathesis import GenerationMode
from tiny_release import top_k, user_row
from tritonclient.grpc import service_pb2 as proto

from leanrec.errors import ServingError
from leanrec.triton import TritonClient
from serving.client import Recommender

pytestmark = pytest.mark.integration

NUM_REQUESTS = int(os.environ.get("LEANREC_FUZZ_REQUESTS", "300"))
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


def own_memory(process: int) -> int:
    """Bytes of its own that a process holds, in memory or swapped out; pages of files come and go."""
    status = Path(f"/proc/{process}/status").read_text()
    return sum(1024 * int(found) for found in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB", status, re.M))


def test_requests_made_of_the_openapi_get_an_answer_or_a_sentence(world: GatewayWorld) -> None:
    requests = Requests(world)
    for number in range(max(200, NUM_REQUESTS // 5)):  # caches and allocators fill
        path, body = plausible(number)
        requests.send(requests.client.build_request("POST", path, json=body))
    document = requests.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [one.ok() for one in schema.get_all_operations()]
    operations = [one for one in operations if one.path not in KEPT_OUT]
    assert len(operations) >= 7
    assert world.process is not None
    before = own_memory(world.process.pid)
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
    growth = own_memory(world.process.pid) / before - 1
    total = requests.statuses.total()
    print(json.dumps({"requests": total, "statuses": requests.statuses, "memory growth": growth}))
    assert not requests.faults, requests.faults[:5]
    assert requests.statuses[200] and requests.statuses[422]
    assert total >= NUM_REQUESTS
    assert world.process.poll() is None
    assert growth <= MEMORY_GROWTH


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


def test_broken_tensors_end_in_a_sentence_and_harm_nobody(world: GatewayWorld) -> None:
    with Recommender(world.triton.grpc, timeout_s=20) as recommender:

        @settings(max_examples=max(50, NUM_REQUESTS // 5), **QUIET)
        @given(name=TENSORS, dtype=DTYPES, shape=SHAPES, value=NUMBERS, k=st.integers(-1, 14))
        def ask(name: str, dtype: type, shape: list[int], value: int, k: int) -> None:
            rows = user_row()
            rows[name] = np.full(shape, value).astype(dtype)
            try:
                for user in recommender.recommend(rows, k):
                    assert len(user) <= k
            except ServingError as error:
                assert str(error)

        ask()
        rows = user_row(batch=2)
        best = recommender.recommend(rows, 3)
    expected = top_k(rows, factor=1.0)["item_index"][:, :3].tolist()
    assert [[item.item_index for item in user] for user in best] == expected


def test_messages_that_are_no_protobuf_are_refused_and_harm_nobody(world: GatewayWorld) -> None:
    good = _message()
    with grpc.insecure_channel(world.triton.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        codes: Counter[str] = Counter()

        @settings(max_examples=max(50, NUM_REQUESTS // 5), **QUIET)
        @given(
            cut=st.just(len(good)) | st.integers(0, len(good)),
            at=st.integers(0, len(good) - 1),
            put=st.binary(max_size=12),
            made_up=st.none() | st.binary(max_size=64),
        )
        def send(cut: int, at: int, put: bytes, made_up: bytes | None) -> None:
            message = (
                made_up if made_up is not None else (good[:at] + put + good[at + len(put) :])[: max(1, cut)]
            )
            try:
                infer(message, timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1

        send()
    print(json.dumps(codes))
    # INTERNAL is gRPC's own word for a message that it cannot read.
    assert codes.keys() <= {"OK", "INVALID_ARGUMENT", "INTERNAL", "NOT_FOUND", "UNIMPLEMENTED", "UNAVAILABLE"}
    with TritonClient(world.triton.grpc, timeout_s=20) as triton:
        answer = triton.infer("recommender", user_row())
    np.testing.assert_array_equal(answer.outputs["item_index"], top_k(user_row(), factor=1.0)["item_index"])


def _message() -> bytes:
    request = proto.ModelInferRequest(model_name="recommender")
    for name, array in user_row().items():
        datatype = "FP32" if array.dtype == np.float32 else "INT64"
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()
