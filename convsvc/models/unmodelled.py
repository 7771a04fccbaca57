"""No model at all: tensors under their own names, whatever they are. Pure.

For what has no architecture to be held against: optimizer state beside weights, a checkpoint of a family that nobody has declared. Tensors
are joined, cut, cast and proven to be whole like any others, and what they mean nobody asks: but for experts, where the job says in which
form they are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from convsvc.models.expert_stacks import expert_scopes
from convsvc.models.facts import Facts
from convsvc.models.family import Family, Wanted
from convsvc.models.model import Model
from convsvc.tensors.blocks import Laid, lay

NAME = "tensors"


@dataclass(frozen=True, slots=True)
class Unmodelled(Family):
    """A family whose model is the tensors that are there."""

    @property
    def as_stored(self) -> bool:
        return True

    def build(self, facts: Facts, wanted: Wanted | None = None) -> Model:
        """A model that carries every tensor of `wanted.shapes` along under its name. Asks nothing of the configuration.

        Raises SourceError for experts in another form than the job says.
        """
        shapes = wanted.shapes() if wanted and wanted.shapes else {}
        scopes = tuple(expert_scopes(shapes, wanted.experts if wanted else {}))
        claimed = {laid.name for scope in scopes for each in scope.rows for laid in lay(each, scope.sizes, {}, prefix=scope.prefix)}
        carriable = tuple((Laid(name, shape, ()), None) for name, shape in shapes.items() if name not in claimed)
        return replace(Model(self, scopes, {}, (), 0, False), carriable=carriable)


FAMILY = Unmodelled(
    name=NAME,
    title="Any tensors, under their own names",
    model_types=(),
    architectures=(),
    norms=(),
    attention=(),
    mlp=(),
)
