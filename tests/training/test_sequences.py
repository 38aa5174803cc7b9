"""Sequences teach what their events would teach one by one."""

from __future__ import annotations

import pytest
import torch
from training_world import HISTORY, SMALL, write_world

from leanrec.config import RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.retrieval import RETRIEVERS
from leanrec.schema import ModelSpec
from leanrec.training.examples import Examples, read_examples
from leanrec.training.objectives import RetrieverObjective, SequenceObjective, learns_sequences
from leanrec.training.sequences import sequences_of

MODELS = ("gru4rec", "sasrec")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    features, training_set = write_world(tmp_path_factory.mktemp("sequences"))
    spec = ModelSpec(**read_json(features / "spec.json"), top_k=5)
    return spec, read_item_inputs(features / "items.parquet"), read_examples(training_set, "train", spec)


def joined(parts: list[Examples]) -> Examples:
    user = type(parts[0].user)(*(torch.cat(each) for each in zip(*(p.user for p in parts), strict=True)))
    return Examples(user, *(torch.cat(each) for each in zip(*(p[1:] for p in parts), strict=True)))


def with_ties(examples: Examples, shift: int) -> Examples:
    """Some moments get a second event: the same history, another item."""
    twice = examples.take(torch.nonzero(examples.user.user_statistics[:, 0] % 3 == 1).squeeze(1))
    return joined([examples, Examples(twice.user, twice.item_index + shift, twice.rating, twice.liked)])


@pytest.mark.parametrize("model", MODELS)
def test_loss_and_gradient_are_those_of_the_events_one_by_one(world, model):
    spec, items, examples = world
    short = examples.take(torch.nonzero(examples.user.user_statistics[:, 0] <= HISTORY).squeeze(1))
    events = with_ties(short, -1)
    sequences = sequences_of(events)
    assert len(sequences) == len(events.user.user_index.unique()) < len(events) / 5
    torch.manual_seed(1)
    settings = RetrieverSettings(model=model, dim=8, dropout=0.0)
    retriever = RETRIEVERS[model](spec, settings, items)
    losses, gradients = [], []
    for objective, batch in (
        (RetrieverObjective(retriever, settings), events),
        (SequenceObjective(retriever, settings), sequences),
    ):
        retriever.zero_grad()
        loss = objective(batch, torch.Generator())
        loss.backward()
        losses.append(float(loss))
        gradients.append({name: p.grad.clone() for name, p in retriever.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_every_event_is_learnt_once_from_the_latest_of_its_own_history(world):
    *_, examples = world
    examples = with_ties(examples, 100)
    sequences = sequences_of(examples)
    history = {
        (int(u), int(i)): row[row > 0].tolist()
        for u, i, row in zip(
            examples.user.user_index[:, 0], examples.item_index, examples.user.history, strict=True
        )
    }
    users = sequences.user.user_index[sequences.sequence, 0]
    met = []
    events = (users.tolist(), sequences.item_index.tolist(), sequences.position.tolist())
    for user, item, position, seen in zip(*events, sequences.seen, strict=True):
        own, known = history[user, item], seen[seen > 0].tolist()
        assert len(known) == position and known == own[len(own) - position :]
        assert position == len(own) or position >= HISTORY // 2
        met.append((user, item))
    wanted = zip(examples.user.user_index[:, 0].tolist(), examples.item_index.tolist(), strict=True)
    assert sorted(met) == sorted(wanted)


def test_a_batch_of_sequences_holds_their_events_in_order(world):
    sequences = sequences_of(world[2])
    rows = torch.tensor([5, 0, 7])
    batch = sequences.take(rows)
    expected = torch.cat([torch.nonzero(sequences.sequence == row).squeeze(1) for row in rows])
    assert torch.equal(batch.item_index, sequences.item_index[expected])
    assert torch.equal(batch.position, sequences.position[expected])
    assert torch.equal(batch.seen, sequences.seen[expected])
    assert len(batch) == 3 and len(batch.item_index) == int(sequences.num_events[rows].sum())


def test_histories_that_do_not_fit_their_counts_are_refused(world):
    *_, examples = world
    user = examples.user._replace(user_statistics=examples.user.user_statistics + 1)
    with pytest.raises(TrainingError, match="whole_sequences: false"):
        sequences_of(Examples(user, *examples[1:]))


def test_only_models_that_read_sequences_learn_from_them():
    assert all(learns_sequences(RetrieverSettings(model=model)) for model in MODELS)
    assert not learns_sequences(SMALL.retriever) and not learns_sequences(RetrieverSettings(model="caser"))
    assert not learns_sequences(RetrieverSettings(model="sasrec", sasrec={"whole_sequences": False}))
