"""The same search in a cluster: an Experiment of Katib, whose trials are Jobs that train once each.

Katib (kubeflow.org/v1beta1) gives each trial its values as words of the command line and reads the figure
from its output, a line `valid_ndcg=0.2728`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanrec.config import SearchSettings, TrainingSettings
from leanrec.config.search import SearchSpace
from leanrec.training.search import is_whole, parameters_of


def katib_experiment(
    settings: SearchSettings,
    training: TrainingSettings,
    *,
    name: str,
    namespace: str,
    image: str,
    volume: str,
    configuration: str,
    work: Path,
) -> dict[str, Any]:
    """The Experiment's manifest.

    Args:
        settings: What to try, and by which figure.
        training: The settings to start from.
        name: Of the Experiment.
        namespace: Where it runs; labelled so that Katib injects its metrics collector.
        image: The pipeline image.
        volume: PersistentVolumeClaim, mounted at /workspace, that holds `work`.
        configuration: ConfigMap with the run's configuration under `run.yaml`.
        work: Folder below /workspace with the features and the training set.

    Raises a ConfigError for a parameter that training does not know.
    """
    parameters = parameters_of(settings, training)
    short = {parameter: f"p{i}" for i, parameter in enumerate(parameters)}
    command = ["leanrec", "search", "trial", "/configuration/run.yaml", "--work", str(work)]
    for parameter, key in short.items():
        command += ["--set", f"{parameter}=${{trialParameters.{key}}}"]
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "objective": {
                "type": "maximize" if settings.maximize else "minimize",
                "objectiveMetricName": settings.figure,
            },
            "algorithm": {
                "algorithmName": "tpe",
                "algorithmSettings": [{"name": "random_state", "value": str(settings.seed)}],
            },
            "maxTrialCount": settings.trials,
            "parallelTrialCount": min(settings.parallel, settings.trials),
            "maxFailedTrialCount": max(1, settings.trials // 4),
            "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
            "parameters": [
                _parameter(short[parameter], parameter, space, training)
                for parameter, space in parameters.items()
            ],
            "trialTemplate": {
                "primaryContainerName": "training",
                "trialParameters": [
                    {"name": key, "reference": key, "description": f"training.{parameter}"}
                    for parameter, key in short.items()
                ],
                "trialSpec": _job(image, volume, configuration, command),
            },
        },
    }


def _parameter(key: str, name: str, space: SearchSpace, training: TrainingSettings) -> dict[str, Any]:
    if space.values:
        values = [str(value) for value in space.values]
        return {"name": key, "parameterType": "categorical", "feasibleSpace": {"list": values}}
    whole = is_whole(training, name, space)
    feasible = {"min": f"{space.low:g}", "max": f"{space.high:g}"}
    if space.log:
        feasible["distribution"] = "logUniform"
    return {"name": key, "parameterType": "int" if whole else "double", "feasibleSpace": feasible}


def _job(image: str, volume: str, configuration: str, command: list[str]) -> dict[str, Any]:
    """One trial: the pipeline image with the rights that every pod of ours has."""
    container = {
        "name": "training",
        "image": image,
        "command": command,
        "workingDir": "/workspace",
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - a volume of the pod's own
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "configuration", "mountPath": "/configuration", "readOnly": True},
            {"name": "workspace", "mountPath": "/workspace"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "configuration", "configMap": {"name": configuration}},
            {"name": "workspace", "persistentVolumeClaim": {"claimName": volume}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }
