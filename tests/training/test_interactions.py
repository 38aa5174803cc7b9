"""A retriever from pairs alone: rows by hand, losses equal to the sharded trainer's, taste found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leanrec.config import RetrieverSettings
from leanrec.errors import DataError, TrainingError
from leanrec.models.inputs import blank_items
from leanrec.models.retrieval.matrix_factorization import MatrixFactorization
from leanrec.training.examples import Examples
from leanrec.training.interactions import Pairs, Training, examples_of, user_rows
from leanrec.training.objectives import RetrieverObjective
from leanrec.training.whole_users import UserObjective

NUM_USERS, NUM_ITEMS, TAKEN = 41, 31, 10


def even_and_odd(seed: int = 1) -> tuple[Pairs, Pairs]:
    """Each user takes up items of his own parity: ten to learn from and the other five held out."""
    draw = np.random.default_rng(seed)
    users, items, late_users, late_items = [], [], [], []
    for user in range(1, NUM_USERS):
        taste = draw.permutation(np.arange(2 - user % 2, NUM_ITEMS, 2))
        users += [user] * TAKEN
        items += taste[:TAKEN].tolist()
        late_users += [user] * (len(taste) - TAKEN)
        late_items += taste[TAKEN:].tolist()
    return Pairs(np.array(users), np.array(items)), Pairs(np.array(late_users), np.array(late_items))


def settings(**others: object) -> RetrieverSettings:
    return RetrieverSettings(
        **{"dim": 16, "batch_size": 64, "dropout": 0.0, "table_learning_rate": 0.1, **others}
    )


class TestRows:
    PAIRS = Pairs(np.array([2, 1, 2, 2]), np.array([5, 4, 6, 7]))

    def test_an_event_knows_the_latest_items_before_it(self):
        examples = examples_of(self.PAIRS, history_length=2)
        assert examples.user.user_index[:, 0].tolist() == [1, 2, 2, 2]
        assert examples.item_index.tolist() == [4, 5, 6, 7]
        assert examples.user.history.tolist() == [[0, 0], [0, 0], [5, 0], [5, 6]]
        assert examples.user.user_statistics[:, 0].tolist() == [0, 0, 1, 2]

    def test_a_long_past_is_cut_at_its_old_end(self):
        assert examples_of(self.PAIRS, history_length=1).user.history.tolist() == [[0], [0], [5], [6]]
        assert user_rows(self.PAIRS, 3, history_length=2).history.tolist() == [[0, 0], [4, 0], [6, 7]]

    def test_the_matrix_counts_a_pair_once(self):
        twice = Pairs(np.array([1, 1]), np.array([2, 2]))
        assert twice.matrix(2, 3).toarray().tolist() == [[0, 0, 0], [0, 0, 1]]


class TestWholeUsers:
    def test_a_user_at_a_time_has_the_loss_of_his_events_one_by_one(self):
        pairs, _ = even_and_odd()
        one = settings(model="matrix_factorization")
        training = Training(one, pairs, num_users=NUM_USERS, num_items=NUM_ITEMS)
        model = MatrixFactorization(training.spec, one, blank_items(NUM_ITEMS, 1))
        matrix = pairs.matrix(NUM_USERS, NUM_ITEMS)
        events = examples_of(pairs, history_length=50)
        rows = user_rows(
            pairs, NUM_USERS, 50
        )  # the past of each event becomes all that the user ever took up
        hidden = rows.history[events.user.user_index[:, 0]]
        events = Examples(events.user._replace(history=hidden), *events[1:])
        draw = torch.Generator().manual_seed(1)
        one_by_one = RetrieverObjective(model, one)(events, draw)
        at_once = UserObjective(model, one, matrix)(torch.arange(1, NUM_USERS), draw)
        torch.testing.assert_close(at_once, one_by_one)

    def test_no_pair_is_drawn_against_what_the_user_took_up(self):
        """One user has taken up all but one item: only that one can push a loss up."""
        pairs = Pairs(np.full(NUM_ITEMS - 2, 1), np.arange(1, NUM_ITEMS - 1))
        one = settings(model="matrix_factorization", loss="bpr", num_negatives=200)
        training = Training(one, pairs, num_users=2, num_items=NUM_ITEMS)
        training.epoch()
        table = training.model.sparse.tables["item"].weight
        before = table.detach().clone()
        for _ in range(20):
            training.epoch()
        moved = (table - before).detach() @ training.model.sparse.tables["user"].weight[1].detach()
        assert moved[-1] < 0 < moved[1:-1].min()


@pytest.mark.parametrize(
    "chosen",
    [
        settings(model="matrix_factorization", epochs=20),
        settings(model="matrix_factorization", loss="bpr", num_negatives=4, epochs=40),
        settings(model="light_gcn", epochs=20),
        settings(model="light_gcn", loss="bce", num_negatives=4, epochs=40),
        settings(model="light_gcn", negatives="popularity", full_softmax_items=0, epochs=20),
        settings(model="sasrec", epochs=30, learning_rate=0.01),
        settings(model="gru4rec", epochs=30, learning_rate=0.01, dropout=0.0),
        settings(model="item_neighbours"),
        settings(model="ease", ease={"l2": 10}),
        settings(model="als"),
    ],
    ids=lambda s: f"{s.model}-{s.loss}-{s.negatives}",
)
def test_held_out_items_of_a_users_taste_come_first(chosen):
    pairs, held_out = even_and_odd()
    training = Training(chosen, pairs, num_users=NUM_USERS, num_items=NUM_ITEMS, history_length=TAKEN)
    if hasattr(training, "objective"):
        losses = [training.epoch() for _ in range(chosen.epochs)]
        assert losses[-1] < losses[0]
    scores = training.scores(pairs).numpy().copy()
    scores[pairs.user, pairs.item] = -np.inf
    scores[:, 0] = -np.inf
    best = np.argsort(-scores, axis=1)[1:, :5]
    wanted = held_out.matrix(NUM_USERS, NUM_ITEMS).toarray()[1:]
    assert np.take_along_axis(wanted, best, axis=1).mean() > 0.6  # by chance 0.25


def test_the_same_seed_learns_the_same():
    pairs, _ = even_and_odd()
    chosen = settings(model="light_gcn", loss="bpr", num_negatives=2)
    made = [Training(chosen, pairs, num_users=NUM_USERS, num_items=NUM_ITEMS, seed=s) for s in (3, 3, 4)]
    first, again, other = [training.epoch() for training in made]
    assert first == again != other


class TestRefusals:
    def test_index_zero_is_the_unknowns(self):
        with pytest.raises(DataError, match=r"item must lie in 1..4, it has 0..2"):
            Training(settings(), Pairs(np.array([1, 1]), np.array([0, 2])), num_users=3, num_items=5)

    def test_an_index_beyond_the_count(self):
        with pytest.raises(DataError, match=r"user must lie in 1..2, it has 1..3"):
            Training(settings(), Pairs(np.array([1, 3]), np.array([1, 2])), num_users=3, num_items=5)

    def test_no_pairs(self):
        none = np.zeros(0, np.int64)
        with pytest.raises(DataError, match="there are none"):
            Training(settings(), Pairs(none, none), num_users=3, num_items=5)

    def test_a_fitted_model_has_no_epochs(self):
        pairs, _ = even_and_odd()
        training = Training(settings(model="popularity"), pairs, num_users=NUM_USERS, num_items=NUM_ITEMS)
        with pytest.raises(TrainingError, match="has no epochs"):
            training.epoch()

    def test_a_loss_that_is_no_number_stops(self):
        pairs, _ = even_and_odd()
        training = Training(
            settings(model="matrix_factorization"), pairs, num_users=NUM_USERS, num_items=NUM_ITEMS
        )
        with torch.no_grad():
            training.model.sparse.tables["item"].weight[3] = torch.inf
        with pytest.raises(TrainingError, match="in epoch 1, step 1; lower"):
            training.epoch()
