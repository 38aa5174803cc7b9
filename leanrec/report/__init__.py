"""The run report and its plots."""
