"""A small Kubernetes API with a Trainer: it takes TrainJobs as v2.3 would, and runs their nodes as processes.

Each node gets what the operator gives its pod: torchrun's rendezvous as PET_* variables. Where one fails,
what our runtime's failure policies say is done: the set is started again, or the job fails.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from json_server import JsonHandler, serving
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

RUNTIME = Path(__file__).resolve().parents[1] / "k8s" / "components" / "trainer" / "training-runtime.yaml"
SET = yaml.safe_load(RUNTIME.read_text(encoding="utf-8"))["spec"]["template"]["spec"]
MAX_RESTARTS = SET["failurePolicy"]["maxRestarts"]
FINAL = {
    status
    for job in SET["replicatedJobs"]
    for rule in job["template"]["spec"]["podFailurePolicy"]["rules"]
    for status in rule["onExitCodes"]["values"]
}
"""Statuses of a node that fail the whole job at once."""

API = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/leanrec/trainjobs"


@dataclass
class Cluster:
    """What was asked of the API, and the nodes that run."""

    kubeconfig: Path
    created: list[dict[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[str, list[subprocess.Popen[bytes]]] = field(default_factory=dict)
    refuse: int | None = None
    """Status that a creation is refused with."""
    restarts: int = 0
    """How often a set of nodes was started again."""

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Take a TrainJob that Trainer's own model reads without losing a field, and start its nodes."""
        assert TrainerV1alpha1TrainJob.from_dict(manifest).to_dict() == manifest
        name = manifest["metadata"]["name"]
        self.created.append(manifest)
        self.jobs[name] = manifest
        self.nodes[name] = _start(manifest["spec"]["trainer"])
        return manifest

    def look(self, name: str) -> dict[str, Any]:
        """The TrainJob with the condition that its nodes' ends make; a set that may is started again."""
        ends = [node.poll() for node in self.nodes[name]]
        condition = None
        if any(ends) and not FINAL & set(ends) and self.restarts < MAX_RESTARTS:
            self.restarts += 1
            _end(self.nodes[name])
            self.nodes[name] = _start(self.jobs[name]["spec"]["trainer"])
        elif any(ends):
            condition = {"type": "Failed", "message": f"a node ended with {next(filter(None, ends))}"}
        elif all(end == 0 for end in ends):
            condition = {"type": "Complete", "message": "all nodes ended"}
        status = {"conditions": [{**condition, "status": "True"}]} if condition else {}
        return {**self.jobs[name], "status": status}

    def remove(self, name: str) -> None:
        """Forget the TrainJob, and end its nodes."""
        self.removed.append(name)
        del self.jobs[name]
        _end(self.nodes.pop(name))


def _start(trainer: dict[str, Any]) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {each["name"]: each["value"] for each in trainer["env"]}
    return [
        subprocess.Popen(
            [str(Path(sys.executable).parent / trainer["command"][0]), *trainer["command"][1:]],
            env={
                **os.environ,
                **given,
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for rank in range(trainer["numNodes"])
    ]


def _end(nodes: list[subprocess.Popen[bytes]]) -> None:
    for node in nodes:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()


@contextmanager
def cluster_with_trainer(folder: Path) -> Iterator[Cluster]:
    """Serve on a free port until the block ends; `kubeconfig` names it."""
    cluster = Cluster(folder / "kubeconfig.yaml")

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == API:
                name = query.removeprefix("fieldSelector=metadata.name%3D")
                self.answer({"items": [cluster.look(name)] if name in cluster.jobs else []})
            else:
                self.answer(cluster.look(path.removeprefix(f"{API}/")))

        def do_POST(self) -> None:
            manifest = json.loads(self.body())
            if cluster.refuse:
                self.answer({"message": "not for you"}, status=cluster.refuse)
            else:
                self.answer(cluster.create(manifest), status=201)

        def do_DELETE(self) -> None:
            self.body()
            cluster.remove(self.path.partition("?")[0].removeprefix(f"{API}/"))
            self.answer({"status": "Success"})

    with serving(Handler) as address:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": address}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        cluster.kubeconfig.write_text(yaml.safe_dump(config))
        try:
            yield cluster
        finally:
            for name in list(cluster.jobs):
                cluster.remove(name)
