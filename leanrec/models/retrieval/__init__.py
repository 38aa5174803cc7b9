"""Retrievers: from a user row to candidates."""
