"""Take old releases out of a model repository."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from leanrec.errors import ReleaseError
from leanrec.files import size_in_bytes
from leanrec.release.repository import ModelRepository
from leanrec.release.state import pruned
from leanrec.schema import MODELS


def prune(repository: Path, *, keep: int, dry_run: bool = False) -> dict[str, Any]:
    """Keep the newest `keep` versions and remove the others; `dry_run` says which and touches nothing.

    Never removed: what is stable, served or being rolled out, and the version that a rollback goes to.
    Returns removed, kept (versions) and bytes (freed).
    """
    if keep < 1:
        raise ReleaseError(f"prune: --keep is {keep}; keep at least 1 release")
    store = ModelRepository(Path(repository).absolute())
    store.required_state()
    with nullcontext() if dry_run else store.exclusive():
        before = store.required_state()
        after = pruned(before, keep=keep)
        removed = [version for version in before.versions if version not in after.versions]
        freed = sum(size_in_bytes(store.version_folder(model, v)) for model in MODELS for v in removed)
        if removed and not dry_run:
            store.commit(after, store.stage())
    return {"removed": removed, "kept": list(after.versions), "bytes": freed, "dry_run": dry_run}
