"""What a family is, and what it makes of a configuration: a model, i.e. scopes with rows and sizes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from convsvc.blocks.embeddings import EMBEDDING, EMBEDDING_ROWS, FINAL_NORM_ROWS, OUTPUT, OUTPUT_ROWS, TIED_OUTPUT_ROWS
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import PACKED_EXPERTS, sparse_layers
from convsvc.blocks.mtp import MTP_EMBEDDING, MTP_OUTPUT
from convsvc.errors import SourceError
from convsvc.models.believable import check_layers, check_rows
from convsvc.models.facts import Facts
from convsvc.models.mtp_layers import Mtp, numbered
from convsvc.notes import Note
from convsvc.tensors.blocks import Laid, LogicalTensor, lay
from convsvc.tensors.declare import Logical, Row, row

Rows = tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of the model whose tensors lie together.

    `kind`: embedding, layer, mtp (an MTP layer's own tensors), mtp_block (its transformer layer) or output. `logical` goes before
    the logical names ("decoder.layers.3."), `prefix` before Hugging Face's ("model.layers.3."). `number` counts the layers, or the
    MTP layers, that are converted. `dense` says that the layer has no experts.
    """

    kind: str
    logical: str
    prefix: str
    rows: Rows
    sizes: Mapping[str, int]
    number: int = 0
    dense: bool = True

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
class Model:
    """A family with its sizes filled in.

    `kept` are the source's numbers of the layers that are converted, of `hidden_layers` it has; `num_mtp` of `available_mtp` MTP
    layers that are stored are. `same_as` names, for a logical tensor that may be missing on one side, the one it is a copy of;
    `copies` are those of them that the Hugging Face checkpoint stores, None where nobody knows.
    `beside` are the MTP layers that are kept as they are. `carriable` are the tensors that would be kept so (theirs, and
    `Family.carried`), by their stored names and with the dtype they are kept in; `carried` those of them that are there. `keeps` are the
    dtypes in which logical tensors are kept, whatever the others are cast to (`Row.keep`). `notes` say what the configuration gave
    reason to say, `advice` what training must be told beside the weights.
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

    @property
    def num_layers(self) -> int:
        return len(self.kept)

    @property
    def num_experts(self) -> int:
        return self.sizes.get("expert", 0)

    def without(self, absent: frozenset[str]) -> Model:
        """The model less the logical tensors (by full name) that a checkpoint of it does without."""
        return replace(self, scopes=tuple(scope.without(absent) for scope in self.scopes)) if absent else self

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
        return tuple(scope for scope in self.scopes if scope.kind == "layer")

    def renumbered(self) -> Model:
        """The model whose Hugging Face names count the converted layers from 0, however many of the source's were left out."""
        if self.kept == tuple(range(self.hidden_layers)):
            return self
        return replace(self, scopes=tuple(replace(scope, prefix=self._prefix_of(scope)) for scope in self.scopes))

    def _prefix_of(self, scope: Scope) -> str:
        if scope.kind == "layer":
            return self.family.layer_prefix.format(layer=scope.number)
        mtp = self.family.mtp
        if mtp is None or scope.kind not in ("mtp", "mtp_block"):
            return scope.prefix
        prefix = mtp.prefix if scope.kind == "mtp" else mtp.block_prefix or mtp.prefix
        return prefix.format(layer=self.num_layers + scope.number, mtp=scope.number)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of a model is converted: None for all. `first_dense` with `num_layers` says how many of them are dense.

    `carry_mtp`: MTP layers that are not converted are kept as they are, if the other layers are all there. `stored`: how many tensors the
    checkpoint has; a configuration that speaks of far more is not believed. `names` are the stored names, where they are known.
    """

    num_layers: int | None = None
    first_dense: int | None = None
    num_mtp: int | None = None
    vocab: int | None = None
    carry_mtp: bool = False
    stored: int | None = None
    names: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A model family as a table.

    `norms`, `attention`, `mlp` and `experts` are the rows of a layer's parts; `experts` empty means a dense model. `packed` are rows
    that a checkpoint may have in the place of those that hold the same (transformers 5 stacks experts); they are read. `flags` adds rows
    where a field of the configuration is true (of several names, the first that is there). A family whose layers differ in other ways
    has a `layer` function of its own. `sizes` are the functions that find the axes' sizes. `model_types` and `architectures` are
    config.json's, `distinguish` tests further fields where several families share them; `ignored` are patterns of stored names that
    hold no weight; `carried` the rows, under whole names, of weights that no dialect's training knows, which are kept as they are;
    `megatron` are saved args that follow from the family; `names` are its configuration's fields where they are not the usual ones
    (`describe.NAMES`); `zero_centred` says that its norms' weights are what is added to 1; `partial_rotary` is the part of a head that
    transformers rotates where the configuration does not say; `one_schedule` says that its training takes dualpipev or virtual stages of
    a stated length, and never both; `shown_by` recognises a configuration that has neither model_type nor architectures;
    `advice` are functions that find what the configuration makes the model compute beyond its weights (families/beyond.py).
    """

    name: str
    title: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    norms: Rows
    attention: Rows
    mlp: Rows
    experts: Rows = ()
    packed: Rows = PACKED_EXPERTS
    flags: tuple[tuple[str | tuple[str, ...], Rows], ...] = ()
    sizes: tuple[Callable[[Facts], Mapping[str, int]], ...] = (gqa_sizes,)
    layer: Callable[[Family, Facts, int], LayerRows] | None = None
    embedding: Rows = EMBEDDING_ROWS
    final_norm: Rows = FINAL_NORM_ROWS
    output: Rows = OUTPUT_ROWS
    tied_output: Rows = TIED_OUTPUT_ROWS
    tied_by_default: bool = False
    mtp: Mtp | None = None
    distinguish: Callable[[Facts], bool] | None = None
    layer_prefix: str = "model.layers.{layer}."
    ignored: tuple[str, ...] = (r"(^|\.)rotary_emb\.inv_freq$",)
    carried: Rows = ()
    one_schedule: bool = False
    shown_by: Callable[[Facts], bool] | None = None
    megatron: Mapping[str, object] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    zero_centred: bool = False
    partial_rotary: float = 1.0
    advice: tuple[Callable[[Facts], str | None], ...] = ()

    def build(self, facts: Facts, wanted: Wanted | None = None) -> Model:
        """The model that `facts` describe, or the part of it that is wanted.

        Raises SourceError if the configuration lacks a number, or has fewer layers than wanted.
        """
        wanted = wanted or Wanted()
        hidden_layers = facts.num_layers
        counted = self.mtp.counted(facts) if self.mtp else 0
        num_mtp, available = self._mtp_layers(wanted, hidden_layers, counted)
        check_layers(facts.origin, wanted.stored, {"layers": hidden_layers, "MTP layers": max(available, num_mtp, counted or 0)})
        kept = _kept_layers(self, facts, hidden_layers, wanted)
        if not kept:
            raise SourceError(
                f"no layer is left to convert, of {hidden_layers} that {facts.origin} speaks of", do="check first_k_dense_replace"
            )
        self._check_mtp(num_mtp, counted or 0)
        tied = facts.tied(self.tied_by_default)
        sizes: dict[str, int] = {"hidden": facts.number("hidden"), "vocab": wanted.vocab or facts.number("vocab")}
        for find in self.sizes:
            sizes |= find(facts)
        scopes = (
            Scope("embedding", "", "", self.embedding, sizes),
            *(self._layer(facts, sizes, number, layer) for number, layer in enumerate(kept)),
            *(scope for number in range(num_mtp) for scope in self._mtp(facts, sizes, number, hidden_layers)),
            Scope("output", "", "", self.final_norm + (self.tied_output if tied else self.output), sizes),
        )
        check_rows(facts.origin, wanted.stored, ((scope.rows, scope.sizes) for scope in scopes))
        carries = range(num_mtp, available) if wanted.carry_mtp and len(kept) == hidden_layers else ()
        beside = tuple(scope for number in carries for scope in self._mtp(facts, sizes, number, hidden_layers))
        model = Model(self, scopes, sizes, kept, hidden_layers, tied, num_mtp, available, _copies(num_mtp, tied))
        model = replace(
            model,
            beside=beside,
            carriable=self._carriable(beside, sizes),
            keeps={scope.logical + each.name: row.keep for scope in scopes for row in scope.rows if row.keep for each in row.logicals},
            notes=_mtp_notes(facts, wanted, counted, available),
            advice=tuple(said for find in self.advice if (said := find(facts))),
        )
        stored = facts.items("mtp_copies", str)
        return model if stored is None else model.storing(stored)

    def _mtp_layers(self, wanted: Wanted, hidden_layers: int, counted: int | None) -> tuple[int, int]:
        """(how many MTP layers are converted, how many there are). All that are there where nothing is wanted; where nobody knows what
        is stored, as many as are counted."""
        if self.mtp is None:
            return wanted.num_mtp or 0, 0
        asked = wanted.num_mtp or 0
        available = (counted or 0) if wanted.names is None else self.mtp.stored(wanted.names, hidden_layers, counted, asked)
        return (available, available) if wanted.num_mtp is None else (asked, max(asked, available))

    def _check_mtp(self, num_mtp: int, counted: int) -> None:
        if num_mtp and self.mtp is None:
            raise SourceError(f"mtp_num_layers is {num_mtp}; {self.name} has no MTP layers", do="use 0")
        if num_mtp > 1 and self.mtp is not None and "{" not in self.mtp.prefix:
            raise SourceError(f"mtp_num_layers is {num_mtp}; {self.name} has names for one MTP layer only ({self.mtp.prefix})", do="use 1")
        if 0 < counted < num_mtp:
            raise SourceError(f"mtp_num_layers is {num_mtp}; the model has {counted}", do=f"use at most {counted}")

    def _carriable(self, mtp: Iterable[Scope], sizes: Mapping[str, int]) -> tuple[tuple[Laid, str | None], ...]:
        """What may be kept as it is: whole MTP layers, and what the family names."""
        sizes = {**sizes, "part": 2, "input": sizes["hidden"]}
        layers = ((laid, each.keep) for scope in mtp for each in scope.rows for laid in lay(each, scope.sizes, {}, prefix=scope.prefix))
        return (*layers, *((laid, each.keep) for each in self.carried for laid in lay(each, sizes, {})))

    def rows_of(self, facts: Facts, layer: int) -> LayerRows:
        """The rows of the source's `layer`-th layer."""
        return (self.layer or standard_layer)(self, facts, layer)

    def _layer(self, facts: Facts, sizes: Mapping[str, int], number: int, layer: int) -> Scope:
        made = self.rows_of(facts, layer)
        prefix = self.layer_prefix.format(layer=layer)
        return _layer_scope("layer", f"decoder.layers.{number}.", prefix, made, sizes, number)

    def _mtp(self, facts: Facts, sizes: Mapping[str, int], number: int, hidden_layers: int) -> Iterator[Scope]:
        assert self.mtp is not None
        where = {"layer": hidden_layers + number, "mtp": number}
        prefix, block_prefix = (each.format(**where) for each in (self.mtp.prefix, self.mtp.block_prefix or self.mtp.prefix))
        made = self.rows_of(facts, hidden_layers + number)
        sizes = {**sizes, "part": 2, "input": sizes["hidden"]}
        yield Scope("mtp", f"mtp.layers.{number}.", prefix, self.mtp.rows, sizes, number)
        block = f"mtp.layers.{number}.transformer_layer."
        yield _layer_scope("mtp_block", block, block_prefix, made, sizes, number)


def _layer_scope(kind: str, logical: str, prefix: str, made: LayerRows, sizes: Mapping[str, int], number: int) -> Scope:
    """A layer with the rows it really has: where an axis is 0 long (no shared experts), there is nothing."""
    sizes = {**sizes, **made.sizes}
    rows = tuple(row for row in made.rows if all(sizes.get(axis) != 0 for each in row.logicals for axis in each.axes))
    return Scope(kind, logical, prefix, rows, sizes, number, made.dense)


def standard_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Norms, attention, what the flags add, and experts or a dense feed-forward block."""
    is_sparse = bool(family.experts) and sparse_layers(facts)(layer)
    added = tuple(row for flag, rows in family.flags if facts.flag(*((flag,) if isinstance(flag, str) else flag)) for row in rows)
    return LayerRows(family.norms + family.attention + added + (family.experts if is_sparse else family.mlp), dense=not is_sparse)


def _kept_layers(family: Family, facts: Facts, hidden_layers: int, wanted: Wanted) -> tuple[int, ...]:
    """The layers that are converted. With `first_dense`, the dense layers beyond it are skipped and the others move up."""
    count = hidden_layers if wanted.num_layers is None else wanted.num_layers
    layers = list(range(hidden_layers))
    if wanted.first_dense is not None:
        dense = [layer for layer in layers if family.rows_of(facts, layer).dense]
        if wanted.first_dense > len(dense):
            raise SourceError(f"first_k_dense_replace is {wanted.first_dense}; the model has {len(dense)} dense layers")
        skipped = set(dense[wanted.first_dense :])
        layers = [layer for layer in layers if layer not in skipped]
    if count > len(layers):
        if wanted.num_layers is None:
            return tuple(layers)
        raise SourceError(f"num_layers is {count}; the model has {len(layers)} layers to take them from", do=f"use at most {len(layers)}")
    return tuple(layers[:count])


def _storing(scope: Scope, copies: Iterable[str], same_as: Mapping[str, str]) -> Scope:
    def is_copy(row: Row, names: Iterable[str]) -> bool:
        return any(scope.logical + each.name in names for each in row.logicals)

    return replace(scope, rows=tuple(replace(row, written=is_copy(row, copies)) if is_copy(row, same_as) else row for row in scope.rows))


def _mtp_notes(facts: Facts, wanted: Wanted, counted: int | None, available: int) -> tuple[Note, ...]:
    """A word where a configuration counts MTP layers of which nothing is stored (transformers saves none)."""
    if wanted.names is None or wanted.num_mtp or not counted or available:
        return ()
    return (Note("advice", f"{facts.origin} counts {counted} MTP layer(s) and none is stored: the model is converted without"),)


def _copies(num_mtp: int, tied: bool) -> dict[str, str]:
    """What an MTP layer's own embedding and head are copies of."""
    head = EMBEDDING.name if tied else OUTPUT.name
    same: dict[str, str] = {}
    for number in range(num_mtp):
        same[f"mtp.layers.{number}.{MTP_EMBEDDING.name}"] = EMBEDDING.name
        same[f"mtp.layers.{number}.{MTP_OUTPUT.name}"] = head
    return same


__all__ = ["Family", "LayerRows", "Model", "Mtp", "Rows", "Scope", "Wanted", "numbered", "standard_layer"]
