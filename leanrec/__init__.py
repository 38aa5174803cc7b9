"""LeanRec: from raw interactions to a compressed recommender served by Triton."""

import time

__version__ = "0.1.0"

IMPORTED_AT = time.perf_counter()
"""When this process began to load the library (the clock of `time.perf_counter`)."""
