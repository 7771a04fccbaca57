"""No model at all: tensors under their own names, whatever they are. Pure.

For what has no architecture to be held against: optimizer state beside weights, a checkpoint of a family that nobody has declared. Tensors
are joined, cut, cast and proven to be whole like any others; nothing is renamed, and what they mean nobody asks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from convsvc.models.facts import Facts
from convsvc.models.family import Family, Wanted
from convsvc.models.model import Model
from convsvc.tensors.blocks import Laid

NAME = "tensors"


@dataclass(frozen=True, slots=True)
class Unmodelled(Family):
    """A family whose model is the tensors that are there."""

    def build(self, facts: Facts, wanted: Wanted | None = None) -> Model:
        """A model that carries every tensor of `wanted.shapes` along under its name. Asks nothing of the configuration."""
        find = wanted.shapes if wanted else None
        carriable = tuple((Laid(name, shape, ()), None) for name, shape in (find() if find else {}).items())
        return replace(Model(self, (), {}, (), 0, False), carriable=carriable)


FAMILY = Unmodelled(
    name=NAME,
    title="Any tensors, under their own names",
    model_types=(),
    architectures=(),
    norms=(),
    attention=(),
    mlp=(),
)
