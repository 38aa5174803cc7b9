"""Metrics, protocols and the promotion decision, all pure functions."""
