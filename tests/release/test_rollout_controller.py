"""A rollout from the first look to the end, on the gateways' real exposition format over real HTTP."""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client import start_http_server
from tiny_release import write_artifacts
from typer.testing import CliRunner

from leanrec.cli import app
from leanrec.config import ReleaseSettings, RolloutSettings
from leanrec.errors import GateError, ReleaseError, ServingError
from leanrec.files import write_json
from leanrec.release.promote import advance, offer, promote, rollback, status, withdraw
from leanrec.release.publish import publish_release
from leanrec.release.repository import ModelRepository
from leanrec.release.rollout.controller import Controller, Observation
from leanrec.release.rollout.observation import GatewayMetrics
from leanrec.release.rollout.session import with_measured_variation
from leanrec.release.rollout.verification import fault_of_candidate
from leanrec.release.rollout.watch import LOCK
from serving.gateway.metrics import Metrics

SETTINGS = RolloutSettings(
    stage_s=0, observe_every_s=0.05, min_requests=50, stage_timeout_s=20, canary_percents=(10, 50)
)
ROUTE = "/v1/recommendations"
RANK_ROUTE = "/v1/rank"


class Gateway:
    """A gateway's metrics behind HTTP, growing as if users came: `outcome` is what the candidate does."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.outcome = "ok"
        self.seconds = 0.002
        self.rate = 20
        self.strangers = 0
        """Users without a row who come to each version for every one with a row: no model is asked."""
        self.ranks: tuple[int, str, float] = 0, "ok", 0.002
        """Calls of /v1/rank to each version for every recommendation, and what becomes of the candidate's."""
        self.compares = True
        self.click_rates = {"1": 10, "2": 10}
        """Release -> clicks of a hundred lists shown."""
        self._server, self._thread = start_http_server(0, "127.0.0.1", self.metrics._registry)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._stopping = threading.Event()
        self._users = threading.Thread(target=self._come, daemon=True)
        self._users.start()

    def _come(self) -> None:
        while not self._stopping.wait(0.01):
            for _ in range(self.rate):
                self.answer("1", "stable", "ok", 0.002)
                self.answer("2", "candidate", self.outcome, self.seconds)
                self.greet(self.strangers)
                calls, outcome, seconds = self.ranks
                for _ in range(calls):
                    self.rank("1", "stable", "ok", 0.02)
                    self.rank("2", "candidate", outcome, seconds)
                if self.compares:
                    self.metrics.shadow_overlap.labels("2").observe(0.9)

    def answer(self, release: str, stage: str, outcome: str, seconds: float) -> None:
        self.metrics.requests.labels(ROUTE, release, stage, outcome).inc()
        if outcome != "error":
            self.metrics.seconds.labels(ROUTE, release, outcome).observe(seconds)
            self.metrics.score.labels(release).observe(0.1)
            self.metrics.feedback.labels(release, "impression").inc(100)
            self.metrics.feedback.labels(release, "click").inc(self.click_rates[release])

    def rank(self, release: str, stage: str, outcome: str, seconds: float) -> None:
        self.metrics.requests.labels(RANK_ROUTE, release, stage, outcome).inc()
        if outcome != "error":
            self.metrics.seconds.labels(RANK_ROUTE, release, outcome).observe(seconds)

    def greet(self, strangers: int) -> None:
        """Popular items for users without a row, at once and of both versions."""
        for release, stage in (("1", "stable"), ("2", "candidate")):
            self.metrics.requests.labels(ROUTE, release, stage, "unknown").inc(strangers)
            for _ in range(strangers):
                self.metrics.seconds.labels(ROUTE, release, "unknown").observe(0.0005)

    def close(self) -> None:
        self._stopping.set()
        self._users.join()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_artifacts(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def models(tmp_path: Path, artifacts: dict[str, Path]) -> Path:
    """Versions 1 (stable), 2 and 3."""
    for strategy in ("direct", "canary", "canary"):
        settings = ReleaseSettings(repository=str(tmp_path / "models"), keep=5, strategy=strategy)
        publish_release(settings, name="tiny", lineage={}, output=tmp_path / "out", **artifacts)
        if strategy == "canary":
            withdraw(tmp_path / "models", "not yet")
    return tmp_path / "models"


def controller(
    models: Path, *urls: str, verify: Callable[[int], str | None] = lambda _: None, **changes: object
) -> Controller:
    settings = SETTINGS.model_copy(update=changes)
    return Controller(settings=settings, repository=models, metrics=GatewayMetrics(urls), verify=verify)


def ignore(_: Observation) -> None: ...


def actions(models: Path) -> list[str]:
    return [line["action"] for line in status(models)["history"]]


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"1": {"click_design_effect": 31.5}}, 31.5),
        ({"1": {"click_design_effect": 1.3}}, 20),
        ({"1": {"click_design_effect": None}}, 20),
        ({"2": {"click_design_effect": 31.5}}, 20),  # not the stable one
        (None, 20),
    ],
)
def test_clicks_vary_as_much_as_was_seen_of_the_stable_version_and_never_less_than_set(
    models: Path, figures: dict | None, expected: float
) -> None:
    if figures is not None:
        write_json(models / "online.json", {"releases": figures})
    assert with_measured_variation(SETTINGS, ModelRepository(models)).click_design_effect == expected


def test_a_good_candidate_passes_every_stage_and_says_why(models: Path, gateway: Gateway) -> None:
    seen: list[str] = []
    assert (
        controller(models, gateway.url, shadow_percent=20).run(
            2, lambda look: seen.append(look.rollout.shown())
        )
        == 2
    )
    facts = status(models)
    assert (facts["stable"], facts["rollout"]) == (2, None)
    assert actions(models)[-5:] == ["candidate", "shadow", "canary 10 %", "canary 50 %", "promote"]
    assert all(line["reason"] for line in facts["history"][-4:])
    assert list(dict.fromkeys(seen)) == ["shadow", "canary at 10 %", "canary at 50 %"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda g: setattr(g, "outcome", "error"), "failed requests"),
        (lambda g: setattr(g, "outcome", "empty"), "empty answers"),
        (lambda g: setattr(g, "seconds", 0.04), "p99 latency"),
        (lambda g: g.click_rates.update({"2": 4}), "click-through rate"),
    ],
    ids=["errors", "empty", "slow", "clicks"],
)
def test_a_bad_candidate_is_withdrawn_with_the_figure_and_the_bound(
    models: Path, gateway: Gateway, spoil: Callable[[Gateway], None], reason: str
) -> None:
    spoil(gateway)
    with pytest.raises(GateError, match=f"version 1 goes on serving; .*{reason}.*bound") as stopped:
        controller(models, gateway.url, shadow_percent=0).run(2, ignore)
    assert stopped.value.exit_status == 3
    facts = status(models)
    assert (facts["stable"], facts["rollout"]) == (1, None)
    assert reason in facts["history"][-1]["reason"]


def test_a_candidate_that_triton_serves_wrongly_meets_nobody(models: Path, gateway: Gateway) -> None:
    with pytest.raises(GateError, match="it differs"):
        controller(models, gateway.url, verify=lambda version: f"it differs ({version})").run(2, ignore)
    assert actions(models)[-2:] == ["candidate", "withdraw"]


def test_silence_is_no_proof_of_health(models: Path, gateway: Gateway) -> None:
    gateway.rate = 0
    with pytest.raises(GateError, match=r"shadow: 0 requests within 0\.3 s, bound 50"):
        controller(models, gateway.url, stage_timeout_s=0.3).run(2, ignore)


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [((1, "error", 0.02), "failed requests"), ((1, "ok", 0.2), "p99 latency")],
    ids=["errors", "slow"],
)
def test_a_candidate_whose_ranker_alone_is_bad_is_withdrawn(
    models: Path, gateway: Gateway, ranks: tuple[int, str, float], reason: str
) -> None:
    gateway.ranks = ranks
    with pytest.raises(GateError, match=f"version 1 goes on serving; .*/v1/rank: .*{reason}.*bound"):
        controller(models, gateway.url, shadow_percent=0).run(2, ignore)
    assert status(models)["stable"] == 1


def test_a_ranker_as_quick_as_the_stable_one_passes_though_it_is_slower_than_recommendations(
    models: Path, gateway: Gateway
) -> None:
    gateway.ranks = 5, "ok", 0.02
    assert controller(models, gateway.url, shadow_percent=20).run(2, ignore) == 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda g: setattr(g, "outcome", "error"), "failed requests"),
        (lambda g: setattr(g, "outcome", "empty"), "empty answers"),
        (lambda g: setattr(g, "seconds", 0.04), "p99 latency"),
    ],
    ids=["errors", "empty", "slow"],
)
def test_a_candidate_that_fails_whoever_asks_it_is_withdrawn_however_many_strangers_come(
    models: Path, gateway: Gateway, spoil: Callable[[Gateway], None], reason: str
) -> None:
    gateway.rate, gateway.strangers = 1, 400
    spoil(gateway)
    with pytest.raises(GateError, match=f"version 1 goes on serving; .*{reason}.*bound"):
        controller(models, gateway.url, shadow_percent=0).run(2, ignore)


def test_strangers_alone_are_silence_for_no_model_answers_them(models: Path, gateway: Gateway) -> None:
    gateway.rate = 0

    def come(_: Observation) -> None:
        gateway.greet(100)

    with pytest.raises(GateError, match=r"canary at 10 %: 0 requests within 0\.5 s, bound 50"):
        controller(models, gateway.url, shadow_percent=0, stage_timeout_s=0.5).run(2, come)
    assert f'outcome="unknown",release="2",route="{ROUTE}"' in gateway.metrics.text().decode()


def test_a_shadow_that_was_never_compared_does_not_pass(models: Path, gateway: Gateway) -> None:
    gateway.compares = False
    with pytest.raises(GateError, match=r"shadow: \d+ requests within 0\.5 s, bound 50"):
        controller(models, gateway.url, stage_timeout_s=0.5).run(2, ignore)


def test_without_any_gateway_the_candidate_stays_where_it_is(models: Path) -> None:
    with pytest.raises(ServingError, match=r"no gateway answers at http://127\.0\.0\.1:9"):
        controller(models, "http://127.0.0.1:9").run(2, ignore)
    assert status(models)["rollout"]["stage"] == "candidate"


def test_one_silent_replica_of_two_is_named_and_does_not_stop_the_rollout(
    models: Path, gateway: Gateway
) -> None:
    silent: set[str] = set()
    controller(models, gateway.url, "http://127.0.0.1:9").run(2, lambda look: silent.update(look.silent))
    assert silent == {"http://127.0.0.1:9"}


def test_a_rollout_that_was_killed_goes_on_where_it_was(models: Path, gateway: Gateway) -> None:
    offer(models, 2)
    advance(models, "canary", percent=50, reason="as before")
    assert controller(models, gateway.url).run(None, ignore) == 2
    assert actions(models)[-3:] == ["candidate", "canary 50 %", "promote"]


def test_a_controller_notes_each_look_so_that_one_which_was_killed_is_told_by_its_silence(
    models: Path, gateway: Gateway
) -> None:
    looked: list[float] = []

    def watch(_: Observation) -> None:
        looked.append(time.time() - (models / LOCK).stat().st_mtime)
        os.utime(models / LOCK, (0, 0))

    controller(models, gateway.url).run(2, watch)
    assert len(looked) >= 3
    assert max(looked) < 60


def test_a_candidate_goes_though_another_writer_holds_the_repository_for_long(
    models: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanrec.release.repository.PATIENCE_S", 0.1)
    gateway.outcome = "error"
    held = threading.Event()

    def hold() -> None:
        with ModelRepository(models).exclusive():
            held.set()
            time.sleep(2)

    offer(models, 2)
    advance(models, "canary", percent=10, reason="as before")
    writer = threading.Thread(target=hold)
    writer.start()
    assert held.wait(60)
    with pytest.raises(ReleaseError, match="is changing this repository"):
        promote(models, 2)  # by hand one is told soon
    with pytest.raises(GateError, match="withdrawn, version 1 goes on serving"):
        controller(models, gateway.url).run(None, ignore)
    writer.join()
    assert status(models)["rollout"] is None


@pytest.mark.parametrize("file", ["model.onnx", "release/golden.safetensors", "release/items.parquet"])
def test_a_version_that_is_not_as_it_was_published_answers_nobody(models: Path, file: str) -> None:
    spoilt = models / "recommender" / "2" / file
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt.write_bytes(content)
    for decide in (promote, offer):
        with pytest.raises(ReleaseError, match=rf"version 2 is not as it was published: .*{file}: changed"):
            decide(models, 2)
    assert status(models)["stable"] == 1
    fault = fault_of_candidate(ReleaseSettings(repository=str(models)), ModelRepository(models), 2, [], 1)
    assert fault is not None
    assert fault.startswith("version 2 is not as it was published")


def test_a_rollback_to_a_version_that_is_not_as_it_was_published_is_refused(models: Path) -> None:
    promote(models, 2)
    (models / "ranker" / "1" / "model.onnx").unlink()
    with pytest.raises(ReleaseError, match=r"version 1 is not as it was published: .*missing"):
        rollback(models)
    assert status(models)["stable"] == 2


def test_every_change_is_shared_with_replicas_that_do_not_see_the_repository(
    models: Path, gateway: Gateway
) -> None:
    shared = []

    def share() -> None:
        rollout = status(models)["rollout"]
        shared.append((status(models)["stable"], rollout and rollout["percent"]))

    assert replace(controller(models, gateway.url), share=share).run(2, ignore) == 2
    assert shared == [(1, 0), (1, 0), (1, 10), (1, 50), (2, None)]


def test_a_withdrawal_that_could_not_be_shared_says_so(models: Path, gateway: Gateway) -> None:
    gateway.outcome = "error"
    calls = []

    def share() -> None:
        calls.append(status(models)["rollout"])
        if calls[-1] is None:
            raise ReleaseError("the store is away")

    offer(models, 2)
    advance(models, "canary", percent=10, reason="as before")
    with pytest.raises(GateError, match=r"version 1 goes on serving; .*not everybody was told: the store"):
        replace(controller(models, gateway.url), share=share).run(None, ignore)
    assert status(models)["rollout"] is None


def test_the_second_of_two_rollouts_is_refused(models: Path, gateway: Gateway) -> None:
    with (models / LOCK).open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ReleaseError, match="another rollout is at work"):
            controller(models, gateway.url).run(2, ignore)
    offer(models, 2)
    with pytest.raises(ReleaseError, match=r"version 2 is being rolled out .*version 3 has to wait"):
        controller(models, gateway.url).run(3, ignore)


def test_nothing_to_go_on_with_is_said(models: Path, gateway: Gateway) -> None:
    with pytest.raises(ReleaseError, match="no version is being rolled out; name the one"):
        controller(models, gateway.url).run(None, ignore)
    with pytest.raises(ReleaseError, match="version 9 is not in the repository"):
        controller(models, gateway.url).run(9, ignore)


def test_a_rollout_ended_by_hand_stops_the_controller(models: Path, gateway: Gateway) -> None:
    def end(_: Observation) -> None:
        with contextlib.suppress(ReleaseError):
            withdraw(models, "ended by hand")

    with pytest.raises(ReleaseError, match="somebody else changed the rollout"):
        controller(models, gateway.url, stage_s=5).run(2, end)
    assert status(models)["stable"] == 1


def test_what_was_judged_of_one_candidate_moves_no_other(models: Path, gateway: Gateway) -> None:
    def verify(_: int) -> None:
        withdraw(models, "ended by hand while its golden requests were asked")
        offer(models, 3)

    with pytest.raises(ReleaseError, match="somebody else changed the rollout"):
        controller(models, gateway.url, verify=verify).run(2, ignore)
    rollout = status(models)["rollout"]
    assert (rollout["version"], rollout["stage"]) == (3, "candidate")


def release_command(models: Path, *arguments: str) -> dict:
    """What `leanrec release <arguments> --json` prints, for the repository at `models`."""
    config = models.parent / "mine.yaml"
    settings = {
        "name": "tiny",
        "data": {"source": "movielens-100k"},
        "feature_store": {"repository": "features"},
        "release": {"repository": str(models)},
        "rollout": SETTINGS.model_dump(mode="json"),
    }
    config.write_text(yaml.safe_dump(settings))
    command, *others = arguments
    done = CliRunner().invoke(
        app, ["release", command, str(config), *others, "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_the_commands_show_end_and_finish_a_rollout(models: Path, gateway: Gateway) -> None:
    offer(models, 3)
    shown = release_command(models, "status")
    assert (shown["rollout"]["version"], shown["rollout"]["stage"], shown["settled"]) == (
        3,
        "candidate",
        True,
    )
    assert [line["role"] for line in shown["versions"]] == ["stable", "kept", "candidate"]
    assert release_command(models, "abort") == {"stable": 1}
    assert release_command(models, "status")["rollout"] is None
    with pytest.raises(ReleaseError, match="no version is being rolled out"):
        release_command(models, "abort")
    offer(models, 2)
    advance(models, "canary", percent=10, reason="as before")
    assert release_command(models, "rollout", "--gateway", gateway.url) == {"stable": 2}
    shown = release_command(models, "status")
    assert (shown["stable"], shown["served"], shown["rollout"]) == (2, [1, 2], None)
    assert [line["action"] for line in shown["history"][-2:]] == ["canary 50 %", "promote"]


def test_a_name_stands_for_every_replica_behind_it(gateway: Gateway) -> None:
    other = Gateway()
    behind = [gateway.url.removeprefix("http://")]

    def resolve(name: str) -> list[str]:
        assert name == "gateway-replicas:8080"
        if not behind:
            raise OSError("nobody knows the name")
        return behind

    with contextlib.closing(other):
        for each in (gateway, other):
            each.rate = 0
        time.sleep(0.05)
        metrics = GatewayMetrics(["http://gateway-replicas:8080/"], resolve)
        metrics.look()
        behind.append(other.url.removeprefix("http://"))
        metrics.look()  # a replica that is new begins to count now
        for each, requests in ((gateway, 3), (other, 4)):
            for _ in range(requests):
                each.answer("2", "candidate", "ok", 0.002)
        assert metrics.look()[2].requests == 7
        assert metrics.answered == [gateway.url, other.url]
        behind.clear()
        with pytest.raises(ServingError, match="no gateway answers at http://gateway-replicas:8080"):
            metrics.require_one()


def test_a_replica_that_restarts_is_counted_from_nought(gateway: Gateway) -> None:
    gateway.rate = 0
    time.sleep(0.05)
    metrics = GatewayMetrics([gateway.url])
    metrics.look()
    for _ in range(5):
        gateway.answer("2", "candidate", "ok", 0.002)
    before = metrics.look()[2].requests
    gateway.metrics.requests.clear()
    for _ in range(3):
        gateway.answer("2", "candidate", "ok", 0.002)
    assert metrics.look()[2].requests - before == 3
