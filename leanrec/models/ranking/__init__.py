"""Ranking models, one file each; a line in `RANKERS` makes one known, by the name that settings give it."""

from leanrec.models.ranking.behaviour_sequence_transformer import BehaviourSequenceTransformer
from leanrec.models.ranking.dcn_v2 import DCNv2Ranker
from leanrec.models.ranking.deep_fm import DeepFM
from leanrec.models.ranking.din import DIN
from leanrec.models.ranking.dlrm import DLRM
from leanrec.models.ranking.factorization_machine import FactorizationMachine
from leanrec.models.ranking.logistic_regression import LogisticRegression
from leanrec.models.ranking.neu_mf import NeuMF
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.models.ranking.wide_and_deep import WideAndDeep

RANKERS: dict[str, type[RankingModel]] = {
    "dcn_v2": DCNv2Ranker,
    "logistic_regression": LogisticRegression,
    "factorization_machine": FactorizationMachine,
    "wide_and_deep": WideAndDeep,
    "deep_fm": DeepFM,
    "neu_mf": NeuMF,
    "dlrm": DLRM,
    "din": DIN,
    "behaviour_sequence_transformer": BehaviourSequenceTransformer,
}
"""Name -> class; each is made as `cls(spec, settings.ranker, items)`."""
