"""Segments part the users and the items, and an empty one is null and never NaN."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from leanrec.evaluation.lists import best_items
from leanrec.evaluation.protocol import evaluate_lists, evaluate_scores, load_protocol
from leanrec.evaluation.segments import cold_items, evaluate_segments, head_items, parts_of


@pytest.fixture(scope="module")
def protocol(world):
    return load_protocol(world.features, world.training_set)


@pytest.fixture(scope="module")
def answers(protocol):
    generator = np.random.default_rng(0)
    scores = generator.uniform(size=(len(protocol.relevant), protocol.num_items))
    return best_items(scores, protocol.requests["seen"], 20), generator.uniform(
        size=protocol.pairs.liked.size
    )


def test_the_parts_add_up_to_the_whole(protocol, answers):
    cold, other, head, tail, _ = evaluate_segments(*answers, protocol)
    assert cold.num_requests + other.num_requests == len(protocol.relevant)
    assert head.num_pairs + tail.num_pairs == protocol.pairs.liked.size
    whole = evaluate_lists(answers[0], protocol, (10,))["ndcg@10"]
    parts = cold.num_requests * (cold.ndcg or 0) + other.num_requests * (other.ndcg or 0)
    assert parts / len(protocol.relevant) == pytest.approx(whole)


def test_the_head_is_the_most_popular_fifth(protocol):
    head = head_items(protocol)
    past = protocol.interactions
    counts = np.bincount(past.item_index[past.train], minlength=protocol.num_items)
    assert head.sum() == 6 and not head[0]
    assert counts[head].min() >= counts[~head].max()


def test_cold_items_are_those_with_the_fewest_events(protocol):
    cold, past = cold_items(protocol), protocol.interactions
    counts = np.bincount(past.item_index[past.train], minlength=protocol.num_items)
    assert not cold[0] and 0.2 * 30 <= cold.sum() < 30
    assert counts[cold].max() < counts[1:][~cold[1:]].min()


def test_an_empty_segment_is_named_and_null(protocol, answers):
    """When every user has as many events as the others, nobody is left beside the cold ones."""
    segments = {segment.name: segment for segment in evaluate_segments(*answers, protocol)}
    assert segments["other users"].num_requests == 0
    assert segments["other users"].ndcg is None and segments["other users"].auc is None
    assert segments["other users"].log_loss is None and segments["other users"].ece is None
    json.dumps([asdict(segment) for segment in segments.values()], allow_nan=False)


def test_a_part_with_labels_of_one_kind_has_no_auc_but_is_calibrated_or_not(protocol, answers):
    all_liked = replace(protocol, pairs=replace(protocol.pairs, liked=np.ones_like(protocol.pairs.liked)))
    like = answers[1]
    for segment, part in zip(evaluate_segments(*answers, all_liked), parts_of(all_liked), strict=True):
        assert segment.auc is None
        if segment.num_pairs:
            assert segment.log_loss == pytest.approx(-np.log(like[part.pairs]).mean())
            assert segment.ece == pytest.approx(1 - like[part.pairs].mean())


def test_log_loss_and_calibration_of_the_parts_add_up_and_show_where_scores_are_too_high(protocol, answers):
    liked, lists = protocol.pairs.liked, answers[0]
    honest = np.full(liked.size, liked.mean())
    head, tail = (part.pairs for part in parts_of(protocol)[2:4])
    flattered = np.where(tail, 0.99, liked[head].mean())
    segments = {segment.name: segment for segment in evaluate_segments(lists, flattered, protocol)}
    before = {segment.name: segment for segment in evaluate_segments(lists, honest, protocol)}
    assert segments["head items"].ece == pytest.approx(0, abs=1e-9)
    assert segments["tail items"].ece == pytest.approx(0.99 - liked[tail].mean())
    assert segments["tail items"].log_loss > before["tail items"].log_loss
    whole = sum(before[name].log_loss * before[name].num_pairs for name in ("head items", "tail items"))
    assert whole / liked.size == pytest.approx(evaluate_scores(honest, honest, protocol)["log_loss"])
