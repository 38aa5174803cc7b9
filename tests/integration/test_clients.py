"""The clients and the examples against a real gateway and a real Triton."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from running_gateway import API_KEY, GatewayWorld, gateway_world
from tiny_release import SPEC, top_k, user_row

from leanrec.errors import ServingError
from serving.client import (
    AsyncGatewayClient,
    AsyncRecommender,
    Event,
    GatewayClient,
    GatewayError,
    Recommender,
)

pytestmark = pytest.mark.integration
EXAMPLES = Path(__file__).parents[2] / "serving" / "examples"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayWorld]:
    with gateway_world(tmp_path_factory.mktemp("clients")) as world:
        world.start()
        yield world


def test_the_gateway_client_speaks_every_call(world: GatewayWorld) -> None:
    with GatewayClient(world.url, API_KEY, timeout_s=20) as gateway:
        answer = gateway.recommend("user 1", 3, exclude_items=("i20",), explain=True)
        assert [item.item_id for item in answer.items] == ["i19", "i18", "i17"]
        assert answer.release == 1
        ranked = gateway.rank("user 1", ["i3", "i19"])
        assert [item.item_id for item in ranked.items] == ["i3", "i19"]
        assert [item.item_id for item in gateway.search_items("title 20").items] == ["i20"]
        assert len(gateway.similar("i20", 2).items) == 2
        assert gateway.releases().stable == 1
        click = Event(
            event_id="sync",
            user_id="user 2",
            item_id="i20",
            type="click",
            request_id=answer.request_id,
            timestamp=datetime.now(UTC),
        )
        assert gateway.send_events([click]).accepted == 1
        assert gateway.send_events([click]).duplicates == 1
        assert gateway.user("user 2").history[0].item_id == "i20"


def test_the_async_gateway_client_answers_the_same(world: GatewayWorld) -> None:
    async def ask() -> None:
        async with AsyncGatewayClient(world.url, API_KEY, timeout_s=20) as gateway:
            one, two = await asyncio.gather(gateway.recommend("user 1", 3), gateway.recommend("user 1", 3))
            assert one.items == two.items
            with GatewayClient(world.url, API_KEY, timeout_s=20) as blocking:
                assert blocking.recommend("user 1", 3).items == one.items
                assert (await gateway.rank("user 1", ["i3"])).items == blocking.rank("user 1", ["i3"]).items
                assert await gateway.similar("i20") == blocking.similar("i20")
                assert await gateway.search_items("title") == blocking.search_items("title")
                assert await gateway.user("user 3") == blocking.user("user 3")
                assert await gateway.releases() == blocking.releases()
            event = Event(event_id="async", user_id="user 4", item_id="i20", type="impression")
            assert (await gateway.send_events([event])).accepted == 1

    asyncio.run(ask())


def test_a_refusal_is_the_gateways_own_sentence(world: GatewayWorld) -> None:
    with GatewayClient(world.url, API_KEY, timeout_s=20) as gateway:
        with pytest.raises(GatewayError, match="release 1 does not know item 'no such item'") as caught:
            gateway.similar("no such item")
        assert (caught.value.status, caught.value.code) == (404, "not_found")
        with pytest.raises(GatewayError, match="k") as caught:
            gateway.recommend("user 1", 0)
        assert caught.value.status == 422
    with GatewayClient(world.url, "wrong", timeout_s=20) as stranger:
        with pytest.raises(GatewayError, match="X-API-Key") as caught:
            stranger.releases()
        assert caught.value.status == 401


@pytest.mark.parametrize("id_", [".", "..", "a/b", "a/../b", "x/similar", "?k=1", "50%", "%2E", "é"])
def test_an_id_of_any_signs_reaches_the_gateway_whole(world: GatewayWorld, id_: str) -> None:
    with GatewayClient(world.url, API_KEY, timeout_s=20) as gateway:
        with pytest.raises(GatewayError) as caught:
            gateway.similar(id_)
        assert str(caught.value) == f"release 1 does not know item {id_!r}"
        assert gateway.user(id_).known is False
        assert gateway.recommend(id_, 3).known is False


def test_values_of_numpy_and_any_collection_of_ids_are_taken(world: GatewayWorld) -> None:
    with GatewayClient(world.url, API_KEY, timeout_s=20) as gateway:
        for ids in ({"i20"}, ("i20",), np.array(["i20"]), iter(["i20"])):
            answer = gateway.recommend("user 1", np.int64(3), exclude_items=ids, diversity=np.float32(0))
            assert [item.item_id for item in answer.items] == ["i19", "i18", "i17"]
        assert len(gateway.similar("i20", np.int32(2)).items) == 2
        assert len(gateway.search_items("title", np.uint8(2)).items) == 2
        assert {item.item_id for item in gateway.rank("user 1", {"i3", "i19"}).items} == {"i3", "i19"}
        assert gateway.recommend("user 1", 3, release=np.int64(1)).release == 1


def test_where_nobody_answers_the_error_says_so() -> None:
    with (
        GatewayClient("http://127.0.0.1:9", API_KEY) as gateway,
        pytest.raises(ServingError, match="no answer, twice"),
    ):
        gateway.releases()
    with pytest.raises(ServingError, match="no address of a gateway"):
        GatewayClient("localhost:8080", API_KEY)


def test_a_stranger_at_the_address_is_noticed(world: GatewayWorld) -> None:
    """Triton's HTTP port answers, and is no gateway."""
    with (
        GatewayClient(f"http://{world.triton.http}", API_KEY, timeout_s=20) as gateway,
        pytest.raises(ServingError, match="none of LeanRec's gateway"),
    ):
        gateway.recommend("user 1")


def test_both_triton_clients_answer_what_the_graph_computes(world: GatewayWorld) -> None:
    rows, expected = user_row(batch=3), top_k(user_row(batch=3), factor=1.0)

    async def ask() -> tuple[list, dict]:
        async with AsyncRecommender(world.triton.grpc, timeout_s=20, hedge_after_s=10) as recommender:
            with pytest.raises(ServingError, match="this release answers 1 to 12"):
                await recommender.recommend(rows, 13)
            with pytest.raises(ServingError, match="version"):
                await recommender.recommend(rows, 5, version=99)
            best = await recommender.recommend(rows, 5)
            return best, await recommender.rank(rows, np.array([[1, 2]] * 3))

    best, ranked = asyncio.run(ask())
    assert [[item.item_index for item in user] for user in best] == expected["item_index"][:, :5].tolist()
    with Recommender(world.triton.grpc, timeout_s=20) as recommender:
        assert recommender.recommend(rows, 5) == best
        np.testing.assert_array_equal(
            recommender.rank(rows, np.array([[1, 2]] * 3))["score"], ranked["score"]
        )


def expected_of_example(liked: list[int]) -> list[dict[str, float]]:
    row = user_row()
    row["user_index"][:] = 0
    row["seen"] = np.array([liked[-SPEC.history_length :] or [0]])
    best = top_k(row, factor=1.0)
    return [
        {"item_index": int(item), "score": pytest.approx(float(score))}
        for item, score in zip(best["item_index"][0], best["score"][0], strict=True)
    ]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, as `npm ci` installs them, and Triton's descriptors."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "recommend.mjs"):
        shutil.copy(EXAMPLES / "node" / name, folder)
    installed = run(
        "npm",
        "ci",
        "--prefer-offline",
        "--fetch-retries=5",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        cwd=folder,
    )
    assert installed.returncode == 0, installed.stderr
    made = run(
        sys.executable,
        "-m",
        "serving.examples.triton_descriptors",
        folder / "triton.pb",
        cwd=EXAMPLES.parents[1],
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.parametrize("liked", [[], [3, 20], [1, 2, 3, 4, 5]])
def test_the_plain_examples_get_the_same_recommendations(
    world: GatewayWorld, node_example: Path, liked: list[int]
) -> None:
    items = [str(item) for item in liked]
    script = EXAMPLES / "python_tritonclient.py"
    python = run(sys.executable, script, world.triton.grpc, *items, cwd=node_example)
    node = run("node", "recommend.mjs", world.triton.grpc, "triton.pb", *items, cwd=node_example)
    for done in (python, node):
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"release": 1, "items": expected_of_example(liked)}


def test_the_examples_end_with_one_sentence_where_nothing_answers(node_example: Path) -> None:
    nowhere = "127.0.0.1:9"
    python = run(sys.executable, EXAMPLES / "python_tritonclient.py", nowhere, cwd=node_example)
    node = run("node", "recommend.mjs", nowhere, "triton.pb", cwd=node_example)
    for done in (python, node):
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {nowhere}: ")
