"""A GraphQL server of other people's making (strawberry under uvicorn) on loopback, in a thread.

It answers over HTTP and, by the protocol graphql-transport-ws, over a WebSocket.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import strawberry
import uvicorn
from strawberry.asgi import GraphQL

__all__ = ["Shop", "shop_server"]


class Shop:
    """Its port and the fields that ran."""

    def __init__(self) -> None:
        self.port = 0
        self.ran: list[str] = []

    def schema(self) -> strawberry.Schema:
        ran = self.ran

        @strawberry.type
        class Query:
            @strawberry.field
            def price(self, item: str) -> int:
                ran.append("price")
                return len(item)

        @strawberry.type
        class Mutation:
            @strawberry.mutation
            def buy(self, item: str) -> str:
                ran.append("buy")
                return item

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def prices(self, count: int) -> AsyncIterator[int]:
                ran.append("prices")
                for number in range(count):
                    yield number

        return strawberry.Schema(Query, Mutation, Subscription)


@contextlib.contextmanager
def shop_server() -> Iterator[Shop]:
    """Serve until the block ends."""
    shop = Shop()
    listener = socket.create_server(("127.0.0.1", 0))
    shop.port = listener.getsockname()[1]
    config = uvicorn.Config(
        GraphQL(shop.schema()),
        log_level="error",
        ws="websockets-sansio",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield shop
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
