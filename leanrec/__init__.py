"""LeanRec: from raw interactions to a compressed recommender served by Triton."""

__version__ = "0.1.0"
