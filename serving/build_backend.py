"""Compile the ONNX Runtime backend into the serving environment: `python -m serving.build_backend`.

The wheels of that environment carry Triton, ONNX Runtime's library and the JSON reader; the C++ compiler is
the host's (CXX, else c++). Where there is none, Triton serves by the Python backend, more slowly. It needs
the standard library only.

Exit status: 0 when the backend is there, 2 with one sentence when it cannot be built (--check: is not).
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
from serving.native_backend import (
    BESIDE_ITSELF,
    LIBRARY,
    MODULE,
    OPTIONS,
    SOURCES,
    library_path,
    runtime_library,
)


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
    sources = sorted(str(file) for file in SOURCES.glob("*.cpp"))
    command = [*compiler, *OPTIONS, f"-I{header}", *sources, str(runtime), *BESIDE_ITSELF]
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as work:
            made = Path(work) / LIBRARY
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                reason = done.stderr.strip()[-2000:] or f"it ends with status {done.returncode}"
                raise HostError(f"{compiler[0]} cannot compile {SOURCES}: {reason}")
            made.rename(library)
    except OSError as error:
        raise HostError(
            f"{library}: it cannot be written ({error.strerror}); build it where the serving environment may"
            f" be changed, by {MODULE}"
        ) from None
    return library


def _compiler() -> list[str]:
    """The command of the host's C++ compiler."""
    asked = os.environ.get("CXX", "c++")
    command = shlex.split(asked)
    if not command or shutil.which(command[0]) is None:
        raise HostError(
            f"there is no C++ compiler on PATH ({asked}), so Triton will serve by its Python backend, more"
            f" slowly; install one (Debian: apt-get install g++), then {MODULE}"
        )
    return command


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.build_backend", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--python", type=Path, help="python of the serving environment")
    parser.add_argument("--check", action="store_true", help="only say whether it is there")
    options = parser.parse_args()
    try:
        environment = find_environment(options.python)
        if not options.check:
            build(environment)
        elif not environment.native:
            raise HostError(f"{environment.packages}: the native backend was not built; {MODULE} builds it")
    except LeanRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
