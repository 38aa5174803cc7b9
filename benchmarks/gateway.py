"""What a recommendation costs through the gateway, and what the gateway adds to Triton.

Ours: `POST /v1/recommendations` for known users, keep-alive, closed loop of 4 callers. Baseline: the same
users' rows, encoded beforehand, sent to the same Triton over gRPC by as many callers. Both are asked in turn
by a process of its own; the gateway is a process of its own too. A copy of the run's repository and store
is served, under users of the benchmark's own. Their rows are in the gateway's memory; "cold" is a second
gateway that keeps none and reads the store for every request.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from leanrec.config import FeatureStoreSettings
from leanrec.data.pseudonyms import KEY_VARIABLE, pseudonym_of
from leanrec.errors import ServingError
from leanrec.features.definitions import PROJECT
from leanrec.features.online import OnlineUsers, user_key
from leanrec.features.project import online_path
from leanrec.files import read_json
from leanrec.release.repository import ModelRepository
from leanrec.release.requests import SPEC, read_spec
from leanrec.schema import RECOMMENDER
from leanrec.triton.embedded_server import EmbeddedServer, embedded_server
from leanrec.triton.messages import encode_request
from serving.gateway.keys import local_key

CALLERS = (1, 4)
NUM_REQUESTS = 2000
"""Requests to each target for each number of callers."""
NUM_USERS = 200
K = 10
ROWS = {"gateway": 3600.0, "gateway_cold": 0.0}
"""Seconds that each gateway measured keeps a user's row."""


def measure(repository: Path, run_folder: Path) -> dict[str, Any]:
    """Milliseconds at the median of 4 callers, of the stable release of the run."""
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as name:
        work = Path(name)
        key = secrets.token_hex(16)
        models = work / "models"
        shutil.copytree(repository, models)
        store = FeatureStoreSettings(repository=str(work / "features"))
        source = FeatureStoreSettings(**read_json(run_folder / "settings.json")["feature_store"])
        users = _copy_store(source, store, key.encode())
        version = ModelRepository(models).required_state().stable
        plan = {
            "version": version,
            "users": users,
            "requests": _encoded(models, version, store, users, key.encode()),
            "callers": CALLERS,
            "num_requests": NUM_REQUESTS,
            "k": K,
        }
        measured = {}
        with embedded_server(models, work / "announcement.json") as server:
            for target, ttl_s in ROWS.items():
                with _gateway(work, models, store, server, key, ttl_s) as address:
                    addresses = {"gateway": address, "triton": server.grpc, "key": local_key(work / "keys")}
                    measured[target] = _generate({**plan, **addresses})
    seconds = {name: one["seconds"]["gateway"] for name, one in measured.items()}
    return _outcome(
        {**seconds, "triton": measured["gateway"]["seconds"]["triton"]},
        {name: one["phases"] for name, one in measured.items()},
        {"version": version, "k": K, "users": len(users)},
    )


def _outcome(seconds: dict[str, Any], phases: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    figures = {
        f"{target}_{name}_ms_{callers}": round(float(np.percentile(values, percent)) * 1e3, 3)
        for target, by_callers in seconds.items()
        for callers, values in by_callers.items()
        for name, percent in (("p50", 50), ("p99", 99))
    }
    ours, baseline = figures["gateway_p50_ms_4"], figures["triton_p50_ms_4"]
    return {
        "name": "gateway",
        "ours": ours,
        "baseline": baseline,
        "ratio": baseline / ours,
        "unit": "ms at the median of 4 callers",
        "settings": {
            **settings,
            "requests": NUM_REQUESTS,
            "cores": len(os.sched_getaffinity(0)),
            **figures,
            "overhead_p50_ms_1": round(figures["gateway_p50_ms_1"] - figures["triton_p50_ms_1"], 3),
            "overhead_p50_ms_4": round(ours - baseline, 3),
            "phases_mean_ms": phases,
        },
    }


def _copy_store(source: FeatureStoreSettings, target: FeatureStoreSettings, key: bytes) -> list[str]:
    """Copy the rows of some users, under ids of the benchmark's own; the ids."""
    Path(target.repository).mkdir()
    shutil.copy(online_path(source), online_path(target))
    with closing(sqlite3.connect(online_path(target))) as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        keys = file.execute(
            f"SELECT DISTINCT entity_key FROM {PROJECT}_user_profile LIMIT ?",
            (NUM_USERS,),
        ).fetchall()
        users = [f"bench-{number}" for number in range(len(keys))]
        renamed = [
            (user_key(pseudonym_of(user, key)).removesuffix(PROJECT.encode()), old)
            for user, (old,) in zip(users, keys, strict=True)
        ]
        for table in tables:
            file.executemany(f"UPDATE {table} SET entity_key = ? WHERE entity_key = ?", renamed)
        file.commit()
    return users


def _encoded(
    models: Path, version: int, store: FeatureStoreSettings, users: list[str], key: bytes
) -> list[str]:
    spec = read_spec(ModelRepository(models).release_folder(version) / SPEC)
    rows = OnlineUsers(store).rows([pseudonym_of(user, key) for user in users])
    return [
        base64.b64encode(encode_request(RECOMMENDER, version, row.tensors(spec))).decode()
        for row in rows
        if row is not None
    ]


@contextmanager
def _gateway(
    work: Path, models: Path, store: FeatureStoreSettings, server: EmbeddedServer, key: str, ttl_s: float
) -> Iterator[str]:
    """The gateway's process; host:port."""
    settings = {
        "name": "bench",
        "data": {"source": "synthetic"},
        "feature_store": store.model_dump(),
        "release": {"repository": str(models)},
        "gateway": {
            "port": 0,
            "triton": [server.grpc],
            "keys": str(work / "keys"),
            "requests_per_s": 1e6,
            "user_cache_ttl_s": ttl_s,
            "event_log": str(work / "events"),
        },
    }
    config = work / "gateway.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.gateway", str(config)],
        stdout=subprocess.PIPE,
        env={**os.environ, KEY_VARIABLE: key},
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ServingError("the gateway did not start; what it says stands above")
        yield json.loads(line)["url"].removeprefix("http://")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _generate(plan: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(plan),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServingError("the load generator failed; what it says stands above")
    return json.loads(done.stdout)
