"""An environment of its own for the baseline: what Triton needs, and PyTorch beside it.

It is made once and kept; its name is the digest of what is installed in it. Graphs are served in it as they
are elsewhere: by the native backend, where there is a compiler.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from leanrec.errors import HostError
from serving.build_backend import build
from serving.environment import find_environment

CACHE = Path(".leanrec/benchmarks")
LOCK = Path(__file__).parents[2] / "requirements" / "serving.lock"
SAME_AS_HERE = ("torch", "safetensors", "pydantic", "pyyaml")
"""What the model's own code needs, each in the version that trained it."""
OTHERS = ("pyarrow<20", "scipy<1.17", "scikit-learn<1.8", "implicit")
"""The last that read numpy 1; the model's code imports them and the measured part does not use them."""
SHOWN = ("nvidia-pytriton", "numpy", "onnxruntime", "torch")


def eager_python() -> Path:
    """The python of the baseline's environment, which is made where it is missing.

    Raises a HostError when it cannot be made, without a network for example.
    """
    packages = [f"{name}=={version(name).split('+')[0]}" for name in SAME_AS_HERE] + [*OTHERS]
    digest = hashlib.sha256((LOCK.read_text("utf-8") + " ".join(packages)).encode()).hexdigest()[:12]
    folder = CACHE.absolute() / f"eager-{digest}"
    python = folder / "bin" / "python"
    made = folder / "made.json"
    if not made.exists():
        install = [str(python), "-m", "pip", "install", "--quiet"]
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([*install, "--no-deps", "--require-hashes", "-r", str(LOCK)])
        _run([*install, "--constraint", _constraint(folder), *packages])
        made.write_text(json.dumps(packages), encoding="utf-8")
    with suppress(HostError):  # no compiler: graphs are served through Python, as they then are elsewhere
        build(find_environment(python))
    return python


def versions_in(python: Path) -> dict[str, str]:
    """The versions of what is measured."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {SHOWN!r}}}))"
    found: dict[str, str] = json.loads(_run([str(python), "-I", "-c", code]))
    return found


def _constraint(folder: Path) -> str:
    """Triton's Python stub reads numpy 1 only."""
    path = folder / "constraint.txt"
    path.write_text("numpy<2\n", encoding="utf-8")
    return str(path)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise HostError(f"the baseline's environment cannot be made: {' '.join(command[:4])} ...: {reason}")
    return done.stdout
