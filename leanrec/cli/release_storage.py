"""Look releases over, compare two, prune old ones, and copy them to object storage and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from leanrec.cli.front import ConfigArgument, JsonOption, console
from leanrec.cli.release import print_damaged, release_app
from leanrec.config import load_settings


@release_app.command("list")
def list_(config: ConfigArgument, json_output: JsonOption = False) -> None:
    """Every release kept, newest first: role, figures, and where it comes from."""
    from leanrec.release.listing import list_releases

    releases = list_releases(Path(load_settings(config).release.repository))
    if json_output:
        print(json.dumps(releases))
        return
    table = Table("", "role", "published", "recipe", "on disk", "ndcg@10", "data", "code")
    for line in releases:
        ndcg = (line["metrics"] or {}).get("ndcg@10")
        cells = [line["version"], line["role"], (line["published_at"] or "")[:16], line["recipe"]]
        cells += [f"{line['disk_bytes']:,}", "" if ndcg is None else f"{ndcg:.4f}"]
        cells += [(line["data"] or "")[:8], line["code_version"] or ""]
        table.add_row(*map(str, cells))
    console.print(table)
    print_damaged(releases)
    for line in releases:
        if line["incomplete"]:
            console.print(f"The manifest of {line['version']} does not say {', '.join(line['incomplete'])}.")


@release_app.command()
def diff(config: ConfigArgument, before: int, after: int, json_output: JsonOption = False) -> None:
    """What changed from one release to another: figures, items, settings, and the lists themselves."""
    from leanrec.release.diff import diff_releases

    found = diff_releases(Path(load_settings(config).release.repository), before, after)
    if json_output:
        print(json.dumps(found))
        return
    table = Table("", f"release {before}", f"release {after}")
    rows = {key: found[key] for key in ("recipe", "bytes", "published_at", "code_version")}
    rows |= found["metrics"] | {f"{name} known": pair for name, pair in found["vocabulary"].items()}
    for name, pair in {**rows, **found["settings"]}.items():
        table.add_row(name, *(_shown(value) for value in pair))
    console.print(table)
    items, golden = found["items"], found["golden"]
    console.print(f"Items: {items['num_added']} added, {items['num_gone']} gone.")
    if golden is None:
        console.print("The two take different tensors, so no request could be put to both.")
    else:
        means = " -> ".join(f"{mean:.4f}" for mean in golden["mean_score@10"])
        console.print(
            f"Golden requests: {golden['overlap@10']:.1%} of the ten items shared over "
            f"{golden['num_requests']} users; mean score {means}."
        )


@release_app.command()
def prune(
    config: ConfigArgument,
    keep: Annotated[int | None, typer.Option(min=1, help="Releases kept; else release.keep.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Remove old releases; never what is served, rolled out, or needed for a rollback."""
    from leanrec.release.retention import prune

    settings = load_settings(config).release
    done = prune(Path(settings.repository), keep=keep or settings.keep, dry_run=dry_run)
    if json_output:
        print(json.dumps(done))
        return
    gone = ", ".join(map(str, done["removed"])) or "none"
    verb = "would be removed" if dry_run else "removed"
    console.print(f"Releases {verb}: {gone} ({done['bytes']:,} bytes).")


UrlOption = Annotated[str | None, typer.Option(help="s3://bucket/prefix; else release.object_store.url.")]


@release_app.command()
def push(config: ConfigArgument, url: UrlOption = None, json_output: JsonOption = False) -> None:
    """Copy the repository to S3-compatible storage; what is there already is not sent again."""
    from leanrec.release.mirror import push
    from leanrec.release.object_store import ObjectStore

    settings = load_settings(config).release
    store = ObjectStore(settings.object_store, url)
    done = push(Path(settings.repository), store)
    if json_output:
        print(json.dumps(done))
    else:
        console.print(f"{store.url}: version {done['stable']} is stable; sent {done['pushed'] or 'nothing'}.")


@release_app.command()
def pull(
    config: ConfigArgument,
    url: UrlOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Make the repository's folder serve what S3-compatible storage says."""
    import threading

    from leanrec.release.mirror import follow as follow_store
    from leanrec.release.mirror import pull
    from leanrec.release.object_store import ObjectStore

    settings = load_settings(config).release
    store = ObjectStore(settings.object_store, url)
    if follow:
        poll_s = settings.object_store.poll_s
        follow_store(store, Path(settings.repository), threading.Event(), poll_s, console.print)
        return
    done = pull(store, Path(settings.repository))
    if json_output:
        print(json.dumps(done))
    else:
        console.print(f"Version {done['stable']} is stable; received {done['pulled'] or 'nothing'}.")


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
