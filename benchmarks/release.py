"""What clients notice of a release and of its rollback: nothing, it is hoped.

A copy of the stable release is served; requests come at a steady rate and name no version. A third of the
way a next version is published, whose scores differ a little, so that an answer tells which graph gave it;
at two thirds it is rolled back. Ours: the 99th percentile while versions change. Baseline: before.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from leanrec.errors import ServingError
from leanrec.export.golden import read_golden
from leanrec.export.graph_file import GRAPH_FILE
from leanrec.export.runtime import GraphSession, Tensors, rows_of
from leanrec.files import read_json, sha256_of, write_json
from leanrec.release.promote import rollback
from leanrec.release.repository import MANIFEST, RELEASE_FOLDER, ModelRepository, now
from leanrec.release.state import published
from leanrec.schema import MODELS, RECOMMENDER
from leanrec.triton.embedded_server import EmbeddedServer, embedded_server
from leanrec.triton.messages import encode_request

RATE = 200
SECONDS = 60.0
DEADLINE_S = 5.0
NUM_ROWS = 32
"""Users asked for, one after another; fewer where the release has fewer golden requests."""
FACTOR = 0.875
"""What the second version's scores are multiplied by; exact in float32."""
WARM_UP_S = 5.0
"""Seconds at the beginning that are not measured."""
AROUND_S = 5.0
"""Seconds from a change's beginning that count as during it."""


def measure(repository: Path, seconds: float = SECONDS, rate: int = RATE) -> dict[str, Any]:
    """Milliseconds at the 99th percentile, of the stable release in the model repository `repository`."""
    served = ModelRepository(Path(repository).absolute())
    version = served.required_state().stable
    golden = read_golden(served.release_folder(version)).inputs[RECOMMENDER]
    requests = rows_of(golden, slice(0, NUM_ROWS))
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as work:
        copy = ModelRepository(Path(work) / "models")
        _publish(copy, served, version, factor=1.0)
        graph = copy.version_folder(RECOMMENDER, 1) / GRAPH_FILE
        scores = [
            first_score(graph, rows_of(requests, slice(row, row + 1))) for row in range(num_rows(requests))
        ]
        with embedded_server(copy.path, Path(work) / "announcement.json") as server:
            load = _start_load(server, requests, rate=rate, seconds=seconds)
            try:
                time.sleep(seconds / 3)
                published_at = time.monotonic()
                _publish(copy, served, version, factor=FACTOR)
                time.sleep(max(0.0, published_at + seconds / 3 - time.monotonic()))
                rolled_back_at = time.monotonic()
                rollback(copy.path)
                told_s = time.monotonic() - rolled_back_at
                output, _ = load.communicate()
            finally:
                load.kill()
    answers = [json.loads(line) for line in output.splitlines()]
    return _outcome(answers, scores, published_at, rolled_back_at) | {
        "settings": {
            "version": version,
            "requests_per_s": rate,
            "seconds": seconds,
            "requests": len(answers),
            "seconds_around_a_change": AROUND_S,
            "rollback_command_s": told_s,
        }
    }


def num_rows(requests: Tensors) -> int:
    """Users asked for."""
    return len(requests["user_index"])


def _outcome(
    answers: list[dict[str, Any]], scores: list[float], published_at: float, rolled_back_at: float
) -> dict[str, Any]:
    failed = [answer for answer in answers if "error" in answer]
    good = [answer for answer in answers if "error" not in answer]
    mixed = [answer for answer in good if not _is_of_its_version(answer, scores)]
    warm = answers[0]["due"] + WARM_UP_S
    before = [a["seconds"] for a in good if warm <= a["due"] < published_at]
    during = [
        a["seconds"] for a in good for at in (published_at, rolled_back_at) if at <= a["due"] < at + AROUND_S
    ]
    second = [a["due"] for a in good if a["version"] == 2]
    if not (before and during and second):
        raise ServingError("the second version answered nothing; give the benchmark more seconds")
    ours, baseline = (float(np.percentile(values, 99)) * 1e3 for values in (during, before))
    return {
        "name": "release",
        "ours": ours,
        "baseline": baseline,
        "ratio": baseline / ours,
        "unit": "ms at the 99th percentile, from when a request was due",
        "failed_requests": len(failed),
        "mixed_answers": len(mixed),
        "publish_effective_s": max(0.0, min(second) - published_at),
        "rollback_effective_s": max(0.0, max(second) - rolled_back_at),
    }


def _is_of_its_version(answer: dict[str, Any], scores: list[float]) -> bool:
    expected = scores[answer["row"]] * (FACTOR if answer["version"] == 2 else 1.0)
    return bool(np.isclose(answer["score"], expected, rtol=1e-4))


def first_score(graph: Path, request: Tensors) -> float:
    """The best item's score as this process computes it."""
    return float(GraphSession(graph, num_threads=1).run(request)["score"][0, 0])


def _publish(copy: ModelRepository, served: ModelRepository, version: int, *, factor: float) -> None:
    """Publish the files of `version` into `copy` as its next version, with scores times `factor`."""
    with copy.staging() as staged:
        for model in MODELS:
            shutil.copytree(served.version_folder(model, version), staged / model)
        path = staged / RECOMMENDER / GRAPH_FILE
        graph = onnx.load(path)
        _multiply_scores(graph.graph, factor)
        path.unlink()
        onnx.save(graph, path)
        manifest = staged / RECOMMENDER / RELEASE_FOLDER / MANIFEST
        facts = read_json(manifest)
        digest = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        facts["files"][f"{RECOMMENDER}/{GRAPH_FILE}"] = digest  # else a rollback would call it damaged
        write_json(manifest, facts)
        with copy.exclusive():
            copy.commit(published(copy.state(), copy.next_version(), keep=5, at=now()), staged)


def _multiply_scores(graph: onnx.GraphProto, factor: float) -> None:
    node = next(node for node in graph.node if "score" in node.output)
    node.output[list(node.output).index("score")] = "score/unscaled"
    graph.initializer.append(numpy_helper.from_array(np.float32(factor), "bench/factor"))
    graph.node.append(helper.make_node("Mul", ["score/unscaled", "bench/factor"], ["score"]))


def _start_load(
    server: EmbeddedServer, requests: Tensors, *, rate: int, seconds: float
) -> subprocess.Popen[str]:
    encoded = [
        encode_request(RECOMMENDER, None, rows_of(requests, slice(r, r + 1)))
        for r in range(num_rows(requests))
    ]
    plan = {
        "triton": server.grpc,
        "requests": [base64.b64encode(request).decode() for request in encoded],
        "rate": rate,
        "seconds": seconds,
        "deadline_s": DEADLINE_S,
    }
    load = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.open_loop"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert load.stdin is not None
    load.stdin.write(json.dumps(plan))
    load.stdin.close()
    load.stdin = None
    return load
