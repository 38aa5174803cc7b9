"""A real sentence encoder in the content-based retriever: it finds films alike that share no word."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.environment import peer_python

pytestmark = [pytest.mark.integration, pytest.mark.peers]

ROOT = Path(__file__).parents[2]
PEER = ROOT / "benchmarks" / "peers" / "sentence_encoder"
TEXTS = [
    "",
    "A puppy and its young owner",
    "Dogs who find their way home",
    "Battle of starships",
    "Galactic war",
]


@pytest.mark.parametrize("width", [384, 4])
def test_films_alike_in_meaning_lie_close_without_a_common_word(tmp_path, width):
    """At the encoder's own width, and narrowed."""
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    done = subprocess.run(
        [
            str(peer_python(PEER / "requirements.txt")),
            str(PEER / "peer.py"),
            *(str(tmp_path / "texts.json"), str(width), str(tmp_path / "vectors.npy")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.shape == (5, width) and not vectors[0].any()
    assert np.linalg.norm(vectors[1:], axis=1) == pytest.approx(1.0, abs=1e-5)
    alike = vectors @ vectors.T
    assert alike[1, 2] > max(alike[1, 3], alike[1, 4])
    assert alike[3, 4] > max(alike[3, 1], alike[3, 2])
