"""Training as a TrainJob of Kubeflow Trainer v2: created, watched, reported on and removed from here.

The manifest is what Trainer v2.3 takes (`trainer.kubeflow.org/v1alpha1`). The operator gives every pod
torchrun's rendezvous as PET_* variables, so the command (`leanrec.training.node`) is torchrun
without options. A killed step that is started again finds its job by name and watches on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from leanrec.config import TrainingSettings
from leanrec.config.train_job import TrainJobSettings
from leanrec.errors import ConfigError, LeanRecError, TrainingError
from leanrec.files import atomic_directory, atomic_file, read_json, sha256_of
from leanrec.training.job import ERROR_FILE, PROGRESS_FILE, SUMMARY_FILE, Job, last_word

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
Look = Callable[[], dict[str, Any]]
"""Answers the TrainJob as it is now."""

LOST_LOOKS = 20
"""Looks in a row that may fail before the job counts as lost."""


def train_on_cluster(
    settings: TrainingSettings,
    cluster: TrainJobSettings,
    *,
    features: Path,
    training_set: Path,
    output: Path,
    warm_start: Path | None,
) -> dict[str, Any]:
    """What `train_models` does, on the nodes of a cluster; answers the same summary.

    Raises a TrainingError with one sentence when the job cannot be created, fails or is lost; `output` is
    then as it was, and the checkpoints stay in the shared folder for the next attempt.
    """
    _refuse_idle_gpus(cluster)
    inputs = {"features": Path(features), "training_set": Path(training_set)}
    if warm_start is not None:
        inputs["warm_start"] = Path(warm_start)
    name = f"leanrec-train-{_digest(settings, inputs)}"
    shared = Path(cluster.folder) / name
    with atomic_directory(Path(output)) as fresh:
        with _train_job(cluster, name, partial(_lay_out, settings, inputs, shared)) as look:
            _watch(cluster, name, look, shared)
        summary: dict[str, Any] = read_json(shared / SUMMARY_FILE)
        shutil.copytree(shared / "output", fresh, dirs_exist_ok=True)
    shutil.rmtree(shared, ignore_errors=True)
    return summary


def _refuse_idle_gpus(cluster: TrainJobSettings) -> None:
    """A ConfigError where a pod has other GPUs than processes, each of which trains on one of its own."""
    if cluster.num_gpus not in (0, cluster.num_processes_per_node):
        raise ConfigError(
            f"training.train_job: num_gpus {cluster.num_gpus} and num_processes_per_node "
            f"{cluster.num_processes_per_node} differ, and each process trains on a GPU of its own; set both "
            "alike"
        )


def train_job(cluster: TrainJobSettings, *, name: str, job: Path) -> dict[str, Any]:
    """The TrainJob's manifest, which runs the job file at `job` on every node."""
    labels = {
        "app.kubernetes.io/name": "leanrec-training",
        "kueue.x-k8s.io/queue-name": cluster.queue,
        "kueue.x-k8s.io/priority-class": cluster.priority,
    }
    limits = {"memory": cluster.memory}
    if cluster.num_gpus:
        limits["nvidia.com/gpu"] = str(cluster.num_gpus)
    trainer = {
        "image": cluster.image,
        "command": ["python", "-m", "leanrec.training.node", str(job)],
        "numNodes": cluster.num_nodes,
        "numProcPerNode": cluster.num_processes_per_node,
        # The planner iterates over sets of strings: without a fixed hash seed its plan differs between pods.
        "env": [{"name": "PYTHONHASHSEED", "value": "0"}, {"name": "OMP_NUM_THREADS", "value": "1"}],
        "resourcesPerNode": {"requests": {"cpu": cluster.cpu, **limits}, "limits": limits},
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": {key: value for key, value in labels.items() if value},
        },
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": cluster.runtime},
            "activeDeadlineSeconds": cluster.deadline_s,
            "trainer": {key: value for key, value in trainer.items() if value is not None},
        },
    }


def _digest(settings: TrainingSettings, inputs: dict[str, Path]) -> str:
    """Ten hex digits over what is trained on what: the same training has the same name."""
    digest = hashlib.sha256(json.dumps(settings.model_dump(mode="json"), sort_keys=True).encode())
    for root in inputs.values():
        for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if file.is_file():
                digest.update(f"{file.name}:{sha256_of(file)};".encode())
    return digest.hexdigest()[:10]


def _lay_out(settings: TrainingSettings, inputs: dict[str, Path], shared: Path) -> Path:
    """Copy the inputs where every node can read them, and write the job file; its path."""
    for name, source in inputs.items():
        if (shared / name).exists():
            continue
        if source.is_dir():
            with atomic_directory(shared / name) as fresh:
                shutil.copytree(source, fresh, dirs_exist_ok=True)
        else:
            with atomic_file(shared / name) as beside:
                shutil.copyfile(source, beside)
    for left in [shared / PROGRESS_FILE, shared / SUMMARY_FILE, *shared.glob(f"*{ERROR_FILE}")]:
        left.unlink(missing_ok=True)
    for folder in ("output", "checkpoints"):
        (shared / folder).mkdir(parents=True, exist_ok=True)
    job = Job(
        settings=settings.model_dump(mode="json"),
        features=str(shared / "features"),
        training_set=str(shared / "training_set"),
        output=str(shared / "output"),
        checkpoints=str(shared / "checkpoints"),
        folder=str(shared),
        warm_start=str(shared / "warm_start") if "warm_start" in inputs else "",
        parent=0,
        progress=str(shared / PROGRESS_FILE),
    )
    with atomic_file(shared / "job.json") as beside:
        beside.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return shared / "job.json"


@contextmanager
def _train_job(cluster: TrainJobSettings, name: str, lay_out: Callable[[], Path]) -> Iterator[Look]:
    """The TrainJob of that name: found, or created over what `lay_out` laid out; removed in the end.

    Gives what looks at it.
    """
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    objects = client.CustomObjectsApi(_api_client())
    where = (GROUP, VERSION, cluster.namespace, PLURAL)
    try:
        found = objects.list_namespaced_custom_object(*where, field_selector=f"metadata.name={name}")
        if found["items"]:
            print(f"{name}: found, left by a step that was killed; watching it", flush=True)
        else:
            objects.create_namespaced_custom_object(*where, train_job(cluster, name=name, job=lay_out()))
    except ApiException as error:
        raise TrainingError(_refusal(cluster, name, error)) from None
    except LeanRecError:
        raise
    except Exception as error:  # urllib3 raises its own when the server is not there
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"the Kubernetes API does not answer ({reason}); check the cluster, or train on this machine "
            "with training.train_job: null"
        ) from None
    try:
        yield lambda: objects.get_namespaced_custom_object(*where, name)
    finally:
        try:
            objects.delete_namespaced_custom_object(*where, name, propagation_policy="Foreground")
        except Exception as error:  # what went wrong before is what must be told
            reason = str(error).splitlines()[0]
            print(f"{name}: could not be removed ({reason}); `kubectl delete trainjob {name}`", flush=True)


def _watch(cluster: TrainJobSettings, name: str, look: Look, shared: Path) -> None:
    """Return when the job is complete; show its progress meanwhile."""
    shown, lost = 0, 0
    while True:
        try:
            state, message = _state_of(look())
            lost = 0
        except Exception as error:  # a look may fail; the job runs on
            state, message, lost = "Unknown", str(error).splitlines()[0], lost + 1
        shown = _show_progress(shared / PROGRESS_FILE, shown)
        if state == "Complete":
            return
        if state == "Failed":
            raise TrainingError(_reason(shared, name, message))
        if lost >= LOST_LOOKS:
            raise TrainingError(f"TrainJob {name}: lost ({message}); start again to go on")
        time.sleep(cluster.poll_s)


def _state_of(job: dict[str, Any]) -> tuple[str, str]:
    """The condition that holds, "Running" without one, and its message."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return condition["type"], condition.get("message", "")
    return "Running", ""


def _show_progress(file: Path, shown: int) -> int:
    """Print the lines after the first `shown`; how many there are now."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in lines[shown:]:
        print(line, flush=True)
    return max(shown, len(lines))


def _reason(shared: Path, name: str, message: str) -> str:
    word = last_word(shared)
    if word is not None:
        return word.message
    return (
        f"TrainJob {name} failed ({message or 'no message'}); `kubectl describe trainjob {name}` tells more; "
        "the same step goes on from the last checkpoint"
    )


def _refusal(cluster: TrainJobSettings, name: str, error: Any) -> str:
    try:
        reason = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        reason = str(error.reason)
    ways_out = {
        403: "bind the Role of k8s/components/trainer to the pod's service account",
        404: "install Kubeflow Trainer v2, or train on this machine with training.train_job: null",
    }
    way_out = ways_out.get(error.status, "mend training.train_job")
    return f"TrainJob {name} in namespace {cluster.namespace} was refused ({reason}); {way_out}"


def _api_client() -> Any:
    """The API of the cluster that this pod runs in, or else of the kubeconfig."""
    from kubernetes import client, config

    found = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=found)
    except config.ConfigException:
        try:
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=found)
        except config.ConfigException as error:
            raise TrainingError(
                f"no Kubernetes cluster is configured ({error}); set KUBECONFIG, or train on this machine "
                "with training.train_job: null"
            ) from None
    return client.ApiClient(found)
