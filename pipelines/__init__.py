"""Wiring: compile, run here, submit there."""
