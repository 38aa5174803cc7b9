"""Rollouts through a real gateway and a real Triton, users asking all the while."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
import yaml
from onnx import numpy_helper
from running_gateway import USERS, GatewayWorld, gateway_world, spec_for
from tiny_release import top_k, user_row, write_artifacts
from waiting import running, wait_for

from leanrec.config import ReleaseSettings, RunSettings
from leanrec.errors import GateError
from leanrec.release.promote import status, withdraw
from leanrec.release.publish import publish_release
from leanrec.release.rollout.session import roll_out
from leanrec.triton import TritonClient

pytestmark = pytest.mark.integration

MANY = [*USERS, *(f"another {n}" for n in range(40))]
"""All have rows: of strangers no model is asked, so that they would be no evidence."""
FACTORS = {1: 1.0, 2: 0.999, 3: 0.001}
"""What each version's scores are multiplied by; that of 3 is a drift."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayWorld]:
    with gateway_world(tmp_path_factory.mktemp("rollout"), MANY) as world:
        world.settings["rollout"] = {
            "stage_s": 0.5,
            "observe_every_s": 0.2,
            "min_requests": 40,
            "stage_timeout_s": 60,
            "canary_percents": [30, 60],
            "shadow_percent": 50,
            # The machine of the tests may be busy: what is slow is not what is tested.
            "max_p99_ratio": 1000,
        }
        world.start()
        yield world
        world.stop()


class Answers:
    """What users got, and what a client of Triton that names no version got."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.by_user: dict[str, list[tuple[int, str]]] = {user: [] for user in MANY}
        self.versions: Counter[int] = Counter()
        self.unnamed: Counter[int] = Counter()


@contextmanager
def users_ask(world: GatewayWorld) -> Iterator[Answers]:
    answers, stopping = Answers(), threading.Event()

    def through_the_gateway(users: list[str]) -> None:
        with world.client() as client:
            while not stopping.is_set():
                for user in users:
                    answer = client.post("/v1/recommendations", json={"user_id": user, "k": 5})
                    if answer.status_code != 200 or answer.json()["degraded"]:
                        answers.faults.append(answer.text)
                        continue
                    body = answer.json()
                    answers.versions[body["release"]] += 1
                    answers.by_user[user].append((body["release"], body["stage"]))

    def straight() -> None:
        with TritonClient(world.triton.grpc, timeout_s=60) as triton:
            while not stopping.wait(0.005):
                answer = triton.infer("recommender", user_row())
                answers.unnamed[answer.version] += 1
                expected = top_k(user_row(), FACTORS[answer.version])["score"]
                if abs(answer.outputs["score"] - expected).max() > 1e-5:
                    answers.faults.append(f"version {answer.version} answered another one's scores")

    threads = [threading.Thread(target=through_the_gateway, args=(MANY[n::2],)) for n in range(2)]
    threads.append(threading.Thread(target=straight))
    with running(threads, stopping):
        yield answers


def publish(world: GatewayWorld, spoil: Callable[[Path], None] = lambda _: None) -> int:
    """A new candidate, its artifacts changed by `spoil`; its version."""
    number = status(world.folder / "models")["versions"][-1]["version"] + 1
    artifacts = write_artifacts(
        world.folder / f"artifacts-{number}", FACTORS.get(number, 1.0), spec_for(MANY)
    )
    spoil(artifacts["compressed"] / "chosen")
    settings = ReleaseSettings(repository=str(world.folder / "models"), keep=9, strategy="canary")
    output = world.folder / "out"
    return publish_release(settings, name="tiny", lineage={}, output=output, **artifacts)["version"]


def settings_of(world: GatewayWorld) -> RunSettings:
    return RunSettings.parse(world.settings)


def test_a_candidate_reaches_everybody_step_by_step_and_no_request_notices(world: GatewayWorld) -> None:
    with users_ask(world) as answers:
        assert publish(world) == 2
        shown: list[str] = []
        stable = roll_out(
            settings_of(world), None, gateways=[world.url], watch=lambda s: shown.append(s.rollout.shown())
        )
        assert stable == 2
        seen = len(answers.by_user[MANY[0]])
        wait_for(lambda: len(answers.by_user[MANY[0]]) > seen + 5)
        wait_for(lambda: answers.unnamed[2] > 5)
    assert answers.faults == []
    assert list(dict.fromkeys(shown)) == ["shadow", "canary at 30 %", "canary at 60 %"]
    assert set(answers.versions) == {1, 2}
    for user, line in answers.by_user.items():
        # Once the candidate answers a user, it answers him until it is stable for all.
        assert [version for version, _ in line] == sorted(version for version, _ in line), user
        assert all(stage == "stable" for version, stage in line if version == 1)
    stages = {stage for line in answers.by_user.values() for version, stage in line if version == 2}
    assert stages == {"candidate", "stable"}
    wait_for(lambda: "recommender_candidate" not in loaded(world))


def test_a_candidate_whose_scores_drift_goes_back_by_itself(world: GatewayWorld) -> None:
    with users_ask(world) as answers:
        assert publish(world) == 3
        with pytest.raises(GateError, match=r"version 2 goes on serving; shadow: drift of scores \(PSI\)"):
            roll_out(settings_of(world), 3, gateways=[world.url])
        for user in MANY:
            seen = len(answers.by_user[user])
            wait_for(lambda user=user, seen=seen: len(answers.by_user[user]) > seen + 2)
            assert answers.by_user[user][-1] == (2, "stable")
    assert answers.faults == []
    assert set(answers.unnamed) == {2}
    facts = status(world.folder / "models")
    assert facts["stable"] == 2
    assert "drift of scores" in facts["history"][-1]["reason"]


def of_nan(path: Path) -> None:
    graph = onnx.load(path)
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * float("nan"), "bias"))
    onnx.save(graph, path)


def no_graph(path: Path) -> None:
    path.write_bytes(b"not a graph")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(of_nan, "differs by nan from its own graph"), (no_graph, "was not loaded within 5 s")],
)
def test_a_candidate_that_computes_nothing_or_does_not_load_is_met_by_nobody(
    world: GatewayWorld, spoil: Callable[[Path], None], reason: str
) -> None:
    settings = settings_of(world)
    if spoil is no_graph:
        rollout = settings.rollout.model_copy(update={"load_s": 5})
        settings = settings.model_copy(update={"rollout": rollout})
    with users_ask(world) as answers:
        version = publish(world, lambda graphs: spoil(graphs / "recommender" / "model.onnx"))
        with pytest.raises(GateError, match=f"withdrawn, version 2 goes on serving; .*{reason}"):
            roll_out(settings, None, gateways=[world.url])
    assert version not in answers.versions
    assert answers.faults == []


def test_a_stopped_and_a_killed_controller_leave_a_stage_that_the_next_command_takes_up_and_abort_ends(
    world: GatewayWorld,
) -> None:
    world.settings["rollout"]["stage_s"] = 600
    version = publish(world)
    (world.folder / "run.yaml").write_text(yaml.safe_dump(world.settings))
    with users_ask(world) as answers:
        command = [sys.executable, "-c", "from leanrec.cli import main; main()", "release"]
        config = str(world.folder / "run.yaml")
        models = world.folder / "models"

        def begin() -> subprocess.Popen[str]:
            begun = [*command, "rollout", config, "--gateway", world.url]
            return subprocess.Popen(begun, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

        rollout = begin()
        wait_for(lambda: (status(models)["rollout"] or {}).get("stage") == "shadow")
        rollout.send_signal(signal.SIGINT)
        _, said = rollout.communicate()
        assert rollout.returncode == 2
        assert f"stopped by hand; version {version} stays as it is (shadow), and nobody watches it" in said
        assert status(models)["watched"] is False
        rollout = begin()
        wait_for(lambda: status(models)["watched"])
        os.kill(rollout.pid, signal.SIGKILL)
        rollout.communicate()
        facts = status(models)
        assert (facts["rollout"]["version"], facts["watched"]) == (version, False)
        done = subprocess.run([*command, "abort", config], capture_output=True, text=True, check=True)
        assert done.stdout == "The candidate is withdrawn; 2 is stable.\n"
        with pytest.raises(Exception, match="no version is being rolled out"):
            withdraw(world.folder / "models", "again")
    assert answers.faults == []
    assert set(answers.versions) == {2}


def loaded(world: GatewayWorld) -> dict[str, list[int]]:
    return {name: versions for name, versions in world.triton.loaded()["models"].items() if versions}
