"""Where the pipeline's steps run: images, volumes, secrets, GPUs and shared memory.

KFP's local runner ignores all of it but the image, whose name is part of its cache key.
"""

from __future__ import annotations

from dataclasses import dataclass

from kfp import dsl, kubernetes

from leanrec.data.pseudonyms import KEY_VARIABLE

SHARED_MEMORY_PATH = "/dev/shm"  # noqa: S108 - the mount point that NCCL and gloo use
WORKSPACE_PATH = "/workspace"
ROLLOUT_LABEL = "leanrec/rollout-controller"
ROLLOUT_RETRIES = 3


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The facts of one environment.

    Attributes:
        image: Image of every step; pin it by digest for a cluster.
        training_image: Image of the training step; `image` when None.
        num_gpus: GPUs of the training step; 0 trains on CPUs.
        shared_memory: Size limit of the training step's /dev/shm.
        volume_claim: PersistentVolumeClaim that holds the model repository and the feature
            store, mounted at /workspace; None keeps relative paths (a laptop).
        reuse_ingest: Whether the raw tables of an earlier run may be reused. Only where the run's
            arguments tell the state of the raw files, as they do here; in a cluster they do not.
        key_secret: Secret with the pseudonym key under `key`; None reads the local key file.
    """

    image: str
    training_image: str | None = None
    num_gpus: int = 0
    shared_memory: str = "2Gi"
    volume_claim: str | None = None
    key_secret: str | None = None
    reuse_ingest: bool = False

    def place(self, task: dsl.PipelineTask, *, cpu: str = "1", memory: str = "2Gi") -> dsl.PipelineTask:
        """Give a step its image, its share of a node and the workspace."""
        task.set_container_image(self.image)
        task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
        if self.volume_claim:
            kubernetes.mount_pvc(task, pvc_name=self.volume_claim, mount_path=WORKSPACE_PATH)
        return task

    def place_training(self, task: dsl.PipelineTask, *, cpu: str, memory: str) -> dsl.PipelineTask:
        """Give the training step its GPUs and the shared memory that collectives need."""
        self.place(task, cpu=cpu, memory=memory)
        task.set_container_image(self.training_image or self.image)
        kubernetes.empty_dir_mount(
            task,
            volume_name="dshm",
            mount_path=SHARED_MEMORY_PATH,
            medium="Memory",
            size_limit=self.shared_memory,
        )
        if self.num_gpus:
            task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(self.num_gpus)
        return task

    def place_rollout(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Let a step watch the gateways and ask the Tritons (k8s/base/network-policies.yaml).

        In a cluster it is started again where it ends badly, as when its pod is evicted: it goes on with the
        stage it was in, and a candidate that was withdrawn it does not begin with anew.
        """
        kubernetes.add_pod_label(task, label_key=ROLLOUT_LABEL, label_value="true")
        if self.volume_claim:
            task.set_retry(num_retries=ROLLOUT_RETRIES, backoff_duration="30s", backoff_max_duration="300s")
        return self.place(task)

    def give_key(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Let a step read the pseudonym key from the cluster's Secret."""
        if self.key_secret:
            kubernetes.use_secret_as_env(
                task, secret_name=self.key_secret, secret_key_to_env={"key": KEY_VARIABLE}
            )
        return task
