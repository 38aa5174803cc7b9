"""Typed clients: of the gateway for product teams, of Triton for who has a user row.

from serving.client import GatewayClient

with GatewayClient("http://localhost:8080", api_key) as gateway:
    answer = gateway.recommend("42", k=5, explain=True)
    for item in answer.items:
        print(item.title, item.because)

`AsyncGatewayClient` and `AsyncRecommender` are the same for asyncio. Errors are ServingErrors.
"""

from serving.client.gateway import AsyncGatewayClient, GatewayClient, GatewayError
from serving.client.triton import AsyncRecommender, Recommendation, Recommender
from serving.gateway.event_models import Event

__all__ = [
    "AsyncGatewayClient",
    "AsyncRecommender",
    "Event",
    "GatewayClient",
    "GatewayError",
    "Recommendation",
    "Recommender",
]
