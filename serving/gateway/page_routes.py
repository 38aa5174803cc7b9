"""The page for people, at / and /static/*: plain files, and headers that let nothing else run in it."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE = Path(__file__).parent / "page"
SECURITY_HEADERS = {
    # Scripts and styles out of this gateway's files only, none inline; and no HTML ever made of a string,
    # so a title or an id that holds tags stays text even where our own code errs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked anew each time, answered with 304: after an update no old module meets a new one.
    "Cache-Control": "no-cache",
}


def page_routes() -> list[BaseRoute]:
    """The routes of the page, for the gateway's application."""
    return [
        Route("/", _index, name="page", methods=["GET", "HEAD"], include_in_schema=False),
        Mount("/static", _PageFiles(directory=PAGE), name="static"),
    ]


class _PageFiles(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file of the page, with the headers."""
        response = await super().get_response(path, scope)
        response.headers.update(SECURITY_HEADERS)
        return response


async def _index(_request: object) -> FileResponse:
    return FileResponse(PAGE / "index.html", headers=SECURITY_HEADERS)
