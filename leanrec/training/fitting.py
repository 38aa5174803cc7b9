"""Retrievers that are fitted and not trained: rank 0 fits, every process takes what it found.

Scores of a fitted retriever mean nothing but an order. The ranker starts from the retriever's softmax, so
they are scaled to be log-probabilities as nearly as one factor makes them: the one under which the items
that events of the valid split took up were likeliest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from scipy.optimize import minimize_scalar

from leanrec.config import RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.models.recommender import MASKED
from leanrec.models.retrieval.retriever import FittedRetriever, Retriever
from leanrec.training.examples import Examples, interactions_of
from leanrec.training.loop import Fitted

BOUNDS = (-6.0, 8.0)
"""Of the natural logarithm of the factor."""


def fit_retriever(
    retriever: FittedRetriever,
    examples: Examples,
    *,
    probe: Examples,
    items: Path,
    validate: Callable[[], dict[str, float]],
    log: Callable[[str], None],
) -> Fitted:
    """Fit `retriever` to the training events, in place on every process; answers a curve of one point.

    Args:
        retriever: on the device of the process.
        examples: the training events.
        probe: events of the valid split, for the scale of the scores.
        items: `items.parquet` of the features folder, for models that read titles and categories.
        validate: on rank 0: figures of the retriever.
        log: takes a line of progress.
    """
    started = time.perf_counter()
    figures: dict[str, float] = {}
    if dist.get_rank() == 0:
        retriever.eval()
        found = interactions_of(examples, retriever.spec, retriever.settings.disliked_weight)
        with torch.no_grad():
            retriever.fit(found, read_texts(items))
            retriever.scale(likeliest_scale(retriever, probe))
        figures = validate()
    for _, value in sorted(retriever.state_dict().items()):
        dist.broadcast(value, src=0)
    seconds = time.perf_counter() - started
    if figures:
        log(f"retriever: fitted in {seconds:.1f} s ndcg {figures['ndcg']:.4f}")
    curve = {"epoch": 1, "seconds": seconds, "samples_per_s": len(examples) / seconds, **figures}
    return Fitted(curves=[curve], sums={})


def read_texts(items: Path) -> list[str]:
    """The words of each item, title and categories, in the order of item_index.

    Raises a TrainingError when the file cannot be read; an items table without titles has no words.
    """
    try:
        table = pq.read_table(items).sort_by("item_index")
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{items}: not an item table ({reason}); build the features again") from None
    rows = table.select([name for name in ("title", "categories") if name in table.column_names])
    return [
        " ".join([row.get("title") or "", *(row.get("categories") or [])]).strip() for row in rows.to_pylist()
    ] or [""] * table.num_rows


def temperature_of(retriever: Retriever, settings: RetrieverSettings, probe: Examples) -> float:
    """What scores are divided by to be log-probabilities over the catalogue, as the ranker takes them.

    A softmax that stands for the whole catalogue learnt such scores, and a fitted retriever was scaled to
    them. Any other loss learns an order, whose likeliest scale is found on the events of `probe`.
    """
    if isinstance(retriever, FittedRetriever):
        return 1.0
    if settings.loss == "softmax" and settings.negatives != "hard":
        return settings.temperature
    return 1.0 / likeliest_scale(retriever, probe)


@torch.no_grad()
def likeliest_scale(retriever: Retriever, probe: Examples) -> float:
    """The factor of the scores under which the softmax gives the items taken up the largest likelihood.

    Of each event the items of the history are left out, as retrieval leaves them out.
    """
    items = retriever.item_vectors()
    probe = probe.to(items.device)
    scores = retriever.user_vectors(probe.user) @ items.T
    taken_up = scores.gather(1, probe.item_index.unsqueeze(1)).squeeze(1)
    seen = torch.cat([probe.user.history, torch.zeros_like(probe.item_index).unsqueeze(1)], dim=1)
    left_out = torch.zeros_like(scores, dtype=torch.bool).scatter(1, seen, True)

    def surprise(exponent: float) -> float:
        factor = math.exp(exponent)
        logits = (scores * factor).masked_fill(left_out, MASKED)
        return float((torch.logsumexp(logits, dim=1) - taken_up * factor).mean())

    return math.exp(minimize_scalar(surprise, bounds=BOUNDS, method="bounded").x)
