"""A release, user rows and settings for a gateway; every version has its own scores and its own titles."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from gateway_process import start_gateway, stop_gateway
from tiny_release import SPEC, write_artifacts

from leanrec.config import FeatureStoreSettings, ReleaseSettings, RunSettings
from leanrec.data.pseudonyms import pseudonym_of
from leanrec.features.rows import UserRow
from leanrec.release.publish import publish_release
from serving.gateway.keys import local_key

PSEUDONYM_KEY = "a pseudonym key for the tests of the gateway"
ASK = "/v1/recommendations"


def pseudonym(user: str) -> str:
    return pseudonym_of(user, PSEUDONYM_KEY.encode())


def write_release(folder: Path, version: int) -> dict[str, Path]:
    """Artifacts of a release whose scores are `version` times those of version 1, as its titles say."""
    artifacts = write_artifacts(folder / f"artifacts-{version}", factor=float(version))
    file = artifacts["compressed"] / "chosen" / "items.parquet"
    items = pq.read_table(file)
    titles = [f"v{version} Title {n}" for n in range(SPEC.num_items)]
    categories = [["Even", "Drama"] if n % 2 == 0 else ["Odd"] for n in range(SPEC.num_items)]
    for name, values in (("title", titles), ("categories", categories)):
        items = items.set_column(items.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(items, file)
    return artifacts


def publish(folder: Path, version: int) -> None:
    """Publish `version` into `<folder>/models`; numbers must come in order."""
    published = publish_release(
        ReleaseSettings(repository=str(folder / "models")),
        name="tiny",
        **write_release(folder, version),
        lineage={},
        output=folder / "release.json",
    )
    assert published["version"] == version


def score_of(item_id: str, user_index: int, version: int) -> float:
    """What `version` answers for an item that is not hidden."""
    return (user_index * 0.125 + int(item_id[1:]) / (SPEC.num_items - 1)) * version


def row(user_index: int = 1, seen: tuple[int, ...] = ()) -> UserRow:
    return UserRow(
        user_index=user_index,
        user_attributes={},
        user_statistics=np.zeros(3, np.float32),
        history=np.array(seen, np.int64),
        history_ratings=np.full(len(seen), 5.0, np.float32),
        seen=np.array(seen, np.int64),
    )


class Rows:
    """A store by hand: rows by raw user id; `broken` makes it fail, `asked` counts its look-ups."""

    def __init__(self, rows: dict[str, UserRow]) -> None:
        self.rows = {pseudonym(user): found for user, found in rows.items()}
        self.broken = False
        self.asked = 0

    def row(self, user_pseudonym: str) -> UserRow | None:
        self.asked += 1
        if self.broken:
            raise ConnectionError("the store is gone")
        return self.rows.get(user_pseudonym)


def settings_of(folder: Path, store: FeatureStoreSettings | None = None, **gateway: object) -> RunSettings:
    store = store or FeatureStoreSettings(repository=str(folder / "store"))
    values = {"port": 0, "triton": ["127.0.0.1:9"], "keys": str(folder / "keys"), "log_level": "info"}
    # The machine of the tests may be busy: a test of what is slow asks for deadlines of its own.
    values |= {"deadline_ms": 20_000, "hedge_after_ms": 10_000, "store_deadline_ms": 20_000}
    return RunSettings.parse(
        {
            "name": "tiny",
            "data": {"source": "synthetic"},
            "feature_store": store.model_dump(),
            "release": {"repository": str(folder / "models")},
            "gateway": {**values, "event_log": str(folder / "events"), **gateway},
        }
    )


def headers_of(settings: RunSettings) -> dict[str, str]:
    key = local_key(Path(settings.gateway.keys))
    assert key is not None
    return {"X-API-Key": key}


@contextmanager
def running_gateway(folder: Path, settings: RunSettings) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The gateway in a process of its own, and its URL; its log is `<folder>/gateway.log`."""
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    process, url = start_gateway(config, folder / "gateway.log", PSEUDONYM_KEY)
    try:
        yield process, url
    finally:
        stop_gateway(process)
