"""The gateway as a process of its own, for the tests that ask it over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

from leanrec.data.pseudonyms import KEY_VARIABLE


def start_gateway(settings: Path, log: Path, pseudonym_key: str) -> tuple[subprocess.Popen[str], str]:
    """The process and its URL, once it answers; what it writes to standard error is added to `log`."""
    # The gateway keeps its counters by itself, whatever the tests' own process was told of Prometheus.
    environment = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    with log.open("a") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.gateway", str(settings)],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env={**environment, KEY_VARIABLE: pseudonym_key},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(30)
    assert line, log.read_text()
    return process, json.loads(line)["url"]


def stop_gateway(process: subprocess.Popen[str]) -> int:
    """SIGTERM, and SIGKILL where that does not end it; the exit status."""
    process.terminate()
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return process.returncode
