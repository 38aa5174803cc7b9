"""RecBole on its own MovieLens-100K, asked line by line; it runs in an environment of its own.

`python peer.py MODEL SEED THREADS OPTIONS` answers each line of JSON on its input with one on its output:

    {"do": "split", "to": FILE}                what each split holds (npz): NAME_user, NAME_item
    {"do": "build"}                            the model, fitted where no gradient teaches it; CPU seconds
    {"do": "epoch"}                            an epoch by its own trainer, with its draws; CPU seconds
    {"do": "scores", "split": S, "to": FILE}   what its evaluator ranks (npy, [U, N])
    {"do": "figures", "split": S}              what its evaluator finds: ndcg@10, recall@10

SEED moves what is learnt and not the data: the split is drawn with RecBole's own default seed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

PLAIN = {
    "use_gpu": False,
    "show_progress": False,
    "metrics": ["NDCG", "Recall"],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 8,
}
SEQUENTIAL = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    "train_neg_sample_args": None,
    "repeatable": True,
}
"""RecBole's own settings for models of sequences: leave one out by time, cross-entropy over the catalogue."""


class Peer:
    """One model of RecBole and its data."""

    def __init__(self, model: str, seed: int, options: dict[str, Any], checkpoints: str) -> None:
        self.seed, self.sequential = seed, model == "SASRec"
        settings = PLAIN | (SEQUENTIAL if self.sequential else {}) | options
        self.config = Config(
            model=model, dataset="ml-100k", config_dict={**settings, "checkpoint_dir": checkpoints}
        )
        init_seed(self.config["seed"], self.config["reproducibility"])
        dataset = create_dataset(self.config)
        names = ("train", "valid", "test")
        self.data = dict(zip(names, data_preparation(self.config, dataset), strict=True))
        self.epochs = 0

    def split(self, to: str) -> dict[str, Any]:
        """Write the split; with sequences a user's rows lie in the order of time."""
        arrays = {}
        for name, data in self.data.items():
            events = data.dataset.inter_feat
            user, item = events["user_id"].numpy(), events["item_id"].numpy()
            if self.sequential:
                order = np.argsort(user, kind="stable")
                user, item, past = user[order], item[order], events["item_id_list"].numpy()[order]
                if name == "train":  # a user's first event is no target of RecBole's, only a past
                    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
                    user, item = np.insert(user, first, user[first]), np.insert(item, first, past[first, 0])
                arrays[f"{name}_past"] = past
            arrays |= {f"{name}_user": user, f"{name}_item": item}
        np.savez(to, **arrays)
        dataset = self.data["train"].dataset
        return {"num_users": dataset.user_num, "num_items": dataset.item_num}

    def build(self) -> dict[str, Any]:
        """Make the model and its trainer."""
        init_seed(self.seed, self.config["reproducibility"])
        name = self.config["model"]
        make, trainer = get_model(name), get_trainer(self.config["MODEL_TYPE"], name)
        started = time.process_time()
        self.model = make(self.config, self.data["train"].dataset)
        seconds = time.process_time() - started
        self.trainer = trainer(self.config, self.model)
        return {"cpu_s": seconds}

    def epoch(self) -> dict[str, Any]:
        """Train for an epoch."""
        started = time.process_time()
        loss = self.trainer._train_epoch(self.data["train"], self.epochs, show_progress=False)
        self.epochs += 1
        return {"cpu_s": time.process_time() - started, "loss": float(loss)}

    @torch.no_grad()
    def scores(self, split: str, to: str) -> dict[str, Any]:
        """Write the scores; -inf for users without a request, and for what the evaluator hides."""
        self.model.eval()
        data = self.data[split]
        self.trainer.tot_item_num = data.dataset.item_num
        scores = np.full((data.dataset.user_num, data.dataset.item_num), -np.inf, np.float32)
        for batch in data:
            request, answered, _, _ = self.trainer._full_sort_batch_eval(batch)
            scores[request["user_id"].numpy()] = answered.numpy()
        np.save(to, scores)
        return {}

    def figures(self, split: str) -> dict[str, Any]:
        """NDCG@10 and Recall@10."""
        return {
            name: float(value)
            for name, value in self.trainer.evaluate(self.data[split], load_best_model=False).items()
        }


def main() -> None:
    """Answer until the input ends."""
    model, seed, threads, options = sys.argv[1:]
    torch.set_num_threads(int(threads))
    answers, sys.stdout = sys.stdout, sys.stderr  # RecBole's own words go where they disturb nobody
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        peer = Peer(model, int(seed), json.loads(options), work)
        for line in sys.stdin:
            request = json.loads(line)
            answer = getattr(peer, request.pop("do"))(**request)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
