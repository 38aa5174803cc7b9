"""How the lists of both sides are judged, by hand; the rest needs RecBole (tests/integration)."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.only import those
from benchmarks.quality import Split, converge, judge
from leanrec.errors import ConfigError
from leanrec.training.interactions import Pairs

NUM_ITEMS = 14


def pairs(*of: tuple[int, int]) -> Pairs:
    return Pairs(*np.array(of).T)


SPLIT = Split(pairs((1, 1), (2, 2)), pairs((1, 2), (2, 3)), pairs((1, 3), (1, 4), (2, 5)), 3, NUM_ITEMS)


def descending() -> np.ndarray:
    """Item 0 before item 1 before item 2 ..., for everybody."""
    return np.tile(-np.arange(NUM_ITEMS, dtype=np.float32), (3, 1))


def test_what_was_seen_and_the_unknown_item_leave_the_lists():
    """User 1 sees 3 and 4 first, both wanted; user 2 sees 1, 4, 5, ...: the wanted one at place 3."""
    figures = judge(descending(), SPLIT, "test")
    assert figures["ndcg"] == pytest.approx((1 + 1 / np.log2(4)) / 2)
    assert figures["recall"] == 1.0


def test_validation_hides_what_was_learnt_from_only():
    """User 1 sees 2 first, which is wanted; user 2 sees 1 and 3."""
    assert judge(descending(), SPLIT, "valid")["ndcg"] == pytest.approx((1 + 1 / np.log2(3)) / 2)


def test_beyond_the_tenth_place_nothing_counts():
    scores = descending()
    scores[2, 5] = -100.0
    assert judge(scores, SPLIT, "test") == pytest.approx({"ndcg": 0.5, "recall": 0.5})


class Scripted:
    """Ranks the wanted item of user 1 worse or better, epoch by epoch."""

    build_s = 0.0

    def __init__(self, places: list[int], epoch_s: float = 0.0) -> None:
        self.places = places
        self.epoch_s = epoch_s
        self.done = 0

    def epoch(self) -> float:
        self.done += 1
        return self.epoch_s

    def scores(self, name: str) -> np.ndarray:
        scores = descending()
        scores[1, 2] = -3.5 - self.places[self.done - 1]
        return scores


def test_training_stops_after_the_patience_and_tells_the_best_epoch():
    scripted = Scripted([4, 2, 3, 4, 1])
    outcome = converge(scripted, SPLIT, epochs=5, patience=2)
    assert (outcome["best_epoch"], outcome["epochs"]) == (2, 4)
    assert converge(Scripted([4, 2, 3, 4, 1]), SPLIT, epochs=5, patience=3)["best_epoch"] == 5


def test_a_bound_in_cpu_seconds_lets_the_epoch_end_and_is_told():
    scripted = Scripted([4, 2, 3, 4, 1], epoch_s=2.0)
    outcome = converge(scripted, SPLIT, epochs=5, cpu_s=5.0)
    assert (outcome["epochs"], outcome["ended_by"]) == (3, "CPU seconds")
    assert outcome["best_epoch"] == 2 and outcome["epoch_s"] == [2.0, 2.0, 2.0]


def test_what_ended_the_training_is_told_and_each_epoch_as_it_ends(capsys):
    assert converge(Scripted([4, 2, 3, 4]), SPLIT, epochs=4, patience=2)["ended_by"] == "patience"
    capsys.readouterr()
    assert converge(Scripted([4, 2, 3, 4]), SPLIT, epochs=2, patience=9, who="SASRec")["ended_by"] == "epochs"
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in told] == [
        " SASRec, epoch 1",
        " SASRec, epoch 2",
    ]


def test_a_model_that_is_not_in_the_table_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"--only 'ItemKN' is no model .* did you mean 'ItemKNN'"):
        quality.measure(only=["ItemKN"])
    assert those(["BPR", "SASRec", "EASE"], ["EASE", "BPR"]) == {"BPR", "EASE"}
    assert those(["BPR", "SASRec"], []) == {"BPR", "SASRec"}
