"""What a caller is told when no answer is possible: one sentence, always in the same form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from serving.gateway.api import ErrorAnswer, Fault

MAX_SHOWN = 80
"""Characters of a caller's value that a message repeats."""

CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
}

FAILURE: dict[int | str, dict[str, Any]] = {500: {"model": ErrorAnswer}}
"""For OpenAPI: what any call may answer instead."""
ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorAnswer} for status in (400, 401, 404, 408, 409, 413, 422, 429, 503)},
    **FAILURE,
}
"""For OpenAPI: what any call under /v1 may answer instead."""


class FaultError(Exception):
    """Ends a request with `status` and one sentence."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def fault_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The error as JSON."""
    answer = ErrorAnswer(error=Fault(code=CODES.get(status, f"http_{status}"), message=message))
    return Response(answer.model_dump_json(), status, headers, media_type="application/json")


def explain_faults(app: FastAPI) -> None:
    """Give every error of `app` the common form."""

    @app.exception_handler(FaultError)
    async def _(request: Request, error: FaultError) -> Response:
        return fault_response(error.status, str(error), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        status, message = _in_one_sentence(error)
        return fault_response(status, message)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        message = {
            400: "the body is not JSON in UTF-8; send application/json",
            404: f"no such path: {shown(request.url.path)}; /openapi.json lists them",
            405: f"{request.method} is not answered here; /openapi.json lists what is",
        }.get(error.status_code, str(error.detail))
        return fault_response(error.status_code, message, error.headers)


def shown(value: object) -> str:
    """A caller's value as a message repeats it: quoted, cut, without control characters."""
    text = repr(value)
    text = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def _in_one_sentence(error: RequestValidationError) -> tuple[int, str]:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return 400, f"the body is not JSON ({first['ctx']['error']}); send application/json in UTF-8"
    where = ".".join(str(part) for part in first["loc"][1:])
    if not where:
        return 422, "the body is not a JSON object; send one, with Content-Type application/json"
    if first["type"] == "extra_forbidden":
        return 422, f"unknown field {shown(where)}; /openapi.json lists those there are"
    if first["type"] == "missing":
        return 422, f"field '{where}' is missing; add it"
    if first["type"] == "string_pattern_mismatch":
        return 422, f"field '{where}' holds a control character; send an id as in the raw data"
    return 422, f"field '{where}': {_lower(first['msg'])} (seen: {shown(first.get('input'))})"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
