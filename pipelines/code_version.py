"""The version of the code that runs, for cache keys and lineage."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("leanrec", "components", "pipelines", "feature_repo", "serving")


def code_version() -> str:
    """Twelve hex digits over every source file of ours and the locks that fix what is not ours."""
    digest = hashlib.sha256()
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*") if _is_source(file)]
    files += list((ROOT / "requirements").glob("*.lock"))
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _is_source(file: Path) -> bool:
    return file.is_file() and file.suffix in (".py", ".yaml", ".html", ".css", ".js", ".svg", ".j2")
