"""What goes to Kubeflow Trainer: our runtime and our TrainJobs, against its own models and its own schema."""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from k8s_manifests import ROOT
from kubeflow_trainer_api.models import TrainerV1alpha1TrainingRuntime, TrainerV1alpha1TrainJob

from leanrec.config.train_job import TrainJobSettings
from leanrec.errors import TrainingError
from leanrec.training.train_job import train_job

COMPONENT = ROOT / "k8s" / "components" / "trainer"
BESIDE = ROOT.parent / "shared" / "schemas" / "kubeflow-trainer-v2.3.0"
UPSTREAM = os.environ.get("KUBEFLOW_TRAINER_CRDS") or (str(BESIDE) if BESIDE.is_dir() else None)
"""Folder with Trainer's own custom resource definitions (manifests/base/crds of its repository)."""

JOB = train_job(
    TrainJobSettings(
        image="leanrec/training-gpu:1", num_nodes=4, num_processes_per_node=8, num_gpus=8, queue="q"
    ),
    name="leanrec-train-0123456789",
    job=Path("/workspace/training/job.json"),
)


def manifests() -> list[dict[str, Any]]:
    """The component as `kubectl kustomize` renders it over nothing else."""
    done = subprocess.run(
        [str(ROOT / "tools" / "kubectl.sh"), "kustomize", str(COMPONENT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def runtime() -> dict[str, Any]:
    return next(m for m in manifests() if m["kind"] == "TrainingRuntime")


def test_trainers_own_models_read_a_job_without_losing_a_field():
    assert TrainerV1alpha1TrainJob.from_dict(JOB).to_dict() == JOB


def test_trainers_own_models_read_the_runtime():
    found = TrainerV1alpha1TrainingRuntime.from_dict(runtime()).to_dict()
    for part in ("mlPolicy", "template"):
        assert found["spec"][part].keys() == runtime()["spec"][part].keys()
    (node,) = found["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["template"]["spec"]["template"]["spec"]["containers"][0]["name"] == "node"


@pytest.mark.skipif(not UPSTREAM, reason="KUBEFLOW_TRAINER_CRDS names no folder with the upstream schemas")
@pytest.mark.parametrize(("plural", "manifest"), [("trainjobs", JOB), ("clustertrainingruntimes", None)])
def test_trainers_own_schema_takes_every_field(plural: str, manifest: dict[str, Any] | None):
    assert UPSTREAM is not None
    definition = yaml.safe_load(
        (Path(UPSTREAM) / f"trainer.kubeflow.org_{plural}.yaml").read_text(encoding="utf-8")
    )
    schema = closed(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    given = manifest or runtime()
    jsonschema.validate(given, schema)
    broken = copy.deepcopy(given)
    broken["spec"]["elasticPolicy"] = {}
    with pytest.raises(jsonschema.ValidationError, match="elasticPolicy"):
        jsonschema.validate(broken, schema)


def closed(schema: Any) -> Any:
    """The schema with no room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if found.get("type") == "object" and found.get("properties"):
        found.setdefault("additionalProperties", False)
    return found


def test_the_rest_keeps_the_strict_schema_of_kubernetes():
    for manifest in manifests():
        if manifest["kind"] != "TrainingRuntime":
            kubernetes_validate.validate(manifest, "1.36", strict=True)


def test_the_launcher_may_touch_train_jobs_and_nothing_else():
    (role,) = (m for m in manifests() if m["kind"] == "Role")
    assert role["rules"] == [
        {
            "apiGroups": ["trainer.kubeflow.org"],
            "resources": ["trainjobs"],
            "verbs": ["create", "get", "list", "delete"],
        }
    ]


def test_an_error_that_would_come_again_fails_the_set_and_a_crash_restarts_it():
    found = TrainerV1alpha1TrainingRuntime.from_dict(runtime()).to_dict()["spec"]["template"]["spec"]
    assert found["failurePolicy"]["maxRestarts"] == 3
    (rule,) = found["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (node,) = found["replicatedJobs"]
    job = node["template"]["spec"]
    (pods,) = job["podFailurePolicy"]["rules"]
    assert pods["action"] == "FailJob"
    assert pods["onExitCodes"]["operator"] == "In"
    assert pods["onExitCodes"]["values"] == [TrainingError.exit_status]
    (container,) = job["template"]["spec"]["containers"]
    assert pods["onExitCodes"]["containerName"] == container["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "pod failure policies ask for it"


def test_a_node_is_restricted_and_bounded():
    (node,) = runtime()["spec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    resources = JOB["spec"]["trainer"]["resourcesPerNode"]
    assert resources["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "8"}
