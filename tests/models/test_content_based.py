"""Words of items as vectors: what a missing encoder is told. The encoder itself: tests/integration."""

from __future__ import annotations

import importlib.util

import pytest

from leanrec.errors import ConfigError
from leanrec.models.retrieval.content_based import encoded


def test_an_encoder_that_is_no_folder_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"content_based\.encoder 'all-MiniLM-L6-v2' is no folder"):
        encoded(["a film"], "all-MiniLM-L6-v2")


@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is not None, reason="it is installed")
def test_the_package_that_an_encoder_needs_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"needs the package sentence-transformers; install it"):
        encoded(["a film"], str(tmp_path))
