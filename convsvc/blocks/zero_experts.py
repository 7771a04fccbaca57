"""A router that may send a token to an expert without weights (the identity): it has more routes than there are experts."""

from __future__ import annotations

from convsvc.models.facts import Facts
from convsvc.tensors.declare import logical, row

ROUTES = logical("mlp.router.routes.weight", "route hidden")
ROUTES_BIAS = logical("mlp.router.routes.bias", "route")

ROUTER_WITH_ZERO_EXPERTS = (
    row("mlp.router.classifier.weight", ROUTES, "route hidden"),
    row("mlp.router.e_score_correction_bias", ROUTES_BIAS, "route", keep="F32"),
)


def route_sizes(facts: Facts) -> dict[str, int]:
    """route: the experts, then those without weights."""
    return {"route": facts.number("experts") + facts.first_number(("zero_expert_num", "num_zero_experts"))}
