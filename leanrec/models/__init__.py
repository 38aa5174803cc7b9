"""Architectures only: plain modules, no training."""
