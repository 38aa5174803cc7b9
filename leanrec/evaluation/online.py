"""What people did with the answers: click-through and ratings by the release that answered.

An event credits the release that its request id names (signed by the gateway), unless popular items were
shown or the caller chose the release. So a click counts for the release whose list was clicked, whatever
serves by then. An impression is one item shown in one answer; it is
clicked when a click names the same request and item. Position is not corrected for: what stands on top is
clicked more whatever it is, so click-through compares releases that show lists of the same length in the same
place, and no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leanrec.errors import ReleaseError
from leanrec.evaluation.wilson import wilson_interval
from leanrec.files import read_json, write_json

ONLINE_FILE = "online.json"
"""Beside release.json in the model repository."""
Z = 1.959964
"""The normal distribution's 97.5 % quantile."""
MIN_USERS = 30
"""Users below which how much they differ is not known well enough to be told."""

_BY_USER = """
    with shown as (
        select distinct release, user_id, request_id, item_id from log
        where type = 'impression' and request_id is not null),
    clicked as (
        select distinct request_id, item_id, true as clicked from log
        where type = 'click' and request_id is not null)
    select release, user_id, count(*) as impressions, count(clicked) as clicks
    from shown left join clicked using (request_id, item_id)
    group by all order by all
"""
_RATINGS = """
    select release, user_id, rating from log
    where type = 'rating' and rating is not null order by all
"""
_TOTALS = """
    select release, count(*) as events, count(distinct request_id) as requests,
        count(distinct user_id) as users, min(received_at) as first, max(received_at) as last
    from log group by release order by release
"""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of trials with its 95 % interval; users, not trials, are independent."""

    value: float
    low: float
    high: float
    standard_error: float
    num_trials: int
    num_successes: int
    design_effect: float | None = None
    """How many times as much it varies as if all trials were independent (Kish 1965); None where fewer than
    `MIN_USERS` clusters were seen, or no difference between trials at all."""


NO_RATE = Rate(value=0.0, low=0.0, high=1.0, standard_error=0.0, num_trials=0, num_successes=0)


def rate_of(successes: np.ndarray, trials: np.ndarray) -> Rate:
    """The rate of clusters [U] (users) with so many successes of so many trials.

    Its variance is that of a ratio of cluster totals (Cochran, Sampling Techniques, 1977, section 6.3); the
    interval is Wilson's (1927) on the number of independent trials that would vary as much (Kish 1965).
    """
    total = float(trials.sum())
    if total == 0:
        return NO_RATE
    value = float(successes.sum()) / total
    naive = value * (1 - value) / total
    users = len(trials)
    residual = successes - value * trials
    clustered = float((residual**2).sum()) / total**2 * users / (users - 1) if users > 1 else 0.0
    variance = max(naive, clustered)
    size = total * naive / variance if variance > 0 else total
    low, high = wilson_interval(value, size, Z)
    known = users >= MIN_USERS and naive > 0
    return Rate(
        value=value,
        low=max(0.0, low),
        high=min(1.0, high),
        # Nobody's click among few impressions is no certainty that nobody clicks: Wilson's width bounds it.
        standard_error=max(math.sqrt(variance), (high - low) / (2 * Z)),
        num_trials=int(total),
        num_successes=int(successes.sum()),
        design_effect=variance / naive if known else None,
    )


def click_through(log: pa.Table) -> Rate:
    """The click-through of all impressions in `log`, whichever release made them."""
    by_user = _query(_BY_USER, log)
    totals = by_user.group_by("user_id").aggregate([("clicks", "sum"), ("impressions", "sum")])
    return rate_of(totals["clicks_sum"].to_numpy(), totals["impressions_sum"].to_numpy())


def online_metrics(log: pa.Table) -> dict[str, Any]:
    """By release: click-through and ratings with 95 % intervals, as docs/retraining.md describes online.json.

    `log` is what `read_events` answers. "uncredited" holds what credits no release.
    """
    totals, by_user, ratings = (_query(query, log) for query in (_TOTALS, _BY_USER, _RATINGS))
    found: dict[str, Any] = {"releases": {}, "uncredited": None}
    for row in totals.to_pylist():
        release = row["release"]
        shown = _of_release(by_user, release)
        rated = _of_release(ratings, release)
        rate = rate_of(shown["clicks"].to_numpy(), shown["impressions"].to_numpy())
        figures = {
            **{name: row[name] for name in ("events", "requests", "users")},
            **{name: row[name].isoformat() for name in ("first", "last")},
            "impressions": rate.num_trials,
            "clicks": rate.num_successes,
            "click_through": rate.value if rate.num_trials else None,
            "click_through_interval": [rate.low, rate.high] if rate.num_trials else None,
            "click_design_effect": rate.design_effect,
            **_ratings(rated),
        }
        if release is None:
            found["uncredited"] = figures
        else:
            found["releases"][str(release)] = figures
    return found


def write_online(log: pa.Table, repository: Path) -> dict[str, Any]:
    """Write online.json into the model `repository`; what others wrote there of a release stays.

    Raises ReleaseError when the file that is there cannot be read.
    """
    path, found = Path(repository) / ONLINE_FILE, online_metrics(log)
    before, now = read_online(repository), found["releases"]
    merged = {key: {**before.get(key, {}), **now.get(key, {})} for key in {**before, **now}}
    written = {**found, "releases": merged}
    write_json(path, written)
    return written


def read_online(repository: Path) -> dict[str, dict[str, Any]]:
    """What online.json in the model `repository` says, by release; empty where there is no such file.

    Raises ReleaseError when it cannot be read: figures of old releases may stand nowhere else.
    """
    path = Path(repository) / ONLINE_FILE
    try:
        found = read_json(path) if path.exists() else {"releases": {}}
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    releases = found.get("releases") if isinstance(found, dict) else None
    if not isinstance(releases, dict) or not all(isinstance(figures, dict) for figures in releases.values()):
        raise _damaged(path, 'it holds no "releases" by version')
    return releases


def _damaged(path: Path, reason: str) -> ReleaseError:
    return ReleaseError(
        f"{path}: not what `leanrec online` writes ({reason}); put a copy back, or move it away, and "
        "`leanrec online CONFIG` counts what the event log still holds"
    )


def _ratings(rated: pa.Table) -> dict[str, Any]:
    """How many, and the mean over users of their mean ratings with its 95 % interval."""
    if not len(rated):
        return {"ratings": 0, "mean_rating": None, "mean_rating_interval": None}
    means = rated.group_by("user_id").aggregate([("rating", "mean")])["rating_mean"].to_numpy()
    value = float(means.mean())
    half = Z * float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else None
    interval = None if half is None else [value - half, value + half]
    return {"ratings": len(rated), "mean_rating": value, "mean_rating_interval": interval}


def _of_release(table: pa.Table, release: int | None) -> pa.Table:
    column = table["release"]
    return table.filter(pc.is_null(column) if release is None else pc.equal(column, release))


def _query(query: str, log: pa.Table) -> pa.Table:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("log", log)
        return connection.sql(query).to_arrow_table()
