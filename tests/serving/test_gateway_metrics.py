"""What a gateway counts is its own, whatever its environment asks of other programs' counters."""

import os
import subprocess
import sys
from pathlib import Path

COUNT = """
import feast.metrics
from serving.gateway.metrics import Metrics

metrics = Metrics()
metrics.repeated_events.inc()
print(metrics.text().decode())
"""


def test_counters_lie_in_no_folder_that_feast_shares_with_its_workers(tmp_path: Path) -> None:
    shared = {name: str(tmp_path) for name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")}
    counted = subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**os.environ, **shared},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "leanrec_feedback_repeated_total 1.0" in counted.stdout
    files = list(tmp_path.glob("*.db"))  # Feast's own are there
    assert files and not any(b"leanrec" in file.read_bytes() for file in files)
