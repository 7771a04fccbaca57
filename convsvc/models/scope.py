"""The parts of a model whose tensors lie together, and the stacks of layers that they make. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from convsvc.tensors.declare import Row

Rows = tuple[Row, ...]


# The module of a text model, which has no other.
DECODER = "text_decoder"


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of the model whose tensors lie together.

    `kind`: embedding, layer, part (of a layer that is a scope, too; under another prefix), mtp (an MTP layer's own tensors), mtp_block
    (its transformer layer), output, or head (a further one). `logical` goes before
    the logical names ("decoder.layers.3."), `prefix` before Hugging Face's ("model.layers.3."). `number` counts the layers, or the
    MTP layers, that are converted. `dense` says that the layer has no experts. `module` is the stack that it belongs to.
    """

    kind: str
    logical: str
    prefix: str
    rows: Rows
    sizes: Mapping[str, int]
    number: int = 0
    dense: bool = True
    module: str = DECODER

    @property
    def logicals(self) -> frozenset[str]:
        """Names, without scope, of the logical tensors in it."""
        return frozenset(each.name for row in self.rows for each in row.logicals)

    @property
    def optionals(self) -> frozenset[str]:
        """Those of them that a checkpoint may do without."""
        return self.logicals - {each.name for row in self.rows if not row.optional for each in row.logicals}

    def without(self, absent: frozenset[str]) -> Scope:
        """The scope less the logical tensors whose full names are in `absent`."""
        names = frozenset(name for name in self.logicals if self.logical + name in absent)
        return replace(self, rows=tuple(kept for row in self.rows if (kept := row.without(names)) is not None)) if names else self


@dataclass(frozen=True, slots=True)
class LayerRows:
    """A layer's rows, whether it is dense, and the sizes in which it differs from the model."""

    rows: Rows
    dense: bool = True
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Module:
    """A stack of layers with what comes before and after it: a decoder, a tower for images or sound, a projector.

    Modules are cut for themselves: a checkpoint may spread the layers of one over all pipeline stages and keep another in the first.
    """

    name: str
    scopes: tuple[Scope, ...]

    @property
    def num_layers(self) -> int:
        return sum(scope.kind == "layer" for scope in self.scopes)

    @property
    def num_mtp(self) -> int:
        """MTP layers, which lie behind the layers."""
        return sum(scope.kind == "mtp" for scope in self.scopes)


def modules_of(scopes: Iterable[Scope]) -> tuple[Module, ...]:
    """The modules that scopes belong to, in the order in which they come first.

    >>> [module.name for module in modules_of([Scope("layer", "", "", (), {}, module=name) for name in ("image", "text", "text")])]
    ['image', 'text']
    """
    by_name: dict[str, list[Scope]] = {}
    for scope in scopes:
        by_name.setdefault(scope.module, []).append(scope)
    return tuple(Module(name, tuple(own)) for name, own in by_name.items())
