"""What a gateway does where a part of its own fails: at the start, in a request, beside the requests."""

import asyncio
from pathlib import Path

import pytest
from gateway_world import PSEUDONYM_KEY, headers_of, settings_of

from leanrec.data.pseudonyms import KEY_VARIABLE
from leanrec.errors import ConfigError, ReleaseError
from serving.gateway.gateway import Gateway


def test_a_gateway_that_cannot_start_says_why_and_closes_what_it_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
    settings = settings_of(tmp_path)
    gateway = Gateway(settings)

    async def start() -> None:
        try:
            await gateway.start()
        finally:
            await gateway.stop()

    with pytest.raises(ConfigError, match="API keys"):
        asyncio.run(start())
    headers_of(settings)
    with pytest.raises(ReleaseError, match="it holds no release"):
        asyncio.run(start())
    with pytest.raises(RuntimeError, match="shutdown"):
        gateway.users._pool.submit(print)
