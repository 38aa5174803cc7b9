"""The serving environment: where Triton, its Python stub and their libraries lie, and whether they fit.

Triton's binary comes in the wheel nvidia-pytriton. Its Python stub is built for one Python minor version
and for numpy 1, so it has a virtual environment of its own (requirements/serving.lock). Graphs are served by
the backend that was compiled into it (serving.build_backend); without it, by Python through the stub.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from leanrec.errors import HostError
from serving import native_backend

PYTHON_VARIABLE = "LEANREC_SERVING_PYTHON"
DEFAULT_PYTHON = Path(".venv-serving/bin/python")
INSTALL = "install requirements/serving.lock into a virtual environment and name its python with --python"
BACKENDS = Path(__file__).parent / "backends"

PROBE = """
import importlib.metadata, importlib.util, json, sys, sysconfig
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
spec = importlib.util.find_spec("pytriton")
print(json.dumps({
    "python": "%d.%d" % sys.version_info[:2],
    "packages": sysconfig.get_paths()["purelib"],
    "libraries": sysconfig.get_config_var("LIBDIR"),
    "libpython": sysconfig.get_config_var("INSTSONAME"),
    "pytriton": spec.submodule_search_locations[0] if spec else None,
    "versions": {
        name: version(name) for name in ("nvidia-pytriton", "numpy", "onnxruntime", "nlohmann-json")
    },
}))
"""


@dataclass(frozen=True, kw_only=True)
class ServingEnvironment:
    """A Python environment that can run Triton and our backend."""

    python: str
    """Minor version, such as 3.11."""
    programs: Path
    """Folder of its python3; the virtual environment is found from there."""
    packages: Path
    libraries: Path
    triton: Path
    """Folder of the wheel that holds bin/, backends/ and python_backend_stubs/."""
    versions: dict[str, str | None]

    @property
    def binary(self) -> Path:
        """The tritonserver program."""
        return self.triton / "bin" / "tritonserver"

    @property
    def native(self) -> bool:
        """Whether the backend was compiled into this environment."""
        return native_backend.library_path(self.packages, self.versions).exists()

    def variables(self) -> dict[str, str]:
        """The environment variables that Triton and its Python stubs run with."""
        libraries = [str(self.packages / "nvidia_pytriton.libs"), str(self.libraries)]
        if os.environ.get("LD_LIBRARY_PATH"):
            libraries.append(os.environ["LD_LIBRARY_PATH"])
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            # The stub's interpreter ignores every PYTHON* variable and takes the python3 that PATH finds.
            "PATH": os.pathsep.join([str(self.programs), os.environ.get("PATH", os.defpath)]),
            # A __pycache__ written beside a model would make every later load a reload.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def lay_out_backends(self, folder: Path, *, native: bool) -> None:
        """Fill `folder` as Triton's backend directory: python/ with its stub, onnxruntime/ with ours.

        `native`: the compiled one, which must be there; else the one in Python.
        """
        source = self.triton / "backends" / "python"
        python = folder / "python"
        python.mkdir(parents=True)
        for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
            shutil.copy2(source / name, python / name)
        stub = self.triton / "python_backend_stubs" / self.python / "triton_python_backend_stub"
        shutil.copy2(stub, python / stub.name)
        (python / stub.name).chmod(0o755)
        graphs = folder / "onnxruntime"
        graphs.mkdir()
        if native:
            library = native_backend.library_path(self.packages, self.versions)
            native_backend.lay_out(library, self.packages, graphs)
        else:
            shutil.copy2(BACKENDS / "onnxruntime" / "model.py", graphs / "model.py")


def find_environment(python: Path | None = None) -> ServingEnvironment:
    """The environment of `python`, or of the default; a HostError says what is missing.

    The default is the variable LEANREC_SERVING_PYTHON, else .venv-serving in the working directory or
    beside this code, else the Python that runs this.
    """
    if python is None and os.environ.get(PYTHON_VARIABLE):
        python = Path(os.environ[PYTHON_VARIABLE])
    if python is None:
        beside = Path(__file__).parent.parent / DEFAULT_PYTHON
        python = next((p for p in (DEFAULT_PYTHON, beside) if p.exists()), Path(sys.executable))
    facts = _probe(python)
    if not facts["pytriton"]:
        raise HostError(f"{python}: nvidia-pytriton, which holds the Triton binary, is missing; {INSTALL}")
    versions = facts["versions"]
    for name in ("numpy", "onnxruntime"):
        if versions[name] is None:
            raise HostError(f"{python}: {name} is missing; {INSTALL}")
    if int(versions["numpy"].split(".")[0]) >= 2:
        raise HostError(
            f"{python}: numpy is {versions['numpy']}, and Triton's Python stub corrupts tensors under"
            f" numpy 2; {INSTALL}"
        )
    environment = ServingEnvironment(
        python=facts["python"],
        programs=python.absolute().parent,
        packages=Path(facts["packages"]),
        libraries=Path(facts["libraries"]),
        triton=Path(facts["pytriton"]) / "tritonserver",
        versions=versions,
    )
    _check_files(python, environment, facts["libpython"])
    return environment


def _probe(python: Path) -> dict:
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", PROBE], capture_output=True, text=True, timeout=60, check=True
        )
    except FileNotFoundError:
        raise HostError(f"{python}: no such program; {INSTALL}") from None
    except (subprocess.SubprocessError, OSError) as error:
        raise HostError(f"{python}: it cannot be run as a Python ({error}); {INSTALL}") from None
    return json.loads(done.stdout)


def _check_files(python: Path, environment: ServingEnvironment, libpython: str) -> None:
    stub = environment.triton / "python_backend_stubs" / environment.python / "triton_python_backend_stub"
    for file in (environment.binary, stub):
        if not file.exists():
            raise HostError(f"{python}: {file} is missing from nvidia-pytriton; {INSTALL}")
    multiarch = environment.libraries / f"{os.uname().machine}-linux-gnu"
    if not any((folder / libpython).exists() for folder in (environment.libraries, multiarch)):
        raise HostError(
            f"{python}: {environment.libraries / libpython} is missing, and Triton's Python stub needs it;"
            " use a Python built with its shared library (Debian: apt-get install libpython3.11)"
        )
