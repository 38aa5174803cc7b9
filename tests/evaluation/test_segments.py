"""Segments part the users and the items, and an empty one is null and never NaN."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from leanrec.evaluation.lists import best_items
from leanrec.evaluation.protocol import evaluate_lists, load_protocol
from leanrec.evaluation.segments import cold_items, evaluate_segments, head_items


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
    json.dumps([asdict(segment) for segment in segments.values()], allow_nan=False)


def test_a_part_with_labels_of_one_kind_has_no_auc(protocol, answers):
    all_liked = replace(protocol, pairs=replace(protocol.pairs, liked=np.ones_like(protocol.pairs.liked)))
    assert {segment.auc for segment in evaluate_segments(*answers, all_liked)} == {None}
