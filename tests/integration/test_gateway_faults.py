"""Faults under load: whatever breaks, every answer is right or says what it fell back to; none fails."""

import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from gateway_load import Answered, asking, fill_store
from gateway_world import headers_of, publish, running_gateway, settings_of
from restartable import RedisServer, Triton, ended
from waiting import wait_for

from leanrec.config import FeatureStoreSettings

pytestmark = pytest.mark.integration
CUT_OFF = {"ConnectError", "ReadError", "WriteError", "RemoteProtocolError"}


def report(what: str, answers: list[Answered], fault: list[Answered], recovered_s: float) -> None:
    """The figures of docs/reliability.md; `pytest -s` shows them."""
    slowest = max((answer.seconds for answer in fault), default=0.0) * 1e3
    outcomes = dict(Counter(answer.degraded for answer in fault))
    print(
        f"\n{what}: {len(answers)} answers, {len(fault)} during the fault {outcomes}, slowest then"
        f" {slowest:.0f} ms, full answers again after {recovered_s:.2f} s"
    )


def full_again(load, before: int) -> bool:
    """Whether the newest answers, after number `before`, are all full ones."""
    newest = load.since(before)[-10:]
    return len(newest) == 10 and {answer.degraded for answer in newest} == {None}


def test_triton_is_killed_started_again_and_stopped_for_two_seconds(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    store = FeatureStoreSettings(repository=str(tmp_path / "store"))
    users = fill_store(store, tmp_path)
    triton = Triton(tmp_path / "models")
    settings = settings_of(tmp_path, store, triton=[triton.grpc], deadline_ms=1000, hedge_after_ms=500)
    headers = headers_of(settings)
    with ended(triton):
        triton.start()
        with (
            running_gateway(tmp_path, settings) as (gateway, url),
            asking(url, headers, users) as load,
        ):
            wait_for(lambda: full_again(load, 0))

            killed = len(load.answers)
            triton.kill()
            wait_for(lambda: len(load.answers) > killed + 100)
            triton.start()
            back = time.perf_counter()
            started = len(load.answers)
            wait_for(lambda: full_again(load, started))
            down = load.answers[killed + 10 : started]
            report("Triton killed and restarted", load.answers, down, time.perf_counter() - back)
            assert "popular_items" in {answer.degraded for answer in down}

            stopped = len(load.answers)
            triton.send(signal.SIGSTOP)
            time.sleep(2)
            wait_for(lambda: "popular_items" in {answer.degraded for answer in load.since(stopped)})
            resumed = len(load.answers)
            triton.send(signal.SIGCONT)
            back = time.perf_counter()
            wait_for(lambda: full_again(load, resumed))
            slow = load.answers[stopped:resumed]
            report("Triton stopped for 2 s", load.answers, slow, time.perf_counter() - back)
            assert "popular_items" in {answer.degraded for answer in slow}
            assert gateway.poll() is None
    load.assert_right()


def test_the_gateway_is_killed_and_started_again(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    store = FeatureStoreSettings(repository=str(tmp_path / "store"))
    users = fill_store(store, tmp_path)
    triton = Triton(tmp_path / "models")
    settings = settings_of(tmp_path, store, triton=[triton.grpc])
    headers = headers_of(settings)
    with ended(triton):
        triton.start()
        with (
            running_gateway(tmp_path, settings) as (gateway, url),
            asking(url, headers, users) as load,
        ):
            wait_for(lambda: full_again(load, 0))
            assert load.failures == []

            gateway.kill()
            gateway.wait()
            killed = len(load.answers)
            port = int(url.rsplit(":", 1)[1])
            with running_gateway(tmp_path, settings_of(tmp_path, store, triton=[triton.grpc], port=port)):
                back = time.perf_counter()
                wait_for(lambda: full_again(load, killed))
                report("Gateway killed and restarted", load.answers, [], time.perf_counter() - back)
                failed = len(load.failures)
                wait_for(lambda: len(load.answers) > killed + 100)
                assert load.failures[failed:] == []
    assert load.wrong == []
    assert {answer.degraded for answer in load.answers} == {None}
    # Whoever was cut off learns it at once; nobody waits for a gateway that is gone.
    assert {failure.split("(")[0] for failure in load.failures} <= CUT_OFF


def test_redis_is_stopped_and_started_again(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    redis = RedisServer(tmp_path)
    store = FeatureStoreSettings(
        repository=str(tmp_path / "store"), online="redis", redis=f"127.0.0.1:{redis.port}"
    )
    triton = Triton(tmp_path / "models")
    settings = settings_of(
        tmp_path,
        store,
        triton=[triton.grpc],
        store_deadline_ms=10_000,
        user_cache_ttl_s=0.1,
    )
    headers = headers_of(settings)
    with ended(triton, redis):
        redis.start()
        users = fill_store(store, tmp_path)
        triton.start()
        with running_gateway(tmp_path, settings) as (_, url), asking(url, headers, users) as load:
            # Whom the store has not answered for yet has no row that could be stale.
            wait_for(lambda: {answer.user for answer in load.answers if not answer.degraded} == set(users))

            stopped = len(load.answers)
            redis.stop()
            wait_for(lambda: "stale_row" in {answer.degraded for answer in load.since(stopped)})
            wait_for(lambda: len(load.answers) > stopped + 100)
            redis.start()
            back = time.perf_counter()
            started = len(load.answers)
            wait_for(lambda: full_again(load, started))
            down = load.answers[stopped:started]
            report("Redis stopped and restarted", load.answers, down, time.perf_counter() - back)
    load.assert_right()
    assert {answer.degraded for answer in load.answers[stopped:]} == {None, "stale_row"}
