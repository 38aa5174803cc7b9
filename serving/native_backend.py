"""The ONNX Runtime backend that runs inside Triton's own process: where it lies once it is built.

`serving.build_backend` compiles it into the serving environment. The folder is named after all that it is
made of, so that a library made of anything else is never taken for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from leanrec.errors import HostError

SOURCES = Path(__file__).parent / "backends" / "onnxruntime" / "native"
LIBRARY = "libtriton_onnxruntime.so"
RUNTIME = "libonnxruntime.so.1"
"""The name by which the backend looks for ONNX Runtime, beside itself."""
BUILT = "leanrec_native_backend"
OPTIONS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden"]
# Old tags: ONNX Runtime beside the backend goes before any other that LD_LIBRARY_PATH leads to.
BESIDE_ITSELF = ["-Wl,-rpath,$ORIGIN", "-Wl,--disable-new-dtags"]
MODULE = "`python -m serving.build_backend`"
MADE_WITH = ("onnxruntime", "nlohmann-json")


def library_path(packages: Path, versions: Mapping[str, str | None]) -> Path:
    """Where the backend of these very sources lies in the environment's `packages`, built or not yet."""
    given = [OPTIONS, BESIDE_ITSELF, os.uname().machine, *(versions.get(name) for name in MADE_WITH)]
    digest = hashlib.sha256(repr(given).encode())
    for file in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return packages / BUILT / digest.hexdigest()[:16] / LIBRARY


def runtime_library(packages: Path) -> Path:
    """ONNX Runtime's library in its wheel; a HostError where the wheel has none."""
    found = next((packages / "onnxruntime" / "capi").glob("libonnxruntime.so.*"), None)
    if found is None:
        raise HostError(
            f"{packages / 'onnxruntime'}: this wheel of ONNX Runtime carries no libonnxruntime.so"
        )
    return found


def lay_out(library: Path, packages: Path, folder: Path) -> None:
    """Fill `folder` as Triton's folder of the backend."""
    shutil.copy2(library, folder / LIBRARY)
    (folder / RUNTIME).symlink_to(runtime_library(packages))
