"""Megatron-mcore's names for the logical tensors, and the axis each parallelism slices: one module a mechanism, as in `blocks`.

Facts: Megatron-LM core 0.16 for what training loads. `local` and `te` are whose modules a layer is made of. A framework that is built on
Megatron has mechanisms of its own, and so tables of its own: `Tables` says all of what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from convsvc.dialects.templates import check_module
from convsvc.models.scope import DECODER, Rows


@dataclass(frozen=True, slots=True)
class Layers:
    """The rows of a layer made of one implementation's modules, whatever the family: those apply whose logical tensors it has.

    `dense` is all of a layer with a dense block and `sparse` of one with experts, but for the experts, one by one or `grouped`,
    and for latent attention's up projections, which may be `split`. A layer that has a logical tensor of `others` (by name) is made as
    these say instead: what is before its attention bears another name.
    """

    dense: Rows
    sparse: Rows
    experts: Rows
    grouped: Rows
    up: Rows = ()
    split: Rows = ()
    others: Mapping[str, Layers] = field(default_factory=dict)

    def of(self, logicals: frozenset[str]) -> Layers:
        """How a layer that holds these logical tensors is made."""
        return next((layers for name, layers in self.others.items() if name in logicals), self)


@dataclass(frozen=True, slots=True)
class Tables:
    """What the parts of a model are called in the rank files of a framework; `format` is its name in a job.

    `mtp` has `{mtp}` for an MTP layer's number. `tied` and `last_embedding` are the last stage's own copies of the embedding. `stack` goes
    before a layer's number, `prefix` before every name: a model of several modules has tables of its own for those in `modules`.
    `heads` are further heads, whose names have no prefix.
    """

    format: str
    local: Layers
    te: Layers
    embedding: Rows
    norms: Rows
    norms_after_mtp: Rows
    outputs: Rows
    output_biases: Rows
    tied: Rows
    mtp: Rows
    last_embedding: Rows
    prefix: str = ""
    stack: str = "decoder.layers."
    modules: Mapping[str, Tables] = field(default_factory=dict)
    heads: Rows = ()

    def of(self, module: str) -> Tables:
        """A module's tables. Raises LayoutError for one that the framework has no place for."""
        check_module(module, (DECODER, *self.modules), self.format)
        return self.modules.get(module, self)
