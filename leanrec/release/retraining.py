"""Should the next release be trained? What is new since the newest one, and has the world drifted from it?

"New" is what the event log holds beyond the watermark in the newest release's lineage. The new events are
held against all others as the models read them (the training set), and the serving release's own graph
scores both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leanrec.config import DataSettings, ReleaseSettings, RetrainingSettings, RolloutSettings, RunSettings
from leanrec.data.event_log import read_events
from leanrec.data.feedback import Watermark, read_joined, read_summary
from leanrec.errors import ConfigError, DataError, ReleaseError
from leanrec.evaluation.drift import (
    Signal,
    category_signal,
    click_through_signal,
    number_signal,
    unknown_signal,
)
from leanrec.evaluation.online import NO_RATE, click_through, write_online
from leanrec.evaluation.rows import read_user_rows
from leanrec.export.runtime import GraphSession
from leanrec.files import atomic_directory, read_json, write_json
from leanrec.journal import report_progress, step
from leanrec.release.judgement import Form, rows_for
from leanrec.release.repository import ModelRepository
from leanrec.release.rollout.abandoned import withdraw_abandoned
from leanrec.schema import RANKER, USER_STATISTICS, ModelSpec

STEP = "check_drift"
DRIFT_FILE = "drift.json"
COLUMNS = (
    "event_id",
    "item_index",
    "user_index",
    "rating",
    "user_statistics",
    "user_attributes",
    "split",
)
MAX_EVENTS = 50_000
"""Events of each side that are compared, drawn at random beyond it."""
MAX_SCORES = 2_000
"""Events of each side that the serving release scores."""
SCORES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where the event log stands beside the newest release."""

    newest: int | None
    """The newest release kept; None before the first."""
    watermark: Watermark
    """How far that release has read the log."""
    num_new: int
    """Events since, impressions included."""
    num_new_acts: int
    """Ratings and clicks among them, those that came late included."""
    rollout: str | None = None
    """The version being rolled out and its stage, in words; no second one can begin meanwhile."""


def standing(data: DataSettings, release: ReleaseSettings) -> Standing:
    """Where the log in `data.feedback` stands beside the newest release of the repository."""
    repository = ModelRepository(Path(release.repository).absolute())
    state = repository.state()
    newest = max(state.versions) if state else None
    lineage = repository.manifest(newest).get("lineage", {}) if newest is not None else {}
    watermark = Watermark.of_lineage(lineage)
    rollout = f"version {state.rollout.version}, {state.rollout.shown()}" if state and state.rollout else None
    if data.feedback is None:
        return Standing(newest=newest, watermark=watermark, num_new=0, num_new_acts=0, rollout=rollout)
    later, num_new = watermark.new_events(read_events(Path(data.feedback)))
    impressions = pc.sum(pc.equal(later["type"], "impression")).as_py() or 0
    return Standing(
        newest=newest,
        watermark=watermark,
        num_new=num_new,
        num_new_acts=num_new - int(impressions),
        rollout=rollout,
    )


def refuse_to_start(settings: RunSettings) -> None:
    """Raise what would stop a retraining only hours later; a rollout that was abandoned is ended instead.

    A ReleaseError while a rollout goes on, for a second release cannot begin one; a ConfigError where a warm
    start would have learnt from events that the new split holds out, so that figures would flatter.
    """
    withdraw_abandoned(settings.rollout, settings.release)
    repository = ModelRepository(Path(settings.release.repository).absolute())
    state = repository.state()
    if state is None:
        return
    if state.rollout is not None:
        raise ReleaseError(
            f"{repository.path}: version {state.rollout.version} is being rolled out "
            f"({state.rollout.shown()}); let it end (`leanrec release rollout` goes on with it where nobody "
            "does), or end it with `leanrec release abort`, before the next release is trained"
        )
    lineage = repository.manifest(state.stable).get("lineage", {})
    before = (lineage.get("settings") or {}).get("features", {})
    for name in ("split_by", "valid_fraction", "test_fraction"):
        now = getattr(settings.features, name)
        if settings.training.warm_start and before.get(name, now) != now:
            raise ConfigError(
                f"features.{name} is {now}, but release {state.stable} was trained with {before[name]}: it "
                "may have learnt from events that are held out now; set it back, or retrain with --full"
            )


def nothing_to_learn(settings: RunSettings) -> str | None:
    """Why there is nothing to train from, in words; None where somebody rated or clicked since the release.

    Lists that were shown and never clicked are named: it may be the clicks that get lost.
    """
    now = standing(settings.data, settings.release)
    if settings.data.feedback is None or now.newest is None or now.num_new_acts:
        return None
    log = read_events(Path(settings.data.feedback))
    return decide(settings.retraining, now, [_click_through(log, now.watermark, settings.retraining)])[1]


@step(STEP)
def check_drift(
    settings: RetrainingSettings,
    data: DataSettings,
    release: ReleaseSettings,
    rollout: RolloutSettings,
    *,
    feedback: Path,
    features: Path,
    training_set: Path,
    output: Path,
) -> bool:
    """Write the `drift` folder (drift.json) and say whether the run goes on to training.

    Args:
        settings: the trigger and the bounds.
        data: where the event log lies, for the click-through.
        release: where the newest and the serving release lie; online.json is written there.
        rollout: when a rollout counts as abandoned, which is then ended.
        feedback: what ingest read of the log.
        features: the features folder, for the item table.
        training_set: every event with the user row before it.
        output: folder to write.
    """
    withdraw_abandoned(rollout, release)
    repository = ModelRepository(Path(release.repository).absolute())
    now = standing(data, release)
    signals: list[Signal] = []
    ids = read_joined(feedback, now.watermark.received_at)
    if now.newest is not None and len(ids):
        signals = _signals(settings, repository, ids, features, training_set)
    if data.feedback is not None and now.newest is not None:
        log = read_events(Path(data.feedback))
        signals.append(_click_through(log, now.watermark, settings))
        write_online(log, repository.path)
    retrain, reason = decide(settings, now, signals)
    with atomic_directory(Path(output)) as folder:
        write_json(folder / DRIFT_FILE, _report(now, signals, retrain, reason, read_summary(feedback)))
    report_progress(STEP, 1, 1, reason)
    return retrain


def decide(settings: RetrainingSettings, now: Standing, signals: list[Signal]) -> tuple[bool, str]:
    """Whether to go on to training, and why; a pure function of values."""
    drifted = [signal.name for signal in signals if signal.drifted]
    seen = f"{now.num_new_acts:,} new events since release {now.newest}"
    if now.newest is None:
        return True, "there is no release yet"
    if now.rollout is not None:
        return False, (
            f"put off: a rollout is under way ({now.rollout}), and its end must come first; go on with it by "
            "`leanrec release rollout CONFIG`, or end it by `leanrec release abort CONFIG`"
        )
    if settings.trigger != "always" and now.num_new_acts == 0:
        gone = f", and drift: {', '.join(drifted)}; see whether clicks are still sent" if drifted else ""
        return False, f"nothing to do: no rating or click since release {now.newest}{gone}"
    if drifted:
        return True, f"drift since release {now.newest}: {', '.join(drifted)}"
    if settings.trigger == "drift":
        return False, f"nothing to do: no drift in {seen}"
    return True, seen


def _signals(
    settings: RetrainingSettings,
    repository: ModelRepository,
    new_ids: pa.Array,
    features: Path,
    training_set: Path,
) -> list[Signal]:
    """How the new events differ from the others: feature by feature, in their scores, in what is unknown."""
    try:
        events = pq.read_table(training_set, columns=list(COLUMNS))
        items = pq.read_table(Path(features) / "items.parquet").sort_by("item_index")
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{training_set}: not a training set ({error}); build it again") from None
    spec = ModelSpec(**{"top_k": 1, **read_json(Path(features) / "spec.json")})
    is_new = pc.is_in(events["event_id"], value_set=new_ids).to_numpy(zero_copy_only=False)
    others, fresh = np.flatnonzero(~is_new), np.flatnonzero(is_new)
    names = list(spec.attribute_cardinalities)
    reference, new = (
        _described(events.take(_sample(rows, MAX_EVENTS)), items, names) for rows in (others, fresh)
    )
    serving = Form.serving(repository)
    assert serving is not None
    # A model is surer of what it learnt from. What is held out now was held out then: splits move forward.
    held_out = others[pc.not_equal(events["split"], "train").to_numpy(zero_copy_only=False)[others]]
    sides = (held_out if held_out.size else others, fresh)
    before, now = (_scores(serving, spec, training_set, events, rows) for rows in sides)
    found = events.take(fresh)
    users = events["user_index"].to_numpy()
    num_users = (np.unique(users[others]).size, np.unique(users[fresh]).size)
    items_known, users_known = serving.spec.num_items, serving.spec.num_users
    return [
        *(
            (category_signal if isinstance(values, list) else number_signal)(
                name, values, new[name], settings.max_feature_psi, num_users=num_users
            )
            for name, values in reference.items()
        ),
        number_signal("score: P(like)", before, now, settings.max_score_psi, num_users=num_users),
        unknown_signal("unknown items", found["item_index"], items_known, settings.max_unknown_items),
        unknown_signal("unknown users", found["user_index"], users_known, settings.max_unknown_users),
    ]


def _described(events: pa.Table, items: pa.Table, attributes: list[str]) -> dict[str, Any]:
    """Feature -> its values over `events`: numbers as arrays, categories as lists.

    How many events a user has had stays out: it grows with every event, drift or not.
    """
    item = events["item_index"].to_numpy()
    statistics = _matrix(events["user_statistics"], len(USER_STATISTICS))
    known = np.where(statistics[:, 0] > 0, 1.0, np.nan)
    values = _matrix(events["user_attributes"], len(attributes)) if attributes else None
    popularity = items["num_events"].to_numpy()[item]
    year = items["release_year"].to_numpy(zero_copy_only=False).astype(np.float64)[item]
    return {
        "rating": events["rating"].to_numpy(),
        "user: share liked": known * statistics[:, 1] / np.maximum(statistics[:, 0], 1),
        "user: mean rating": known * statistics[:, 2],
        **{f"user: {name}": values[:, i].tolist() for i, name in enumerate(attributes) if values is not None},
        "item: events": popularity,
        "item: release year": year,
        "item: category": pc.list_flatten(items["categories"].take(pa.array(item))).to_pylist(),
    }


def _scores(
    serving: Form, spec: ModelSpec, training_set: Path, events: pa.Table, rows: np.ndarray
) -> np.ndarray:
    """P(like) by the serving release of the events at `rows`, a sample of them."""
    rows = _sample(rows, MAX_SCORES)
    inputs = read_user_rows(Path(training_set), rows, spec).take(rows)
    candidates = events["item_index"].to_numpy()[rows, None].astype(np.int64)
    request = rows_for(serving.spec, spec, {**inputs, "candidates": candidates})
    like = GraphSession(serving.graphs[RANKER]).run_in_batches(request, SCORES_AT_ONCE)["like"]
    return np.asarray(like[:, 0], dtype=np.float64)


def _click_through(log: pa.Table, watermark: Watermark, settings: RetrainingSettings) -> Signal:
    at = watermark.received_at
    if at is None:
        return click_through_signal(NO_RATE, NO_RATE, settings)
    earlier = log.filter(pc.less_equal(log["received_at"], pa.scalar(at, log["received_at"].type)))
    later, _ = watermark.new_events(log)
    return click_through_signal(click_through(earlier), click_through(later), settings)


def _report(
    now: Standing, signals: list[Signal], retrain: bool, reason: str, summary: dict[str, Any]
) -> dict[str, Any]:
    return {
        "retrain": retrain,
        "reason": reason,
        "newest": now.newest,
        "num_new": now.num_new,
        "num_new_acts": now.num_new_acts,
        "signals": [{**asdict(signal), "drifted": signal.drifted} for signal in signals],
        "feedback": summary,
    }


def _matrix(lists: pa.ChunkedArray, width: int) -> np.ndarray:
    flat = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, width)


def _sample(rows: np.ndarray, size: int) -> np.ndarray:
    """At most `size` of `rows`, the same ones each time, in their order."""
    if rows.size <= size:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, size=size, replace=False))
