"""RecBole itself: its split is read as it is, its figures are found again, and a row of the table is made."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.recbole import RecBole
from benchmarks.quality import SEQUENCE_LENGTH, Ours, Peer, judge, measure, read_split
from benchmarks.quality_matches import Match
from leanrec.errors import HostError
from leanrec.training.interactions import user_rows

pytestmark = [pytest.mark.integration, pytest.mark.peers]


def test_our_figures_of_recboles_scores_are_recboles_own():
    with RecBole("BPR", seed=1) as process:
        split = read_split(process)
        peer = Peer(process)
        peer.epoch()
        for name in ("valid", "test"):
            own = process.ask("figures", split=name)
            found = judge(process.scores(name), split, name)
            assert found["ndcg"] == pytest.approx(own["ndcg@10"], abs=1e-7)
            assert found["recall"] == pytest.approx(own["recall@10"], abs=1e-7)
        parts = (split.train, split.valid, split.test)
        keys = np.concatenate([part.user * split.num_items + part.item for part in parts])
        assert len(keys) == len(np.unique(keys)) == 100_000


def test_both_sasrecs_read_the_same_pasts():
    with RecBole("SASRec", seed=1) as process:
        split = read_split(process)
        arrays, _, _ = process.split()
    assert len(split.train.user) + len(split.valid.user) + len(split.test.user) == 100_000
    for name in ("valid", "test"):
        ours = user_rows(split.seen(name), split.num_users, SEQUENCE_LENGTH)
        theirs = arrays[f"{name}_past"]
        assert (ours.history.numpy()[arrays[f"{name}_user"]] == theirs).all()


def test_a_row_of_the_table(tmp_path):
    """Neighbours have no chance in them: both sides find the same lists."""
    match = Match("ItemKNN", {"model": "item_neighbours"}, "ItemKNN", by_gradient=False)
    outcome = measure(matches=(match,), seeds=(1,), rounds=1, kept=tmp_path)
    row = outcome["models"][0]
    assert row["ours"]["ndcg"]["mean"] == pytest.approx(row["recbole"]["ndcg"]["mean"], abs=2e-3)
    assert row["as_good"] and row["seconds"]["ratio"] > 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_model_that_learns_by_gradient_takes_part(tmp_path):
    match = Match("LightGCN", {"model": "light_gcn"}, "LightGCN", epochs=1)
    row = measure(matches=(match,), seeds=(1,), rounds=1, kept=tmp_path)["models"][0]
    assert row["ours"]["best_epochs"] == row["recbole"]["best_epochs"] == [1]


def test_a_peer_that_dies_is_quoted():
    with RecBole("NoSuchModel", seed=1) as process, pytest.raises(HostError, match="RecBole ended while"):
        process.ask("build")


def test_ours_scores_everybody():
    with RecBole("BPR", seed=1) as process:
        split = read_split(process)
    ours = Ours(Match("x", {"model": "popularity"}, None, by_gradient=False), split, seed=1)
    assert ours.scores("test").shape == (split.num_users, split.num_items)
