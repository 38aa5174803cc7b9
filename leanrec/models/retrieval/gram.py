"""The Gram matrix of the items, which EASE and item neighbours begin with."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

DENSE_GAIN = 20
"""How many multiplications with a dense row take the time of one that looks its place up, as measured."""
DENSE_NUMBERS = 2**24
"""Numbers of a dense part of the interactions, at most: 64 MiB."""


def gram_of(interactions: sp.csr_matrix) -> np.ndarray:
    """X'X [N, N] float32 of users x items X [U, N].

    Two sparse factors take the square of each user's number of events; with one of them dense it is events
    times items, each of which costs a small part. The cheaper way is taken.
    """
    num_users, num_items = interactions.shape
    looked_up = float(np.square(np.diff(interactions.indptr), dtype=np.float64).sum())
    if interactions.nnz * num_items > DENSE_GAIN * looked_up:
        return np.asarray((interactions.T @ interactions).toarray(), np.float32)
    gram = np.zeros((num_items, num_items), np.float32)
    users = max(1, DENSE_NUMBERS // num_items)
    for start in range(0, num_users, users):
        part = interactions[start : start + users]
        gram += part.T.tocsr() @ part.toarray()
    return gram
