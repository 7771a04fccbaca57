"""HEAD: what GET would answer, without the body. FastAPI's routes know only the methods that they name."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware that answers HEAD by GET's head. A stream ends itself: its client has had its answer, and is gone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        inner = {**scope, "method": "GET"}

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope.update({name: inner[name] for name in ("route", "path_params") if name in inner})  # for the request's log
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self.app(inner, receive, send_head)
