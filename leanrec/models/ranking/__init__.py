"""Ranking models, one file each; a line in `RANKERS` makes one known, by the name that settings give it."""

from leanrec.models.ranking.dcn_v2 import DCNv2Ranker
from leanrec.models.ranking.ranking_model import RankingModel

RANKERS: dict[str, type[RankingModel]] = {
    "dcn_v2": DCNv2Ranker,
}
"""Name -> class; each is made as `cls(spec, settings.ranker, items)`."""
