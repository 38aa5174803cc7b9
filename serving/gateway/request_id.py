"""Request ids that say which release answered, so that feedback is credited to it also after a restart.

    <release>.<32 random hex>.<8 hex of an HMAC over what stands before>
    <release>.uncredited.<32 random hex>.<8 hex>    no model answered, or the caller chose the release

Popular items earn no release a click, and a release that a caller chose was not shown by chance: neither may
decide between releases. The code keeps a caller from crediting a release by accident or by guess; it keeps no
secret. Release 0 stands for an answer that no release gave, such as an error.
"""

from __future__ import annotations

import hmac
import re
import secrets

NO_RELEASE = 0
_LABEL = b"\0leanrec request id"
_CODE_LENGTH = 8
_FORM = re.compile(r"(0|[1-9][0-9]{0,9})(\.uncredited)?\.[0-9a-f]{32}\.[0-9a-f]{8}", re.ASCII)


def derive_key(pseudonym_key: bytes) -> bytes:
    """The key of the codes: from the pseudonym key, so that all gateways of one installation agree."""
    return hmac.digest(pseudonym_key, _LABEL, "sha256")


def make(release: int, key: bytes, *, is_credited: bool = True) -> str:
    """A new id of a request that `release` answers; feedback on the answer credits it, or none."""
    body = f"{release}{'' if is_credited else '.uncredited'}.{secrets.token_hex(16)}"
    return f"{body}.{_code(body, key)}"


def credited_release(request_id: str, key: bytes) -> int | None:
    """The release that feedback on the answer credits; None where it is none of ours or credits none."""
    form = _FORM.fullmatch(request_id)
    if form is None:
        return None
    body, code = request_id.rsplit(".", 1)
    if form[2] or not hmac.compare_digest(code, _code(body, key)):
        return None
    return int(form[1]) or None


def _code(body: str, key: bytes) -> str:
    return hmac.digest(key, body.encode(), "sha256").hex()[:_CODE_LENGTH]
