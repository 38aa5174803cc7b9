"""The Triton model repository: configuration, releases, promotion, rollback."""
