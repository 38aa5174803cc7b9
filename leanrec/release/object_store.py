"""The objects below one s3:// address, as a model repository needs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from leanrec.config.storage import ObjectStoreSettings
from leanrec.errors import ReleaseError
from leanrec.release.repository import (
    MANIFEST,
    RELEASE_FILE,
    RELEASE_FOLDER,
    names_files,
)
from leanrec.release.state import ReleaseState
from leanrec.schema import MODELS, RECOMMENDER

NOT_THERE = {"404", "NoSuchKey", "NotFound"}
CHANGED = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}


class ChangedError(ReleaseError):
    """Another writer was there first."""


@dataclass(frozen=True)
class StoredState:
    """The release.json of the store, and the ETag that a conditional write must name."""

    state: ReleaseState
    etag: str


class ObjectStore:
    """The objects below one s3:// address. Errors of the service come as one sentence."""

    def __init__(self, settings: ObjectStoreSettings, url: str | None = None) -> None:
        self.url = url or settings.url or ""
        if not self.url.startswith("s3://"):
            raise ReleaseError(
                f"{self.url or 'no address'}: an object store is named s3://bucket/prefix, by --url or by "
                "release.object_store.url"
            )
        self.bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        tries = Config(retries={"max_attempts": 5, "mode": "standard"}, connect_timeout=10, read_timeout=60)
        self._client = self._explain(boto3.client, "s3", endpoint_url=settings.endpoint, config=tries)

    def state(self) -> StoredState | None:
        """What the store says should be served; None before the first push."""
        found = self._get(RELEASE_FILE)
        if found is None:
            return None
        body, etag = found
        try:
            return StoredState(ReleaseState.from_json(json.loads(body)), etag)
        except ValueError as error:
            raise ReleaseError(f"{self.url}/{RELEASE_FILE}: not JSON ({error}); push again") from None

    def etag(self) -> str | None:
        """The ETag of release.json, which changes with every release; None before the first push."""
        try:
            return str(self._explain(self._client.head_object, **self._key(RELEASE_FILE))["ETag"])
        except FileNotFoundError:
            return None

    def manifest(self, version: int) -> dict[str, Any] | None:
        """The stored manifest of `version`; None when it was never pushed to the end."""
        name = manifest_name(version)
        found = self._get(name)
        if found is None:
            return None
        try:
            manifest = json.loads(found[0])
        except ValueError:
            manifest = None
        if not names_files(manifest):
            raise ReleaseError(f"{self.url}/{name}: damaged; remove the object and push again")
        return dict(manifest)

    def put(self, name: str, body: bytes) -> None:
        """Store a small object."""
        self._explain(self._client.put_object, **self._key(name), Body=body)

    def put_if_unchanged(self, name: str, body: bytes, etag: str | None) -> None:
        """Store an object unless another writer stored one since `etag` was read (None: there was none).

        A repetition whose first try was stored, and its answer lost on the way, finds its own object there.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            self._explain(self._client.put_object, **self._key(name), Body=body, **condition)
        except ChangedError:
            found = self._get(name)
            if found is None or found[0] != body:
                raise

    def upload(self, name: str, file: Path, sha256: str) -> None:
        """Store a file of any size; the digest goes with it."""
        extra = {"Metadata": {"sha256": sha256}}
        key = self._key(name)
        self._explain(self._client.upload_file, str(file), key["Bucket"], key["Key"], ExtraArgs=extra)

    def has(self, name: str, sha256: str, size: int) -> bool:
        """Whether the very object is stored already."""
        try:
            found = self._explain(self._client.head_object, **self._key(name))
        except FileNotFoundError:
            return False
        return found["ContentLength"] == size and found.get("Metadata", {}).get("sha256") == sha256

    def download(self, name: str, file: Path) -> None:
        """Write an object into `file`; FileNotFoundError when it is not stored."""
        file.parent.mkdir(parents=True, exist_ok=True)
        key = self._key(name)
        self._explain(self._client.download_file, key["Bucket"], key["Key"], str(file))

    def versions(self) -> set[int]:
        """The numbers of all versions of which anything is stored."""
        found = set()
        for model in MODELS:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{self.prefix}{model}/", Delimiter="/"
            )
            for page in self._explain(lambda pages=pages: list(pages)):
                numbers = (
                    entry["Prefix"].rstrip("/").split("/")[-1] for entry in page.get("CommonPrefixes", ())
                )
                found |= {int(number) for number in numbers if number.isdecimal()}
        return found

    def remove(self, version: int) -> None:
        """Remove every object of `version`; the manifest goes first, so that no half of it counts."""
        self._explain(self._client.delete_object, **self._key(manifest_name(version)))
        for model in MODELS:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{self.prefix}{model}/{version}/"
            )
            for page in self._explain(lambda pages=pages: list(pages)):
                for entry in page.get("Contents", ()):
                    self._explain(self._client.delete_object, Bucket=self.bucket, Key=entry["Key"])

    def _get(self, name: str) -> tuple[bytes, str] | None:
        try:
            found = self._explain(self._client.get_object, **self._key(name))
        except FileNotFoundError:
            return None
        return self._explain(found["Body"].read), str(found["ETag"])

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + name}

    def _explain(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call, and turn the service's refusals into FileNotFoundError or one sentence."""
        try:
            return call(*arguments, **named)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in NOT_THERE:
                raise FileNotFoundError(code) from None
            if code in CHANGED:
                raise ChangedError(
                    f"{self.url}: another writer changed the stored releases meanwhile; pull what it stored, "
                    "or push again if yours shall replace it"
                ) from None
            raise ReleaseError(f"{self.url}: the object store refuses ({code}); look at {_ADVICE}") from None
        except (BotoCoreError, OSError) as error:
            raise ReleaseError(f"{self.url}: the object store fails ({error}); look at {_ADVICE}") from None


_ADVICE = "release.object_store.endpoint, the bucket's name, and the credentials in the environment"


def manifest_name(version: int) -> str:
    """The object that makes a version whole."""
    return f"{RECOMMENDER}/{version}/{RELEASE_FOLDER}/{MANIFEST}"
