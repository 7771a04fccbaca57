"""Where each logical tensor lies in a checkpoint of global keys: whole tensors, of all layers or of one, cut into boxes. Pure.

Where all layers are alike Megatron core stacks them: `decoder.layers.mlp.linear_fc2.weight` [layer, hidden, ffn]; otherwise each has keys
of its own, `decoder.layers.7.mlp...` (core/transformer/transformer_block.py, sharded_state_dict). MTP layers always have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from convsvc.dialects.cuts import Cut
from convsvc.dialects.layout import Entry, Layout
from convsvc.dialects.mcore.carried import lay_carried
from convsvc.dialects.megatron.fsdp_state import MAIN, MOMENTS, moment_name
from convsvc.dialects.megatron.fsdp_tables import fsdp_rows
from convsvc.dialects.megatron.moments import State, flat_chunk, fragments_of, held_of, of_state, parse_stored, part_boxes
from convsvc.dialects.megatron.tables import LESS_ONE, is_latent, key_rows
from convsvc.dialects.overlaps import cells, in_cells
from convsvc.dialects.templates import Template, Templates
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.tensors.blocks import Laid, Window
from convsvc.tensors.boxes import Box
from convsvc.tensors.runs import cut_laid

LAYERS = "decoder.layers."
# What Megatron has no key for, kept for the way back: a loader asks for none of it.
CARRIED = "carried."
FSDP = "fsdp_dtensor"
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Keys:
    """How a checkpoint of global keys is laid out.

    `padded_vocab` is the number of embedding rows; `stacked`: layers are an axis. `fsdp`: they are Megatron-FSDP's, `halved` says that
    gates lie apart from what they gate, `sequential` that experts are modules; `single`: they are those of singleton_local_shards, which
    torch_dist has apart as Megatron-FSDP has. A source's has `cuts`, what of each key lies where, and
    the whole `shapes`; a target's the most elements of a chunk, beyond which it is cut along its first axis, what stands before every
    key, and whether it is `hashed`: then a file has little, so that one task can write all of it.

    `kinds` of an optimizer's state there are, too; a target's `state` says of which logical tensors. `wrappers` stand before a
    weight's key in Megatron-FSDP's names of state: how training wraps its model. A target's `iteration` is that which a source of rank
    files has come to.
    """

    padded_vocab: int
    stacked: bool
    cuts: Mapping[str, tuple[Cut, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    chunk_elements: int = 0
    fsdp: bool = False
    halved: bool = False
    sequential: bool = False
    single: bool = False
    prefix: str = ""
    hashed: bool = False
    kinds: tuple[str, ...] = ()
    state: Mapping[str, frozenset[str]] = field(default_factory=dict)
    wrappers: str = ""
    iteration: int | None = None

    def described(self) -> dict[str, int | str]:
        """The settings in JSON, for people."""
        chunks = sum(map(len, self.cuts.values()))
        said: dict[str, int | str] = {"layer_keys": "stacked" if self.stacked else "per-layer", "padded_vocab": self.padded_vocab}
        said |= {"chunks": chunks} if chunks else {}
        return ({"storage": FSDP} if self.fsdp else {}) | said | ({"optimizer_state": ", ".join(self.kinds)} if self.kinds else {})

    def rows(self, scope: Scope, model: Model) -> Rows:
        """The keys of a scope, less what stands before them. Raises LayoutError for what has no place in Megatron core."""
        if self.fsdp or self.single:
            return fsdp_rows(scope, model, halved=self.halved, sequential=self.sequential)
        return key_rows(scope, model)


@dataclass(frozen=True, slots=True)
class Key:
    """A stored tensor under its key: `parts` are its layers' where they are stacked, else itself; each with its scope's unit."""

    name: str
    parts: tuple[tuple[Laid, str], ...]
    stacked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole tensor's."""
        inner = self.parts[0][0].shape
        return (len(self.parts), *inner) if self.stacked else inner

    def cut(self, box: Box) -> Laid:
        """What of it lies in a box of the whole."""
        if not self.stacked:
            return _cut(self.parts[0][0], *box)
        (first, *starts), (last, *stops) = box
        return stack([_cut(laid, tuple(starts), tuple(stops)) for laid, _ in self.parts[first:last]])

    def unit(self, box: Box) -> str:
        """The scope that the first of a box belongs to."""
        return self.parts[box.starts[0] if self.stacked else 0][1]


def _cut(laid: Laid, starts: tuple[int, ...], stops: tuple[int, ...]) -> Laid:
    """A box of a stored tensor; one of padding alone says by an empty block whose."""
    cut = cut_laid(laid, starts, stops)
    if cut.blocks or not cut.padding:
        return cut
    block = laid.blocks[0]
    return cut._replace(blocks=(block._replace(starts=block.stops, offset=0),))


def lay_keys(model: Model, settings: Keys) -> list[Key]:
    """Every key of the model, in its order. Raises LayoutError for what has no place, or for layers that differ and shall be stacked."""
    if settings.stacked and not are_alike(model):
        raise LayoutError(
            f"the layers of this {model.family.name} differ, so that they cannot be stacked", do='use layer_keys "per-layer" or "auto"'
        )
    templates, keys, placed = Templates(), dict[str, list[tuple[Laid, str]]](), set[str]()
    for scope in model.scopes:
        for template in templates.of(scope, settings.rows(scope, model), _prefix(scope, settings)):
            placed |= {scope.logical + logical.name for logical in template.row.logicals if scope.kind.startswith("mtp")}
            for laid in _laid(templates, template, settings):
                keys.setdefault(laid.name, []).append((laid, template.unit))
    made = [Key(name, tuple(parts), settings.stacked and name.startswith(LAYERS)) for name, parts in keys.items()]
    before = settings.prefix + CARRIED
    carried = [(laid._replace(name=before + laid.name), unit) for laid, unit in lay_carried(model, frozenset(placed))]
    made += [Key(laid.name, ((laid, unit),), False) for laid, unit in carried]
    return [each for key in made for each in _with_states(key, settings)] if settings.kinds else made


def _with_states(key: Key, settings: Keys) -> list[Key]:
    """A weight's key and those of its state; where Megatron-FSDP is to have it, the main weight stands in the weight's place."""
    states = list(_states(key, settings))
    return states if settings.fsdp and any(state.name == key.name for state in states) else [key, *states]


def _states(key: Key, settings: Keys) -> Iterator[Key]:
    """The keys of what the optimizer keeps of a weight, laid as that is. Raises LayoutError where it keeps it of some layers only."""
    for kind in settings.kinds:
        if settings.cuts:
            told = MOMENTS[0] if settings.fsdp and kind == MAIN else kind  # what has moments is a main weight there
            if not any(State(told, name).stored in settings.cuts for name in (key.name, *key.parts[0][0].also)):
                continue
        else:
            held, without = held_of(settings.state, kind, (laid for laid, _ in key.parts))
            if held and without:
                raise LayoutError(
                    f"{key.name}: there is optimizer state ({kind}) of {held[0]}, and none of {without[0]}",
                    do='use layer_keys "per-layer": layers of which some are frozen cannot be stacked',
                )
            if not held:
                continue
        parts = tuple([(_named(of_state(laid, kind), laid, kind, settings), unit) for laid, unit in key.parts])
        yield Key(parts[0][0].name, parts, key.stacked)


def _named(state: Laid, weight: Laid, kind: str, settings: Keys) -> Laid:
    """State by the name that it has in such a checkpoint. Moments of a source have torch_dist's, whatever they are stored as."""
    if settings.fsdp and kind == MAIN:
        return state._replace(name=weight.name, also=weight.also)
    if not settings.fsdp or settings.cuts:
        return state
    return state._replace(name=moment_name(settings.wrappers, kind, weight.name.removeprefix(settings.prefix)))


def _laid(templates: Templates, template: Template, settings: Keys) -> Iterator[Laid]:
    windows = {"vocab": Window(0, settings.padded_vocab)} if template.row.tp == "vocab" else {}
    return (templates.kinds[kind] for kind in templates.lay(template, windows, frozenset(windows.items())))


def _prefix(scope: Scope, settings: Keys) -> str:
    if scope.kind == "layer":
        return settings.prefix + (LAYERS if settings.stacked else f"{LAYERS}{scope.number}.")
    return settings.prefix + (scope.logical if scope.kind == "mtp_block" else "")


def check_decoder(model: Model) -> None:
    """Raises LayoutError for a model without layers of text: tensors of no known model, towers alone."""
    if not model.layers():
        raise LayoutError(
            f"megatron has no place for {model.family.name}, which has no text decoder",
            do="convert to a format that keeps any tensors: dcp",
        )


def are_alike(model: Model) -> bool:
    """Whether all layers have the same tensors, of the same shapes."""
    layers = model.layers()
    first = layers[0]
    return all((each.rows, each.dense, each.sizes) == (first.rows, first.dense, first.sizes) for each in layers)


def is_usually_stacked(model: Model) -> bool:
    """Whether Megatron stacks the layers of the family's usual configuration.

    It does not where moe_layer_freq is a list, as families whose first layers are dense have it even if none is left, nor where mixers are
    the layers (core/ssm/mamba_block.py), nor where linear_attention_freq says which are (core/transformer/transformer_block.py).
    """
    layers = model.layers()
    lists = any(is_latent(scope) or model.family.mtp is not None for scope in layers) and model.num_experts > 0
    return are_alike(model) and not lists and model.sizes.keys().isdisjoint({"mamba_group", "key_head"})


def stack(parts: Sequence[Laid]) -> Laid:
    """Stored tensors of one shape as one, along a new first axis.

    >>> stack([Laid("w", (2, 3), ()), Laid("w", (2, 3), ())]).shape
    (2, 2, 3)
    """
    first = parts[0]
    size = prod(first.shape)
    blocks = tuple([block._replace(offset=block.offset + at * size) for at, part in enumerate(parts) for block in part.blocks])
    padding = tuple([(offset + at * size, count) for at, part in enumerate(parts) for offset, count in part.padding])
    return first._replace(shape=(len(parts), *first.shape), blocks=blocks, padding=padding)


def lay_source(model: Model, settings: Keys) -> Layout:
    """The chunks that there are; of a key that nothing holds the whole, which is missing then.

    Raises LayoutError for keys that have another shape than the model's.
    """
    kinds: list[Laid] = []
    entries: list[Entry] = []
    faults: list[str] = []
    for key in lay_keys(model, settings):
        also = key.parts[0][0].also
        stored = next((name for name in (key.name, *also) if name in settings.cuts), None)
        fragments = None
        if stored is not None and settings.shapes[stored] != key.shape:
            fragments = fragments_of(key.shape, settings.shapes[stored]) if parse_stored(stored) else None
            if fragments is None:
                faults.append(f"{stored}: expected {list(key.shape)}, found {list(settings.shapes[stored])}")
                continue
            _check_flat(stored, settings.cuts[stored])
        whole = Cut("", (0,) * len(key.shape), key.shape)
        for cut in settings.cuts[stored] if stored is not None else (whole,):
            box = Box(cut.starts, cut.stops)
            parts = [box] if fragments is None else part_boxes(key.shape, fragments, box)
            entries.append(Entry(cut.file, len(kinds), key.unit(parts[0])))
            kinds.append(_chunk(key, cut) if fragments is None else flat_chunk([key.cut(each) for each in parts], box))
    if faults:
        raise LayoutError(
            f"{len(faults)} tensors have other shapes than this {model.family.name} has",
            facts=faults[:SHOWN],
            do="give the config.json of this very model (source.config_dir), or check what the saved args say",
        )
    return Layout(tuple(kinds), tuple(entries))


def _chunk(key: Key, cut: Cut) -> Laid:
    """What of a key is in a chunk; of one that others overlap, in the cells that they cut it into."""
    kind = key.cut(Box(cut.starts, cut.stops))
    return in_cells(kind, map(key.cut, cells(Box(cut.starts, cut.stops), cut.seams))) if cut.seams else kind


def _check_flat(stored: str, cuts: Sequence[Cut]) -> None:
    """Raises LayoutError for state in fragments of which some overlap: what two hold would not be compared."""
    if any(cut.seams for cut in cuts):
        raise LayoutError(f"{stored}: its chunks overlap, which is read of weights alone", do='leave options.state out, or state "weights"')


def lay_target(model: Model, settings: Keys) -> Layout:
    """Every chunk that is written, with its file, which is of one unit and has no two of a key (`_Files`)."""
    kinds: list[Laid] = []
    entries: list[Entry] = []
    for _, _, number, box, laid, unit in chunks(model, settings):
        entries.append(Entry(number, len(kinds), unit))
        kinds.append(laid)
        del box
    return Layout(tuple(kinds), tuple(entries))


def chunks(model: Model, settings: Keys) -> Iterator[tuple[str, tuple[int, ...], str, Box, Laid, str]]:
    """(key, its whole shape, file, box, what lies in it, unit) of each chunk of a target."""
    files = _Files(settings)
    for key in lay_keys(model, settings):
        if not key.parts[0][0].written:
            continue
        for layer, (laid, unit) in enumerate(key.parts):
            # Of one that is stored by other values the whole is written at once.
            most = 0 if key.name.endswith(LESS_ONE) else settings.chunk_elements
            cut = list(boxes(laid.shape, most))
            for number, (starts, stops) in enumerate(cut):
                box = Box((layer, *starts), (layer + 1, *stops)) if key.stacked else Box(starts, stops)
                file = files.of(unit, number, prod(laid.shape) if len(cut) == 1 else None)
                yield key.name, key.shape, file, box, key.cut(box), unit


class _Files:
    """In which file chunks lie: a unit's n-th chunks in its n-th file.

    Of what is hashed each chunk of a tensor that is cut has a file of its own, and whole ones lie together as long as they are no more than
    a chunk: all of a file is one task's then, and small.
    """

    def __init__(self, settings: Keys) -> None:
        self._most = settings.chunk_elements if settings.hashed else 0
        self._units: dict[str, int] = {}
        self._counts: dict[int, int] = {}
        self._open: dict[int, tuple[int, int]] = {}

    def of(self, unit: str, number: int, whole_elements: int | None) -> str:
        """The file of a unit's chunk with this number; `whole_elements` are those of one that is all of its tensor."""
        unit_number = self._units.setdefault(unit, len(self._units) + 1)
        if self._most:
            number = self._new(unit_number) if whole_elements is None else self._shared(unit_number, whole_elements)
        return f"__{unit_number}_{number}.distcp"

    def _new(self, unit: int) -> int:
        number = self._counts.get(unit, 0)
        self._counts[unit] = number + 1
        return number

    def _shared(self, unit: int, elements: int) -> int:
        number, held = self._open.get(unit, (-1, self._most))
        if held + elements > self._most:
            number, held = self._new(unit), 0
        self._open[unit] = number, held + elements
        return number


def boxes(shape: tuple[int, ...], most: int) -> Iterator[Box]:
    """A tensor cut along its first axis, in pieces of at most so many elements (0: whole), or of one row.

    >>> [tuple(box) for box in boxes((5, 2), 4)]
    [((0, 0), (2, 2)), ((2, 0), (4, 2)), ((4, 0), (5, 2))]
    """
    if not shape or not most or prod(shape) <= most:
        yield Box((0,) * len(shape), shape)
        return
    rows, rest = max(1, most // prod(shape[1:])), shape[1:]
    for start in range(0, shape[0], rows):
        yield Box((start, *(0,) * len(rest)), (min(start + rows, shape[0]), *rest))
