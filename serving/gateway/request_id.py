"""Request ids that say which release answered, so that feedback is credited to it also after a restart.

    <release>.<32 random hex>.<8 hex of an HMAC over both>

The code keeps a caller from crediting a release by accident or by guess; it keeps no secret. Release 0
stands for an answer that no release gave, such as an error.
"""

from __future__ import annotations

import hmac
import re
import secrets

NO_RELEASE = 0
_LABEL = b"\0leanrec request id"
_CODE_LENGTH = 8
_FORM = re.compile(r"(0|[1-9][0-9]{0,9})\.[0-9a-f]{32}\.[0-9a-f]{8}", re.ASCII)


def derive_key(pseudonym_key: bytes) -> bytes:
    """The key of the codes: from the pseudonym key, so that all gateways of one installation agree."""
    return hmac.digest(pseudonym_key, _LABEL, "sha256")


def make(release: int, key: bytes) -> str:
    """A new id of a request that `release` answers."""
    body = f"{release}.{secrets.token_hex(16)}"
    return f"{body}.{_code(body, key)}"


def release_of(request_id: str, key: bytes) -> int | None:
    """The release that answered; None when the id is not one of ours, or no release did."""
    if not _FORM.fullmatch(request_id):
        return None
    body, code = request_id.rsplit(".", 1)
    if not hmac.compare_digest(code, _code(body, key)):
        return None
    return int(body.split(".", 1)[0]) or None


def _code(body: str, key: bytes) -> str:
    return hmac.digest(key, body.encode(), "sha256").hex()[:_CODE_LENGTH]
