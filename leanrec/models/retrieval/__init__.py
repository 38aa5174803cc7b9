"""Retrievers, one file each; a line in `RETRIEVERS` makes one known, by the name that settings give it."""

from leanrec.models.retrieval.caser import Caser
from leanrec.models.retrieval.content_based import ContentBased
from leanrec.models.retrieval.ease import EASE
from leanrec.models.retrieval.factors import ALS, BPR
from leanrec.models.retrieval.gru4rec import GRU4Rec
from leanrec.models.retrieval.light_gcn import LightGCN
from leanrec.models.retrieval.matrix_factorization import MatrixFactorization
from leanrec.models.retrieval.neighbours import ItemNeighbours, UserNeighbours
from leanrec.models.retrieval.popularity import Popularity
from leanrec.models.retrieval.retriever import Retriever
from leanrec.models.retrieval.sasrec import SASRec
from leanrec.models.retrieval.two_tower import TwoTower

RETRIEVERS: dict[str, type[Retriever]] = {
    "two_tower": TwoTower,
    "matrix_factorization": MatrixFactorization,
    "light_gcn": LightGCN,
    "gru4rec": GRU4Rec,
    "caser": Caser,
    "sasrec": SASRec,
    "popularity": Popularity,
    "content_based": ContentBased,
    "user_neighbours": UserNeighbours,
    "item_neighbours": ItemNeighbours,
    "ease": EASE,
    "als": ALS,
    "bpr": BPR,
}
"""Name -> class; each is made as `cls(spec, settings.retriever, items)`."""
