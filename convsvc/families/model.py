"""What a family is, and what it makes of a configuration: a model, i.e. scopes with rows and sizes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from convsvc.errors import SourceError
from convsvc.families.blocks.embeddings import EMBEDDING_ROWS, FINAL_NORM_ROWS, OUTPUT_ROWS, TIED_OUTPUT_ROWS
from convsvc.families.blocks.gqa import gqa_sizes
from convsvc.families.blocks.moe import moe_sizes, sparse_layers
from convsvc.families.facts import Facts
from convsvc.tensors.declare import Row

Rows = tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of the model whose tensors lie together: the embedding, a layer, the output.

    `logical` goes before the logical names ("decoder.layers.3."), `prefix` before Hugging Face's ("model.layers.3."). `number` is
    the layer's, noop layers not counted. `dense` says that the layer has no experts.
    """

    kind: str
    logical: str
    prefix: str
    rows: Rows
    sizes: Mapping[str, int]
    number: int | None = None
    dense: bool = True

    @property
    def logicals(self) -> frozenset[str]:
        """Names, without scope, of the logical tensors in it."""
        return frozenset(each.name for row in self.rows for each in row.logicals)


@dataclass(frozen=True, slots=True)
class Model:
    """A family with its sizes filled in. `hidden_layers` are the layers the checkpoint has, `num_layers` those converted."""

    family: Family
    scopes: tuple[Scope, ...]
    sizes: Mapping[str, int]
    num_layers: int
    hidden_layers: int
    tied: bool

    @property
    def num_experts(self) -> int:
        return self.sizes.get("expert", 0)

    def layers(self) -> tuple[Scope, ...]:
        return tuple(scope for scope in self.scopes if scope.kind == "layer")


@dataclass(frozen=True, slots=True)
class Family:
    """A model family as a table.

    `attention`, `mlp` and `experts` are the rows of a layer's parts; `experts` empty means a dense model. `flags` adds rows where a
    field of the configuration is true. `sizes` are the functions that find the axes' sizes. `model_types` and `architectures` are
    config.json's; `ignored` are patterns of stored names that hold no weight.
    """

    name: str
    title: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    norms: Rows
    attention: Rows
    mlp: Rows
    experts: Rows = ()
    flags: tuple[tuple[str, Rows], ...] = ()
    sizes: tuple[Callable[[Facts], Mapping[str, int]], ...] = (gqa_sizes,)
    layer_prefix: str = "model.layers.{layer}."
    ignored: tuple[str, ...] = (r"(^|\.)rotary_emb\.inv_freq$",)
    megatron: Mapping[str, object] = field(default_factory=dict)

    def build(self, facts: Facts, *, num_layers: int | None = None, vocab: int | None = None) -> Model:
        """The model that `facts` describe, cut to its first `num_layers` layers if given.

        Raises SourceError if the configuration lacks a number, or has fewer layers than wanted.
        """
        hidden_layers = facts.num_layers
        wanted = hidden_layers if num_layers is None else num_layers
        if wanted > hidden_layers:
            raise SourceError(f"num_layers is {wanted}; the model has {hidden_layers} layers", do=f"use at most {hidden_layers}")
        sizes = {"hidden": facts.number("hidden"), "vocab": vocab or facts.number("vocab")}
        for find in self.sizes:
            sizes |= find(facts)
        layers = self._layers(facts, wanted, sizes)
        first = Scope("embedding", "", "", EMBEDDING_ROWS, sizes)
        last = Scope("output", "", "", FINAL_NORM_ROWS + (TIED_OUTPUT_ROWS if facts.tied else OUTPUT_ROWS), sizes)
        return Model(self, (first, *layers, last), sizes, wanted, hidden_layers, facts.tied)

    def _layers(self, facts: Facts, count: int, sizes: Mapping[str, int]) -> list[Scope]:
        always = self.norms + self.attention + tuple(row for flag, rows in self.flags if facts.flag(flag) for row in rows)
        is_sparse = sparse_layers(facts) if self.experts else lambda layer: False
        return [
            Scope(
                kind="layer",
                logical=f"decoder.layers.{layer}.",
                prefix=self.layer_prefix.format(layer=layer),
                rows=always + (self.experts if is_sparse(layer) else self.mlp),
                sizes=sizes,
                number=layer,
                dense=not is_sparse(layer),
            )
            for layer in range(count)
        ]


__all__ = ["Family", "Model", "Rows", "Scope", "moe_sizes"]
