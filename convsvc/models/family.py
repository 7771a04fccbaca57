"""What a family is, a table, and what it makes of a configuration: a model. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from convsvc.blocks.embeddings import EMBEDDING, EMBEDDING_ROWS, FINAL_NORM_ROWS, OUTPUT, OUTPUT_ROWS, TIED_OUTPUT_ROWS
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import PACKED_EXPERTS, sparse_layers
from convsvc.blocks.mtp import MTP_EMBEDDING, MTP_OUTPUT
from convsvc.errors import SourceError
from convsvc.models.believable import check_layers, check_rows
from convsvc.models.class_defaults import completed
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.mtp_layers import Mtp
from convsvc.models.others import find_named, find_others, names_pattern, other_notes
from convsvc.models.scope import LayerRows, Rows, Scope
from convsvc.models.towers import Step, Tower, flatten
from convsvc.notes import Note
from convsvc.tensors.blocks import Laid, lay


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of a model is converted: None for all. `first_dense` with `num_layers` says how many of them are dense.

    `carry_mtp`: MTP layers that are not converted are kept as they are, if the other layers are all there. `stored`: how many tensors the
    checkpoint has; a configuration that speaks of far more is not believed. `names` are the stored names, where they are known;
    `shapes` finds the whole tensors' shapes by them. `experts`: in which form they are kept, by what names begin with (`expert_stacks`).
    """

    num_layers: int | None = None
    first_dense: int | None = None
    num_mtp: int | None = None
    vocab: int | None = None
    carry_mtp: bool = False
    stored: int | None = None
    names: frozenset[str] | None = None
    shapes: Callable[[], Mapping[str, tuple[int, ...]]] | None = None
    experts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """A model family as a table.

    `norms`, `attention`, `mlp` and `experts` are the rows of a layer's parts; `experts` empty means a dense model. `packed` are rows
    that a checkpoint may have in the place of those that hold the same (transformers 5 stacks experts); they are read, and written where
    a job asks for experts so and `stacked` says that transformers has a class that loads them. `spelling` turns
    names that another library gives the same tensors into the rows': (pattern, replacement), one after the other. `flags` adds rows
    where a field of the configuration is true (of several names, the first that is there). A family whose layers differ in other ways
    has a `layer` function of its own. `sizes` are the functions that find the axes' sizes. `model_types` and `architectures` are
    config.json's, `distinguish` tests further fields where several families share them; `ignored` are patterns of stored names that
    hold no weight; `carried` the rows, under whole names, of weights that no dialect's training knows, which are kept as they are;
    `megatron` are saved args that follow from the family; `names` are its configuration's fields where they are not the usual ones
    (`describe.NAMES`); `zero_centred` says that its norms' weights are what is added to 1; `partial_rotary` is the part of a head that
    transformers rotates where the configuration does not say; `one_schedule` says that its training takes dualpipev or virtual stages of
    a stated length, and never both; `shown_by` recognises a configuration that has neither model_type nor architectures;
    `heads` are further heads (a reward) beside the output layer or in its place; `advice` are functions that find what the configuration
    makes the model compute beyond its weights (families/beyond.py).

    `fields` are those of its configuration that decide what its layers hold, beyond the usual ones: a configuration that is derived has
    them.

    A model of several modules has `towers` beside its text decoder, and all else here is the decoder's (`around` makes such a family of
    the decoder's own). `inside` are the steps from its configuration to the text's, for a configuration that nests it. With `decoder`
    false there are the towers alone (diffusion models). `text` is the name of the family that the decoder is by itself. With `others`, what
    is stored under names that are not the decoder's is carried along, whatever it is; `silent` is the model_type whose class's sizes are
    taken where its nested configuration says none. `carries` are patterns of stored names whose tensors are kept as they are, whatever
    they are. `instead` says what it has in the place of a language model's head (a classifier), which is carried, too.
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
    stacked: bool = True
    spelling: tuple[tuple[str, str], ...] = ()
    flags: tuple[tuple[str | tuple[str, ...], Rows], ...] = ()
    sizes: tuple[Callable[[Facts], Mapping[str, int]], ...] = (gqa_sizes,)
    layer: Callable[[Family, Facts, int], LayerRows] | None = None
    embedding: Rows = EMBEDDING_ROWS
    final_norm: Rows = FINAL_NORM_ROWS
    output: Rows = OUTPUT_ROWS
    tied_output: Rows = TIED_OUTPUT_ROWS
    heads: Rows = ()
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
    towers: tuple[Tower, ...] = ()
    inside: tuple[Step, ...] = ()
    decoder: bool = True
    text: str | None = None
    others: bool = False
    silent: str = ""
    fields: tuple[str, ...] = ()
    carries: tuple[str, ...] = ()
    instead: str = ""

    @property
    def as_stored(self) -> bool:
        """Whether its tensors are what is stored, whatever it is: scales and adapters like anything else."""
        return False

    def flat(self, facts: Facts) -> Facts:
        """The configuration as a text model's: what it nests of the text lies at the top. Once is enough, twice is the same."""
        return completed(flatten(facts, self.inside), self.silent)

    def build(self, facts: Facts, wanted: Wanted | None = None) -> Model:
        """The model that `facts` describe, or the part of it that is wanted.

        Raises SourceError if the configuration lacks a number, or has fewer layers than wanted.
        """
        wanted, facts = wanted or Wanted(), self.flat(facts)
        beside = self._tower_scopes(facts, wanted)
        if not self.decoder:
            check_rows(facts.origin, wanted.stored, ((scope.rows, scope.sizes) for scope in beside))
            return Model(self, beside, dict(beside[0].sizes), (), 0, False, keeps=_keeps(beside))
        return self._with_decoder(facts, wanted, beside)

    def _tower_scopes(self, facts: Facts, wanted: Wanted) -> tuple[Scope, ...]:
        towers = [tower for tower in self.towers if tower.is_there(facts)]
        check_layers(facts.origin, wanted.stored, {f"layers of the {tower.name}": tower.num_layers(facts) for tower in towers})
        return tuple(scope for tower in towers for scope in tower.scopes(facts))

    def _with_decoder(self, facts: Facts, wanted: Wanted, towers: tuple[Scope, ...]) -> Model:
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
            *towers,
            Scope("embedding", "", "", self.embedding, sizes),
            *(self._layer(facts, sizes, number, layer) for number, layer in enumerate(kept)),
            *(scope for number in range(num_mtp) for scope in self._mtp(facts, sizes, number, hidden_layers)),
            Scope("output", "", "", self.final_norm + (self.tied_output if tied else self.output), sizes),
            *((Scope("head", "", "", self.heads, sizes),) if self.heads else ()),
        )
        check_rows(facts.origin, wanted.stored, ((scope.rows, scope.sizes) for scope in scopes))
        carries = range(num_mtp, available) if wanted.carry_mtp and len(kept) == hidden_layers else ()
        beside = tuple(scope for number in carries for scope in self._mtp(facts, sizes, number, hidden_layers))
        others = tuple(find_others(wanted.shapes(), self._own_names())) if self.others and wanted.shapes else ()
        if self.carries and wanted.shapes:
            others += tuple(find_named(wanted.shapes(), self.carries))
        model = Model(self, scopes, sizes, kept, hidden_layers, tied, num_mtp, available, _copies(num_mtp, tied))
        model = replace(
            model,
            beside=beside,
            carriable=(*self._carriable(beside, sizes), *others),
            keeps=_keeps(scopes),
            notes=(*_mtp_notes(facts, wanted, counted, available), *other_notes([laid.name for laid, _ in others], self.layer_prefix)),
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

    def _own_names(self) -> re.Pattern[str]:
        """What the decoder's own names begin with, or are."""
        mtp = () if self.mtp is None else (self.mtp.prefix, self.mtp.block_prefix or self.mtp.prefix)
        ends = (*self.embedding, *self.final_norm, *self.output, *self.tied_output, *self.carried)
        return names_pattern((self.layer_prefix, *mtp), (name for each in ends for name in (each.stored, *each.also)))

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


def _keeps(scopes: Iterable[Scope]) -> dict[str, str]:
    """The dtypes in which logical tensors are kept."""
    return {scope.logical + each.name: row.keep for scope in scopes for row in scope.rows if row.keep for each in row.logicals}


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
