"""The images, run by podman with what the manifests of the local overlay say.

`make test-images` builds the images and selects these tests.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from k8s_manifests import containers_of, workload, workloads
from pod_in_podman import HOST_OPTIONS, PodContainer, Volumes, podman
from tiny_release import top_k, user_row, write_artifacts

from leanrec.config import ReleaseSettings
from leanrec.data.event_log import read_events
from leanrec.export.golden import read_golden
from leanrec.files import read_json
from leanrec.release.publish import publish_release
from leanrec.triton import TritonClient
from serving.client import Event, GatewayClient

pytestmark = pytest.mark.images

LOCAL = "overlays/local"
TRITON, REDIS, RELEASE, GATEWAY = (
    workload(LOCAL, name) for name in ("triton", "redis", "release", "gateway")
)
API_KEY = "a key of the tests"
IMAGES = sorted({c["image"] for load in workloads(LOCAL) for c in containers_of(load.pod)})
SERVING_BYTES = 1_200_000_000
GATEWAY_BYTES = 1_200_000_000


@pytest.fixture(autouse=True, scope="module")
def built() -> None:
    if shutil.which("podman") is None:
        pytest.fail("podman is missing; install it (Debian: apt-get install podman runc)")
    for image in IMAGES:
        if podman("image", "exists", image).returncode != 0:
            pytest.fail(f"{image} is not built; run `make images`")


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[Volumes]:
    # Containers write as another user: its way in must be open to that user.
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    root = tmp_path / "volumes"
    root.mkdir()
    root.chmod(0o755)
    volumes = Volumes(root, TRITON.pod["securityContext"]["fsGroup"])
    volumes.write_secret("pseudonym-key", "pseudonym.key", "sixteen bytes and more of the tests")
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    volumes.write_secret("gateway-keys", "gateway.keys", f"tests:{digest}\n")
    yield volumes
    shutil.rmtree(root)


def wait_for(
    condition: Callable[[], bool], what: str, logs: Callable[[], str], timeout_s: float = 60
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout_s:g} s\n{logs()}")
        time.sleep(0.2)


def wait_for_redis(redis: PodContainer) -> None:
    """Until the readiness probe of its manifest passes."""
    command = REDIS.container("redis")["readinessProbe"]["exec"]["command"]
    wait_for(lambda: redis.exec(*command).returncode == 0, "PONG", redis.logs)


def probe(name: str) -> Callable[[], bool]:
    """The HTTP probe of Triton's manifest, sent as the kubelet would."""
    get = TRITON.container("triton")[name]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in TRITON.container("triton")["ports"]}
    address = f"http://127.0.0.1:{ports[get['port']]}{get['path']}"

    def passes() -> bool:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.HTTPError, OSError):
            return False

    return passes


def test_triton_waits_for_the_first_release_and_then_answers(volumes: Volumes, tmp_path: Path):
    models = volumes.folder("model-repository")
    with PodContainer(TRITON, "triton", volumes) as triton:
        wait_for(probe("startupProbe"), "start-up", triton.logs)
        assert not probe("readinessProbe")()
        publish_release(
            ReleaseSettings(repository=str(models)),
            name="tiny",
            **write_artifacts(tmp_path / "artifacts"),
            lineage={},
            output=tmp_path / "release.json",
        )
        wait_for(probe("readinessProbe"), "readiness", triton.logs)
        assert probe("livenessProbe")()
        request = user_row(batch=3)
        with TritonClient("127.0.0.1:8001") as client:
            answer = client.infer("recommender", request)
        assert answer.version == 1
        expected = top_k(request, factor=1.0)
        np.testing.assert_array_equal(answer.outputs["item_index"], expected["item_index"])
        np.testing.assert_allclose(answer.outputs["score"], expected["score"], atol=1e-6)


def test_triton_cannot_write_where_the_manifest_does_not_let_it(volumes: Volumes):
    volumes.folder("model-repository")
    with PodContainer(TRITON, "triton", volumes) as triton:
        for path in ("/models/x", "/opt/leanrec/x", "/etc/x", "/var/x"):
            assert triton.exec("sh", "-c", f"echo > {path}").returncode != 0
        assert triton.exec("sh", "-c", "echo > /tmp/x").returncode == 0
        assert triton.exec("id", "-u").stdout.strip() == str(TRITON.pod["securityContext"]["runAsUser"])
        status = triton.exec("cat", "/proc/1/status").stdout
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status


def test_redis_keeps_its_rows_over_a_restart(volumes: Volumes):
    with PodContainer(REDIS, "redis", volumes) as redis:
        wait_for_redis(redis)
        assert redis.exec("redis-cli", "set", "user", "row").stdout.strip() == "OK"
    with PodContainer(REDIS, "redis", volumes) as redis:
        wait_for_redis(redis)
        assert redis.exec("redis-cli", "get", "user").stdout.strip() == "row"


def gateway_is_ready() -> bool:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8080/readyz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.HTTPError, OSError):
        return False


def test_the_gateway_answers_takes_events_and_drains(volumes: Volumes, tmp_path: Path):
    models = volumes.folder("model-repository")
    publish_release(
        ReleaseSettings(repository=str(models)),
        name="tiny",
        **write_artifacts(tmp_path / "artifacts"),
        lineage={},
        output=tmp_path / "release.json",
    )
    names = {"triton-replicas": "127.0.0.1", "redis": "127.0.0.1"}
    with PodContainer(REDIS, "redis", volumes) as redis, PodContainer(TRITON, "triton", volumes) as triton:
        wait_for_redis(redis)
        wait_for(probe("readinessProbe"), "readiness", triton.logs)
        with PodContainer(GATEWAY, "gateway", volumes, host_names=names) as gateway:
            wait_for(gateway_is_ready, "readiness", gateway.logs)
            with GatewayClient("http://127.0.0.1:8080", API_KEY, timeout_s=20) as client:
                # Redis was never filled: popular items are answered, and the answer says so.
                answer = client.recommend("42", 3)
                assert (answer.release, answer.degraded, len(answer.items)) == (1, "popular_items", 3)
                event = Event(event_id="e1", user_id="42", item_id="i3", type="click")
                assert client.send_events([event]).accepted == 1
                assert client.send_events([event]).duplicates == 1
            for path in ("/models/x", "/keys/x", "/workspace/x", "/opt/leanrec/x", "/etc/x"):
                assert gateway.exec("sh", "-c", f"echo > {path}").returncode != 0
            assert podman("stop", "--time", "30", gateway.identity).returncode == 0
            exit_status = podman("inspect", "--format", "{{.State.ExitCode}}", gateway.identity)
            assert exit_status.stdout.strip() == "0", gateway.logs()
    assert read_events(volumes.folder("events"))["event_id"].to_pylist() == ["e1"]


def test_the_release_job_publishes_what_a_running_triton_takes_up(volumes: Volumes):
    models = volumes.folder("model-repository")
    with PodContainer(REDIS, "redis", volumes) as redis, PodContainer(TRITON, "triton", volumes) as triton:
        wait_for_redis(redis)
        wait_for(probe("startupProbe"), "start-up", triton.logs)
        assert probe("livenessProbe")()
        assert not probe("readinessProbe")()
        # The containers share this host's network, where the Service's name is not known.
        job = PodContainer(RELEASE, "release", volumes, host_names={"redis": "127.0.0.1"})
        done = job.run(timeout_s=560)
        assert done.returncode == 0, done.stdout + done.stderr
        assert int(redis.exec("redis-cli", "dbsize").stdout) > 0
        assert read_json(models / "release.json")["stable"] == 1
        wait_for(probe("readinessProbe"), "readiness", triton.logs)
        golden = read_golden(models / "recommender" / "1" / "release")
        with TritonClient("127.0.0.1:8001") as client:
            answer = client.infer("recommender", golden.inputs["recommender"])
    assert answer.version == 1
    # The released graph is a compressed one, so an item may fall out of its model's ten.
    trained = golden.expected["recommender"]["item_index"][:, :10]
    served = answer.outputs["item_index"][:, :10]
    same = [len(set(ours) & set(theirs)) for ours, theirs in zip(served, trained, strict=True)]
    assert np.mean(same) >= 9


def test_the_pipeline_image_knows_itself(volumes: Volumes):
    doctor = PodContainer(RELEASE, "release", volumes, args=["doctor", "--json"]).run(timeout_s=120)
    findings = json.loads(doctor.stdout)
    assert {f["subject"]: f["state"] for f in findings if f["state"] == "error"} == {}


def test_the_gateway_image_is_small():
    size = podman("image", "inspect", "--format", "{{.Size}}", GATEWAY.container("gateway")["image"])
    assert int(size.stdout) < GATEWAY_BYTES


def test_the_serving_image_is_small():
    size = podman("image", "inspect", "--format", "{{.Size}}", TRITON.container("triton")["image"])
    assert int(size.stdout) < SERVING_BYTES


@pytest.mark.parametrize("image", IMAGES)
def test_no_image_holds_how_its_build_host_reaches_packages(image: str):
    history = podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "leanrec" in history
    assert not any(word in history for word in ("index-url", "find-links", "PIP_", "pip.conf"))
    look = "find / -xdev \\( -name pip.conf -o -path '*/xdg/pip' -o -name '*.whl' -o -path '*/.cache/pip' \\)"
    found = podman("run", "--rm", *HOST_OPTIONS, "--user=0", "--entrypoint=sh", image, "-c", f"{look} 2>&1")
    # Python's own ensurepip comes with wheels of pip.
    own = ("python-wheels", "ensurepip")
    assert [line for line in found.stdout.splitlines() if not any(word in line for word in own)] == []
