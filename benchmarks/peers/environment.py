"""An environment of its own for a peer, made once and kept; its name is the digest of what is in it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from leanrec.errors import HostError

CACHE = Path(".leanrec/benchmarks")
MADE = "made.txt"


def peer_python(requirements: Path) -> Path:
    """The python of an environment that holds just `requirements`: every package, pinned, one a line.

    Raises a HostError when it cannot be made, without a network for example.
    """
    text = requirements.read_text("utf-8")
    name = f"{requirements.parent.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    folder = CACHE.absolute() / name
    python = folder / "bin" / "python"
    made = folder / MADE
    if not made.exists():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        # The list is complete, and a peer's own bounds may contradict what it runs with in truth.
        _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(requirements)])
        made.write_text(text, encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise HostError(f"the peer's environment cannot be made: {' '.join(command[:4])} ...: {reason}")
