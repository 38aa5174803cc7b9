"""Before anybody is sent to a candidate: do the Tritons that serve answer what its graphs compute?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leanrec.config import ReleaseSettings
from leanrec.errors import ExportError, ReleaseError, ServingError
from leanrec.export.agreement import compare_ranker, compare_recommender
from leanrec.export.golden import read_golden
from leanrec.export.runtime import GraphSession
from leanrec.release.integrity import require_whole
from leanrec.release.publish import GRAPH
from leanrec.release.repository import ModelRepository
from leanrec.release.routing import CANDIDATES
from leanrec.schema import MODELS, RECOMMENDER
from leanrec.triton import TritonClient
from leanrec.triton.replicas import addresses_of

NUM_REQUESTS = 32
"""Golden requests sent to each model of each replica; they warm it up, too."""


def fault_of_candidate(
    settings: ReleaseSettings,
    repository: ModelRepository,
    version: int,
    tritons: Sequence[str],
    wait_s: float,
) -> str | None:
    """What keeps the candidate from being sent to anybody, in a sentence; None when all is well.

    Holds every file against its digest. Then asks every Triton behind the names `tritons` (host:port, gRPC),
    which gets `wait_s` seconds to load the candidate, the golden requests of the release, one user at a time,
    and holds the answers against the same graph here.

    Raises ServingError when a Triton does not answer at all.
    """
    try:
        require_whole(repository, version)
        golden = read_golden(repository.release_folder(version))
    except (ReleaseError, ExportError) as error:
        return str(error)
    for address in _replicas(tritons):
        with TritonClient(address, timeout_s=30) as triton:
            for model in MODELS:
                name = CANDIDATES[model]
                if not _loads(triton, name, version, wait_s):
                    return f"{address}: {name} {version} was not loaded within {wait_s:g} s; its log says why"
                here = GraphSession(repository.version_folder(model, version) / GRAPH)
                for row in range(min(NUM_REQUESTS, len(golden.inputs[model]["user_index"]))):
                    one = {key: tensor[row : row + 1] for key, tensor in golden.inputs[model].items()}
                    answered = triton.infer(name, one, version=version).outputs
                    compare = compare_recommender if model == RECOMMENDER else compare_ranker
                    difference = compare(here.run(one), answered).largest
                    # Not a number is no agreement either.
                    if not np.less_equal(difference, settings.max_score_difference):
                        return (
                            f"{address}: {name} version {version} differs by {difference:.3g} from its own"
                            f" graph, bound {settings.max_score_difference:.3g}"
                        )
    return None


def _replicas(names: Sequence[str]) -> list[str]:
    """Every address behind the names, as the gateways find them."""
    try:
        return list(dict.fromkeys(address for name in names for address in addresses_of(name)))
    except OSError as error:
        raise ServingError(
            f"{', '.join(names)}: a name is not known ({error}); correct gateway.triton"
        ) from None


def _loads(triton: TritonClient, name: str, version: int, wait_s: float) -> bool:
    """Whether Triton loads the model in time; a ServingError where it does not answer at all."""
    try:
        triton.wait_until_ready(name, version, timeout_s=wait_s)
    except ServingError:
        triton.wait_until_ready(RECOMMENDER, timeout_s=1)
        return False
    return True
