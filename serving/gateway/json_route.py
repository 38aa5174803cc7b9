"""Routes whose body is JSON and whose endpoint needs nothing else: pydantic reads the body at once.

FastAPI's own way parses the body, solves dependencies and validates what was parsed. Dependencies are not
looked at here: who may come in is decided at the door (guard.py). What OpenAPI says of such a route is what
it says of any other.
"""

from __future__ import annotations

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
    try:
        body = await request.body()
    except ClientDisconnect:
        raise HTTPException(400) from None
    try:
        if body and _is_json(request.headers.get("content-type", "")):
            return model.model_validate_json(body)
        return model.model_validate(body)  # which says that bytes are no object
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
