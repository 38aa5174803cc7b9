"""The ONNX Runtime backend that runs inside Triton's own process: where it lies once it is built.

`serving.build_backend` compiles it into the serving environment. The folder is named after the sources and
the version of ONNX Runtime, so that a library made of others is never taken for it.
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


def library_path(packages: Path, versions: Mapping[str, str | None]) -> Path:
    """Where the backend of these very sources lies in the environment's `packages`, built or not yet."""
    digest = hashlib.sha256(f"{versions['onnxruntime']} {os.uname().machine}".encode())
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.read_bytes())
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
