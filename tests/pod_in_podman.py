"""A pod's container under podman, as the manifest has it: image, command, user, root, volumes, limits.

What podman is told comes from the rendered manifest alone, so a test of the container is a test of the
manifest. Not covered: scheduling, DNS, network policies, storage classes, the kubelet's own probes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from k8s_manifests import Workload, rendered

RUNTIME = ["--runtime", "runc"] if shutil.which("runc") else []
# A sandboxed host may forbid containers the usual number of open files.
HOST_OPTIONS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network=host"]
MEBIBYTES = {"Mi": 1, "Gi": 1024}


def podman(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *RUNTIME, *arguments], capture_output=True, text=True, timeout=timeout_s)


@dataclass
class Volumes:
    """The volumes of a namespace, as folders below one; claims are shared by whoever names them."""

    root: Path
    owner: int

    def folder(self, name: str) -> Path:
        """The folder of a claim; its group may write, as fsGroup has it."""
        path = self.root / name
        if not path.exists():
            path.mkdir(parents=True)
            shutil.chown(path, 0, self.owner)
            path.chmod(0o2775)
        return path

    def secret(self, name: str) -> Path:
        """The folder of a Secret, whose files a test writes; the group of the pod may read them."""
        path = self.root / f"secret-{name}"
        if not path.exists():
            path.mkdir()
            shutil.chown(path, 0, self.owner)
            path.chmod(0o750)
        return path

    def write_secret(self, name: str, file: str, content: str) -> None:
        """Put a file into a Secret."""
        path = self.secret(name) / file
        path.write_text(content, encoding="utf-8")
        shutil.chown(path, 0, self.owner)
        path.chmod(0o440)

    def config_map(self, folder: str, name: str) -> Path:
        """The files of a ConfigMap, readable by all."""
        (manifest,) = [
            m for m in rendered(folder) if m["kind"] == "ConfigMap" and m["metadata"]["name"] == name
        ]
        path = Path(tempfile.mkdtemp(dir=self.root))
        path.chmod(0o755)
        for key, text in manifest["data"].items():
            (path / key).write_text(text, encoding="utf-8")
        return path


@dataclass
class PodContainer:
    """One container of a workload, started by `with` and gone after it."""

    load: Workload
    name: str
    volumes: Volumes
    overlay: str = "overlays/local"
    args: list[str] | None = None
    """In place of the manifest's arguments."""
    host_names: dict[str, str] = field(default_factory=dict)
    """Addresses of names that the cluster's DNS would know."""
    identity: str = ""

    def __enter__(self) -> Self:
        done = podman("run", "--detach", *self.options())
        assert done.returncode == 0, done.stderr
        self.identity = done.stdout.strip()
        return self

    def __exit__(self, *_: object) -> None:
        podman("stop", "--time", str(self.load.pod["terminationGracePeriodSeconds"]), self.identity)
        podman("rm", "--force", "--volumes", self.identity)

    def run(self, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run to the end, as a Job would."""
        return podman("run", "--rm", *self.options(), timeout_s=timeout_s)

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        return podman("exec", self.identity, *command)

    def logs(self) -> str:
        done = podman("logs", self.identity)
        return done.stdout + done.stderr

    def options(self) -> list[str]:
        """What follows `podman run`."""
        container = self.load.container(self.name)
        command = container.get("command", [])
        arguments = container.get("args", []) if self.args is None else self.args
        return [
            *HOST_OPTIONS,
            *self._security(container),
            *self._resources(container["resources"]["limits"]),
            *self._mounts(container),
            *(f"--add-host={name}:{address}" for name, address in self.host_names.items()),
            *(f"--env={variable['name']}={variable['value']}" for variable in container.get("env", ())),
            *([f"--workdir={container['workingDir']}"] if "workingDir" in container else []),
            *([f"--entrypoint={command[0]}"] if command else []),
            container["image"],
            *command[1:],
            *arguments,
        ]

    def _security(self, container: dict[str, Any]) -> list[str]:
        pod, context = self.load.pod["securityContext"], container["securityContext"]
        options = [f"--user={pod['runAsUser']}:{pod['runAsGroup']}", f"--group-add={pod['fsGroup']}"]
        if context["readOnlyRootFilesystem"]:
            # Podman would lay writable folders over /tmp and /run by itself; Kubernetes does not.
            options += ["--read-only", "--read-only-tmpfs=false"]
        if not context["allowPrivilegeEscalation"]:
            options.append("--security-opt=no-new-privileges")
        return options + [f"--cap-drop={name.lower()}" for name in context["capabilities"]["drop"]]

    def _resources(self, limits: dict[str, str]) -> list[str]:
        return [f"--memory={mebibytes(limits['memory'])}m"]

    def _mounts(self, container: dict[str, Any]) -> list[str]:
        sources = {volume["name"]: volume for volume in self.load.pod.get("volumes", ())}
        options = []
        for mount in container["volumeMounts"]:
            # A name without a volume is a claim of the StatefulSet's own.
            volume, path = sources.get(mount["name"], {}), mount["mountPath"]
            if "emptyDir" in volume:
                size = mebibytes(volume["emptyDir"]["sizeLimit"])
                options.append(f"--tmpfs={path}:rw,exec,mode=1777,size={size}m")
                continue
            mode = "ro" if mount.get("readOnly") else "rw"
            options.append(f"--volume={self._source(volume, mount['name'])}:{path}:{mode}")
        return options

    def _source(self, volume: dict[str, Any], name: str) -> Path:
        if "configMap" in volume:
            return self.volumes.config_map(self.overlay, volume["configMap"]["name"])
        if "secret" in volume:
            return self.volumes.secret(volume["secret"]["secretName"])
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        return self.volumes.folder(claim or f"{self.load.name}-{name}")


def mebibytes(quantity: str) -> int:
    """'512Mi' -> 512."""
    return int(quantity[:-2]) * MEBIBYTES[quantity[-2:]]
