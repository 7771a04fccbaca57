"""Which stored tensor lies in which rank file: layers over stages and virtual stages, matrices over tensor ranks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from convsvc.dialects.diffusers.layout import seen_of
from convsvc.dialects.layout import Entry, Layout
from convsvc.dialects.mcore.grid import slice_evenly
from convsvc.dialects.mcore.rank_files import FILE, chunk_name
from convsvc.dialects.mindspeed_mm_sora.form import FRAMEWORK, Form
from convsvc.dialects.templates import Template, Templates
from convsvc.errors import LayoutError
from convsvc.models.diffusion import scopes_of
from convsvc.models.model import Model
from convsvc.models.placement import Table
from convsvc.models.scope import Scope
from convsvc.tensors.blocks import Block, Laid, Window, lay, renamed

Counts = tuple[tuple[int, ...], ...]
# A job's field for the layers of a stack that is not the first.
FIELDS = {"vision": "vit_pp_layers"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How the files are cut: tensor ranks; layers by chunk and stage, where there are stages; whether chunks are numbered.

    `counts` are the first stack's; `beside` those of further stacks, by name: without, they lie in the first stage.
    """

    form: Form
    tp: int = 1
    counts: Counts | None = None
    numbered: bool = False
    staged: bool = False
    folder: str = "release"
    prefix: str = ""
    sums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: Mapping[str, Counts] = field(default_factory=dict)

    @property
    def stages(self) -> int:
        return 1 if self.counts is None else len(self.counts[0])

    @property
    def chunks(self) -> int:
        return 1 if self.counts is None else len(self.counts)

    def tables(self) -> dict[str, Counts]:
        """Layers by chunk and stage of every stack that is placed."""
        first = next(iter(self.form.spelling.stacks), "")
        return {} if self.counts is None else {first: self.counts, **self.beside}

    def chunk_key(self, chunk: int) -> str:
        """The key of a chunk at the top of a rank file."""
        return chunk_name(chunk if self.numbered else None)

    def file(self, rank: int, stage: int) -> str:
        """A rank's file, relative to the checkpoint; the stage is in its name where there are several."""
        path = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if self.staged else "") + f"/{FILE}"
        return f"{self.folder}/{path}" if self.folder else path

    def described(self) -> dict[str, Any]:
        """The settings in JSON, for people."""
        layers = [] if self.counts is None else [list(row) for row in self.counts]
        said: dict[str, Any] = {"tp_size": self.tp}
        said |= {"pp_layers": layers if self.numbered else layers[0]} if layers else {}
        return said | {f"{stack}_layers": [list(row) for row in table] for stack, table in self.beside.items()}


def check_form(form: Form, settings: Settings, model: Model) -> None:
    """Raises LayoutError for what MindSpeed-MM's training of this model has no way to load, and for layers that do not add up."""
    name, seen = model.family.name, seen_of(model)
    if settings.tp > 1 and not form.tp:
        raise LayoutError(f"tp_size is {settings.tp}; {FRAMEWORK} does not cut the matrices of {name} over ranks", do="use 1")
    if settings.counts is None:
        return
    if not form.pp and settings.stages * settings.chunks > 1:
        raise LayoutError(f"pp_layers: {FRAMEWORK} has no pipeline stages for {name}", do="leave it out")
    if settings.chunks > 1 and not form.vpp:
        raise LayoutError(f"pp_layers: {FRAMEWORK} has no virtual stages for {name}", do="give one list")
    for stack, table in settings.tables().items():
        field_name = FIELDS.get(stack, "pp_layers")
        if len({len(row) for row in table}) > 1:
            raise LayoutError(
                f"{field_name}: the lists of its chunks are of different lengths", do="give each chunk a number for every stage"
            )
        if (len(table), len(table[0])) != (settings.chunks, settings.stages):
            raise LayoutError(
                f"{field_name}: {len(table)} list(s) of {len(table[0])} stages, where pp_layers has {settings.chunks} of {settings.stages}"
            )
        layers = len(seen.stacks[stack]) if form.pp else seen.num_layers
        if (total := sum(map(sum, table))) != layers:
            raise LayoutError(f"{field_name} has {total} layers; the model has {layers}", do="make it add up")


def lay_ranks(model: Model, settings: Settings) -> Layout:
    """Every stored tensor of every rank. Raises LayoutError for an axis that the ranks do not divide."""
    check_form(settings.form, settings, model)
    templates = Templates()
    stages: list[list[Template]] = [[] for _ in range(settings.stages)]
    for scope, stage, chunk, prefix in placed(model, settings):
        stages[stage] += templates.of(scope, scope.rows, f"{settings.chunk_key(chunk)}/{settings.prefix}{prefix}")
    first = f"{settings.chunk_key(0)}/{settings.prefix}"
    carried = templates.add(laid._replace(name=first + laid.name) for laid in model.lay_carried())
    entries: list[Entry] = []
    for stage, rows in enumerate(stages):
        for rank in range(settings.tp):
            file = settings.file(rank, stage)
            for each in rows:
                entries += [Entry(file, kind, each.unit) for kind in _kinds(each, settings, rank, templates)]
            entries += [Entry(file, kind, "carried") for kind in carried if stage == 0]
    return Layout(tuple(templates.kinds), tuple(entries))


def placed(model: Model, settings: Settings) -> Iterator[tuple[Scope, int, int, str]]:
    """(scope, stage, chunk, what goes before its names there) of each scope, by MindSpeed-MM's names.

    What comes before the layers lies in the first stage and chunk, what comes behind in the last; what is behind a stack lies with its last
    layer. Layers are numbered from 0 in each.
    """
    spelling = settings.form.spelling
    last = settings.stages - 1, settings.chunks - 1
    slots = {stack: _slots(table) for stack, table in settings.tables().items()}
    for scope in scopes_of(spelling, seen_of(model)):
        if scope.kind == "layer" and scope.module in slots:
            stage, chunk, number = slots[scope.module][scope.number]
            yield scope, stage, chunk, spelling.stacks[scope.module].prefix.format(layer=number)
        elif scope.kind == "part":
            yield scope, *_end(slots.get(scope.module, []), settings, scope.module), scope.prefix
        else:
            stage, chunk = last if scope.kind == "output" else (0, 0)
            yield scope, stage, chunk, scope.prefix


def _end(slots: list[tuple[int, int, int]], settings: Settings, stack: str) -> tuple[int, int]:
    """(stage, chunk) of a stack's last layer. Raises LayoutError where there are several stages, and no layer says which it is."""
    if not slots and settings.stages * settings.chunks > 1 and stack in FIELDS:
        raise LayoutError(
            f"{FIELDS[stack]}: behind the {stack} tower something has adapters, and no layer of it has: its stage is not to be seen",
            do="convert to one stage",
        )
    return slots[-1][:2] if slots else (0, 0)


def _slots(counts: Counts) -> list[tuple[int, int, int]]:
    """(stage, chunk, number there) of every layer.

    >>> _slots(((1, 0), (1, 2)))
    [(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 1, 1)]
    """
    return [(stage, chunk, number) for stage, chunk, count in Table(counts).cells() for number in range(count)]


def _kinds(template: Template, settings: Settings, rank: int, templates: Templates) -> range:
    """The kinds of a row's stored tensors on a rank."""
    row, scope = template.row, template.scope
    if row.tp is None or settings.tp == 1:
        return templates.lay(template, {}, frozenset())
    if row.tp in settings.sums:
        lengths = tuple(scope.sizes[each] for each in settings.sums[row.tp])
        (whole,) = lay(row, scope.sizes, {})
        cut = _sectioned(whole, row.tp, [slice_evenly(row.tp, each, settings.tp, rank, "tp_size") for each in lengths], lengths)
        return templates.add([renamed(cut, scope.logical, template.prefix, template.tensors)])
    try:
        start, stop = slice_evenly(row.tp, scope.sizes[row.tp], settings.tp, rank, "tp_size")
    except LayoutError as error:
        raise LayoutError(f"{row.stored}: {error.message}", do="choose a tp_size that divides it", details=error.details) from None
    windows = {row.tp: Window(start, stop)}
    return templates.lay(template, windows, frozenset(windows.items()))


def _sectioned(whole: Laid, axis: str, slices: list[tuple[int, int]], lengths: tuple[int, ...]) -> Laid:
    """A rank's part of a plain tensor whose `axis` is several sections, one after the other: of each its slice."""
    (block,) = whole.blocks
    at = block.tensor.axes.index(axis)
    shape = list(whole.shape)
    shape[at] = sum(stop - start for start, stop in slices)
    strides = _row_major(shape)
    blocks, before, offset = [], 0, 0
    for (start, stop), length in zip(slices, lengths, strict=True):
        starts, stops = list(block.starts), list(block.stops)
        starts[at], stops[at] = before + start, before + stop
        blocks.append(Block(block.tensor, tuple(starts), tuple(stops), offset * strides[at], strides))
        before, offset = before + length, offset + stop - start
    return whole._replace(shape=tuple(shape), blocks=tuple(blocks))


def _row_major(shape: list[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
