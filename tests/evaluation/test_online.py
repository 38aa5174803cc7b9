"""Online figures: what is credited to whom, and how sure a rate is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from leanrec.data.event_log import FEEDBACK
from leanrec.errors import ReleaseError
from leanrec.evaluation.online import click_through, online_metrics, rate_of, write_online
from leanrec.files import read_json, write_json

START = datetime(2026, 1, 1, tzinfo=UTC)


def log_of(*events: tuple) -> pa.Table:
    """A log of (user, item, type, request, release[, rating])."""
    rows = [
        {
            "event_id": f"e{n}",
            "user_id": user,
            "item_id": item,
            "type": kind,
            "rating": rating[0] if rating else None,
            "timestamp": START,
            "received_at": START + timedelta(seconds=n),
            "request_id": request,
            "release": release,
        }
        for n, (user, item, kind, request, release, *rating) in enumerate(events)
    ]
    return pa.Table.from_pylist(rows, schema=FEEDBACK)


LOG = log_of(
    ("ann", "a", "impression", "q1", 1),
    ("ann", "b", "impression", "q1", 1),
    ("ann", "b", "impression", "q1", 1),  # shown once, told twice
    ("ann", "b", "click", "q1", 1),
    ("ann", "b", "click", "q1", 1),  # clicked twice, counted once
    ("bob", "a", "impression", "q2", 2),
    ("bob", "c", "click", "q2", 2),  # nobody showed it
    ("ann", "a", "rating", "q1", 1, 5.0),
    ("bob", "a", "rating", None, None, 1.0),
)


def test_a_click_credits_the_release_that_showed_the_item():
    found = online_metrics(LOG)
    first, second = found["releases"]["1"], found["releases"]["2"]
    assert (first["impressions"], first["clicks"], first["click_through"]) == (2, 1, 0.5)
    assert (second["impressions"], second["clicks"], second["click_through"]) == (1, 0, 0.0)
    assert (first["ratings"], first["mean_rating"], first["requests"]) == (1, 5.0, 1)
    assert found["uncredited"]["ratings"] == 1 and found["uncredited"]["click_through"] is None
    assert click_through(LOG).value == pytest.approx(1 / 3)


def test_an_empty_log_has_no_releases():
    assert online_metrics(FEEDBACK.empty_table()) == {"releases": {}, "uncredited": None}
    assert click_through(FEEDBACK.empty_table()).num_trials == 0


def test_what_others_wrote_of_a_release_stays(tmp_path):
    write_json(
        tmp_path / "online.json", {"releases": {"1": {"p99_ms": 7.0, "clicks": 99}, "9": {"p99_ms": 1.0}}}
    )
    write_online(LOG, tmp_path)
    releases = read_json(tmp_path / "online.json")["releases"]
    assert releases["1"]["p99_ms"] == 7.0 and releases["1"]["clicks"] == 1
    assert releases["9"] == {"p99_ms": 1.0}


def test_the_interval_covers_the_true_rate_though_users_differ():
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        taste = draw.beta(1, 4, size=80)  # mean 0.2, and users differ much
        shown = draw.integers(5, 60, size=80)
        rate = rate_of(draw.binomial(shown, taste), shown)
        covered += rate.low <= 0.2 <= rate.high
    assert 0.90 <= covered / 300 <= 0.99


def test_how_much_users_differ_is_told_of_thirty_and_more():
    shown, clicked = np.full(60, 50), np.where(np.arange(60) < 12, 50, 0)
    assert rate_of(clicked, shown).design_effect > 40
    assert rate_of(clicked[:29], shown[:29]).design_effect is None
    assert rate_of(np.zeros(60), shown).design_effect is None


def test_nobody_clicked_a_few_impressions_is_no_certainty():
    few, many = (rate_of(np.zeros(2), np.full(2, each)) for each in (5, 5000))
    assert few.value == 0 and few.standard_error > 0.05
    assert many.standard_error < 0.001


@pytest.mark.parametrize("damaged", ["{", "[]", '{"releases": [1]}', '{"releases": {"1": 5}}'])
def test_a_damaged_file_is_named_and_stays_as_it_is(tmp_path, damaged):
    (tmp_path / "online.json").write_text(damaged)
    with pytest.raises(ReleaseError, match=r"online\.json: not what `leanrec online` writes .* move it away"):
        write_online(LOG, tmp_path)
    assert (tmp_path / "online.json").read_text() == damaged


def test_users_who_differ_make_a_rate_less_sure_than_as_many_independent_trials():
    shown = np.full(40, 50)
    alike, apart = rate_of(np.full(40, 10), shown), rate_of(np.where(np.arange(40) < 8, 50, 0), shown)
    assert alike.value == apart.value == 0.2
    assert apart.high - apart.low > 3 * (alike.high - alike.low)
