"""Compile the ONNX Runtime backend into the serving environment: `python -m serving.build_backend`.

The wheels of that environment carry Triton, ONNX Runtime's library and the JSON reader; the C++ compiler is
the host's (CXX, else c++). Where there is none, Triton serves by the Python backend, more slowly. It needs
the standard library only.

Exit status: 0 when the backend is there, 2 with one sentence when it cannot be built.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from leanrec.errors import HostError, LeanRecError
from serving.environment import ServingEnvironment, find_environment
from serving.native_backend import LIBRARY, SOURCES, library_path, runtime_library

OPTIONS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden"]
BESIDE_ITSELF = "-Wl,-rpath,$ORIGIN"
"""The loader looks for ONNX Runtime in the backend's own folder."""


def build(environment: ServingEnvironment) -> Path:
    """Compile the backend unless it is there; a HostError says why it cannot be."""
    library = library_path(environment.packages, environment.versions)
    if library.exists():
        return library
    header = environment.packages / "nlohmann_json" / "include"
    if not header.is_dir():
        raise HostError(
            f"{environment.packages}: nlohmann-json is missing; install requirements/serving.lock afresh"
        )
    compiler, runtime = _compiler(), runtime_library(environment.packages)
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / LIBRARY
        sources = sorted(str(file) for file in SOURCES.glob("*.cpp"))
        command = [*compiler, *OPTIONS, f"-I{header}", *sources, str(runtime), BESIDE_ITSELF, "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HostError(f"{compiler[0]} cannot compile {SOURCES}:\n{done.stderr.strip()[-2000:]}")
        made.rename(library)
    _remove_older(library)
    return library


def _compiler() -> list[str]:
    """The command of the host's C++ compiler."""
    asked = os.environ.get("CXX", "c++")
    command = shlex.split(asked)
    if not command or shutil.which(command[0]) is None:
        raise HostError(
            f"there is no C++ compiler on PATH ({asked}), so Triton will serve by its Python backend, more"
            " slowly; install one (Debian: apt-get install g++) and run `make setup` again"
        )
    return command


def _remove_older(library: Path) -> None:
    for folder in library.parent.parent.iterdir():
        if folder != library.parent:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.build_backend", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--python", type=Path, help="python of the serving environment")
    try:
        build(find_environment(parser.parse_args().python))
    except LeanRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
