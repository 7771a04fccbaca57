"""A model: a family with its sizes filled in, i.e. modules of scopes with rows. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from convsvc.models.scope import DECODER, Module, Scope, modules_of
from convsvc.notes import Note
from convsvc.tensors.blocks import Laid, LogicalTensor, lay
from convsvc.tensors.declare import Logical, Row, row

if TYPE_CHECKING:
    from convsvc.models.family import Family


@dataclass(frozen=True, slots=True)
class Model:
    """A family with its sizes filled in.

    `kept` are the source's numbers of the layers that are converted, of `hidden_layers` it has; `num_mtp` of `available_mtp` MTP
    layers that are stored are. `same_as` names, for a logical tensor that may be missing on one side, the one it is a copy of;
    `copies` are those of them that the Hugging Face checkpoint stores, None where nobody knows.
    `beside` are the MTP layers that are kept as they are. `carriable` are the tensors that would be kept so (theirs, and
    `Family.carried`), by their stored names and with the dtype they are kept in; `carried` those of them that are there. `keeps` are the
    dtypes in which logical tensors are kept, whatever the others are cast to (`Row.keep`). `notes` say what the configuration gave
    reason to say, `advice` what training must be told beside the weights. `left_out` are the names of modules that nobody asked for.
    """

    family: Family
    scopes: tuple[Scope, ...]
    sizes: Mapping[str, int]
    kept: tuple[int, ...]
    hidden_layers: int
    tied: bool
    num_mtp: int = 0
    available_mtp: int = 0
    same_as: Mapping[str, str] = field(default_factory=dict)
    copies: tuple[str, ...] | None = None
    beside: tuple[Scope, ...] = ()
    carriable: tuple[tuple[Laid, str | None], ...] = ()
    carried: tuple[LogicalTensor, ...] = ()
    keeps: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    advice: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[Module, ...]:
        """The stacks that it is made of; a text model is one."""
        return modules_of(self.scopes)

    @property
    def num_layers(self) -> int:
        return len(self.kept)

    @property
    def num_experts(self) -> int:
        return self.sizes.get("expert", 0)

    def without(self, absent: frozenset[str]) -> Model:
        """The model less the logical tensors (by full name) that a checkpoint of it does without."""
        return replace(self, scopes=tuple(scope.without(absent) for scope in self.scopes)) if absent else self

    def only(self, modules: Container[str]) -> Model:
        """The model of these modules alone."""
        left_out = tuple(module.name for module in self.modules if module.name not in modules)
        return replace(self, scopes=tuple(scope for scope in self.scopes if scope.module in modules), left_out=left_out)

    def storing(self, names: Iterable[str]) -> Model:
        """The model whose Hugging Face checkpoint stores, of the copies (`same_as`), those with these full names."""
        copies = tuple(sorted(set(names) & set(self.same_as)))
        return replace(self, copies=copies, scopes=tuple(_storing(scope, copies, self.same_as) for scope in self.scopes))

    def carrying(self, stored: Container[str]) -> Model:
        """The model with the tensors that it carries along from a checkpoint of these names.

        What must be there is expected whether or not it is, and in the shape that it must have: a name alone claims nothing.
        """
        carried, keeps = [], dict(self.keeps)
        for laid, keep in self.carriable:
            name = next((name for name in (laid.name, *laid.also) if name in stored), None if laid.optional else laid.name)
            if name is not None:
                carried.append(LogicalTensor(name, tuple(f"axis{at}" for at in range(len(laid.shape))), laid.shape))
                keeps |= {name: keep} if keep else {}
        return replace(self, carried=tuple(carried), keeps=keeps)

    def mtp_layer_of(self, stored: str) -> int | None:
        """The MTP layer that Hugging Face's name belongs to; None for the main model's, and for a layer that is no MTP layer."""
        if self.family.mtp is None:
            return None
        number = self.family.mtp.number_of(stored, self.hidden_layers)
        return number if number is not None and number < self.available_mtp else None

    def lay_carried(self) -> Iterator[Laid]:
        """The carried tensors, each a stored tensor of its own."""
        for each in self.carried:
            whole = row(each.name, Logical(each.name, each.axes), " ".join(each.axes))
            yield from lay(whole, dict(zip(each.axes, each.sizes, strict=True)), {})

    @property
    def carried_mtp(self) -> int:
        """How many MTP layers are among the carried tensors."""
        return len({layer for each in self.carried if (layer := self.mtp_layer_of(each.name)) is not None})

    @property
    def integers(self) -> frozenset[str]:
        """The full names of the logical tensors that hold integers."""
        return frozenset(scope.logical + each.name for scope in self.scopes for row in scope.rows for each in row.logicals if each.integers)

    def layers(self) -> tuple[Scope, ...]:
        """The text decoder's layers."""
        return tuple(scope for scope in self.scopes if scope.kind == "layer" and scope.module == DECODER)

    def layers_have(self, logical: Logical) -> bool:
        """Whether any layer has this logical tensor."""
        return any(logical.name in scope.logicals for scope in self.layers())

    def renumbered(self) -> Model:
        """The model whose Hugging Face names count the converted layers from 0, however many of the source's were left out."""
        if self.kept == tuple(range(self.hidden_layers)):
            return self
        return replace(self, scopes=tuple(replace(scope, prefix=self._prefix_of(scope)) for scope in self.scopes))

    def _prefix_of(self, scope: Scope) -> str:
        if scope.kind == "layer" and scope.module == DECODER:
            return self.family.layer_prefix.format(layer=scope.number)
        mtp = self.family.mtp
        if mtp is None or scope.kind not in ("mtp", "mtp_block"):
            return scope.prefix
        prefix = mtp.prefix if scope.kind == "mtp" else mtp.block_prefix or mtp.prefix
        return prefix.format(layer=self.num_layers + scope.number, mtp=scope.number)


def _storing(scope: Scope, copies: Iterable[str], same_as: Mapping[str, str]) -> Scope:
    def is_copy(row: Row, names: Iterable[str]) -> bool:
        return any(scope.logical + each.name in names for each in row.logicals)

    return replace(scope, rows=tuple(replace(row, written=is_copy(row, copies)) if is_copy(row, same_as) else row for row in scope.rows))
