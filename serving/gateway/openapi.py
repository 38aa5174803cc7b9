"""What /openapi.json says beyond the routes: which of them need a key, and in which header."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from serving.gateway.guard import GUARDED

KEY_SCHEME = "ApiKey"


class DescribedApp(FastAPI):
    """An application whose OpenAPI names the key. The door asks for it, so no route looks at it again."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, from which clients are generated."""
        document = super().openapi()
        scheme = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
        document["components"]["securitySchemes"] = {KEY_SCHEME: scheme}
        for path, calls in document["paths"].items():
            if path.startswith(GUARDED):
                for call in calls.values():
                    call["security"] = [{KEY_SCHEME: []}]
        return document
