"""Routes whose body is JSON and whose endpoint needs nothing else: the body is parsed and validated, no more.

FastAPI's own way solves dependencies in between. They are not looked at here: who may come in is decided at
the door (guard.py). What is taken and refused, and what OpenAPI says of such a route, is as of any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, cast

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect


class JsonRoute(APIRoute):
    """A route for `async def endpoint(body: Model, request: Request) -> Response`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request; a RequestValidationError says what its body lacks."""
        wanted = self.dependant
        assert self.body_field is not None and [p.name for p in wanted.body_params] == ["body"]
        assert not (wanted.path_params or wanted.query_params or wanted.header_params or wanted.dependencies)
        model: type[BaseModel] = cast(Any, self.body_field.field_info.annotation)
        endpoint = self.endpoint

        async def answer(request: Request) -> Response:
            response: Response = await endpoint(body=await _read(model, request), request=request)
            return response

        return answer


async def _read(model: type[BaseModel], request: Request) -> BaseModel:
    body: Any = b""
    try:
        body = await request.body()
        if body and _is_json(request.headers.get("content-type", "")):
            body = json.loads(body)
    except json.JSONDecodeError as error:
        fault = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise RequestValidationError([fault]) from None
    except (ClientDisconnect, ValueError, RecursionError):  # gone, not UTF-8, a number or nesting too large
        raise HTTPException(400) from None
    try:
        return model.model_validate(body)
    except ValidationError as error:
        faults = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(faults) from None


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    parsed = Message()
    parsed["content-type"] = content_type
    kind, subtype = parsed.get_content_maintype(), parsed.get_content_subtype()
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))
