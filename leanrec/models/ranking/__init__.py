"""Rankers: from a user row and candidates to scores."""
