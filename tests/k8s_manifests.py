"""Rendered Kubernetes manifests, as tests read them."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parent.parent
OVERLAYS = ("base", "overlays/local")
WORKLOADS = ("Deployment", "StatefulSet", "Job")


class Workload(NamedTuple):
    kind: str
    name: str
    pod: dict[str, Any]
    """The pod's spec."""
    labels: dict[str, str]
    manifest: dict[str, Any]

    def container(self, name: str) -> dict[str, Any]:
        return next(c for c in containers_of(self.pod) if c["name"] == name)


@functools.cache
def rendered(folder: str) -> tuple[dict[str, Any], ...]:
    """What `kubectl apply -k k8s/<folder>` would send."""
    done = subprocess.run(
        [str(ROOT / "tools" / "kubectl.sh"), "kustomize", str(ROOT / "k8s" / folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(folder: str, kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in rendered(folder) if manifest["kind"] == kind]


def named(folder: str, kind: str, name: str) -> dict[str, Any]:
    return next(m for m in of_kind(folder, kind) if m["metadata"]["name"] == name)


def workloads(folder: str) -> list[Workload]:
    return [
        Workload(m["kind"], m["metadata"]["name"], t["spec"], t["metadata"]["labels"], m)
        for m in rendered(folder)
        if m["kind"] in WORKLOADS
        for t in [m["spec"]["template"]]
    ]


def workload(folder: str, name: str) -> Workload:
    return next(w for w in workloads(folder) if w.name == name)


def containers_of(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from pod.get("initContainers", ())
    yield from pod["containers"]
