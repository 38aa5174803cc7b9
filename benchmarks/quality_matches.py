"""Which retriever of ours stands beside which of RecBole's in benchmarks/quality.py, with what settings."""

from __future__ import annotations

from typing import Any, NamedTuple


class Match(NamedTuple):
    """One of our retrievers and RecBole's model of the same kind."""

    name: str
    ours: dict[str, Any]
    """RetrieverSettings."""
    peer: str | None
    """RecBole's name, with RecBole's defaults; None: it has no such model."""
    by_gradient: bool = True
    epochs: int = 300
    """At most, of both."""
    cpu_s: float | None = None
    """Seconds of training after which neither begins another epoch, with one seed each; None: no bound."""


MATCHES = (
    Match(
        "BPR",
        {
            "model": "matrix_factorization",
            "dim": 64,
            "loss": "bpr",
            "num_negatives": 16,
            "temperature": 4,
            "batch_size": 4096,
            "table_learning_rate": 0.05,
        },
        "BPR",
    ),
    Match(
        "Matrix factorization, exact softmax",
        {
            "model": "matrix_factorization",
            "dim": 64,
            "temperature": 8,
            "batch_size": 4096,
            "table_learning_rate": 0.05,
        },
        "BPR",
    ),
    Match("LightGCN", {"model": "light_gcn", "batch_size": 8192, "table_learning_rate": 0.1}, "LightGCN"),
    Match("SASRec", {"model": "sasrec"}, "SASRec", epochs=20, cpu_s=800),
    Match("ItemKNN", {"model": "item_neighbours"}, "ItemKNN", by_gradient=False),
    Match("EASE", {"model": "ease", "ease": {"l2": 250}}, "EASE", by_gradient=False),
    Match(
        "ALS (implicit)", {"model": "als", "dim": 64, "als": {"alpha": 1, "l2": 10}}, None, by_gradient=False
    ),
)
