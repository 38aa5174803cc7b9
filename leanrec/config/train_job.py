"""Training on several nodes of a cluster, by a TrainJob of Kubeflow Trainer v2."""

from __future__ import annotations

from pydantic import Field

from leanrec.config.section import Section


class TrainJobSettings(Section):
    """The TrainJob that the training step creates, watches and removes.

    Its pods and the step's own pod share `folder`: the step lays the data there, the pods write the model and
    the checkpoints there.
    """

    namespace: str = "leanrec"
    """Kubernetes namespace of the TrainJob and of its runtime."""
    runtime: str = "leanrec-torch"
    """TrainingRuntime that says what a pod looks like (k8s/components/trainer)."""
    image: str | None = None
    """Image of the pods; null takes the runtime's."""
    folder: str = "/workspace/training"
    """Folder on a volume that every node can write."""
    num_nodes: int = Field(default=2, ge=1)
    """Pods."""
    num_processes_per_node: int = Field(default=1, ge=1)
    """torchrun processes a pod; with GPUs, one a GPU."""
    num_gpus: int = Field(default=0, ge=0)
    """GPUs a pod."""
    cpu: str = "4"
    """CPU request a pod."""
    memory: str = "16Gi"
    """Memory request and limit a pod."""
    queue: str | None = None
    """Kueue's LocalQueue that admits the job; null: none."""
    priority: str | None = None
    """Kueue's WorkloadPriorityClass; null: none."""
    deadline_s: int = Field(default=86_400, ge=1)
    """Seconds after which Trainer ends the job."""
    poll_s: float = Field(default=5.0, gt=0)
    """Seconds between two looks at the job."""
