"""The model of the start-up check."""
