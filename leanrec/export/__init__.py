"""The fused graph and the golden requests."""
