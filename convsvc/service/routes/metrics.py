"""Figures for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from convsvc.service.access.callers import Scraper
from convsvc.service.problems import problems

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(401, 403, 429)},
)
def metrics(_: Scraper, request: Request) -> Response:
    """Figures in Prometheus' text format: jobs, tasks, bytes, waits, failures, executors, webhooks, HTTP requests; of all tenants."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.metrics.registry), headers={"Content-Type": content_type})
