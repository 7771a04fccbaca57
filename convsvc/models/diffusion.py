"""Diffusion transformers: stacks of blocks between what embeds and what projects, with sizes as the tensors have them. Pure.

What is published of them has many forms: a component of a diffusers pipeline, its authors' own files, a single file. A configuration says
little, or is of another library. So a family says under which names each form keeps its tensors (`Spelling`), and what is there decides:
the form by the names, sizes by the shapes (`sizes.py`), how many layers and which parts that only some models have (`groups`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.models.family import Family, Wanted
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.tensors.blocks import Laid
from convsvc.tensors.declare import Row
from convsvc.tensors.notation import evaluate

# Where `Facts` keep what was seen.
SEEN = "seen_tensors"
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, slots=True)
class StackNames:
    """How a form names a stack's layers: what goes before a layer's rows, its rows, and further ones of the first layer.

    `label` is what a layer's number looks like in names.
    """

    prefix: str
    rows: Rows
    first: Rows = ()
    label: str = r"\d+"


@dataclass(frozen=True, slots=True)
class Spelling:
    """One form in which a family's tensors are named.

    `groups` are rows that only some models have, by group and by where they stand (before, after, the name of a stack, or `behind` it).
    `file` begins
    the names of its weight files. `renames` are (pattern, replacement) for names that do not keep a layer's tensors under one prefix:
    such a form is read only. `unstored` is a part of the rows' names that its files are written without.
    """

    name: str
    before: Rows
    stacks: Mapping[str, StackNames]
    after: Rows
    groups: Mapping[str, Mapping[str, Rows]] = field(default_factory=dict)
    file: str = "diffusion_pytorch_model"
    renames: tuple[tuple[str, str], ...] = ()
    unstored: str = ""

    def renamed(self, stored: str) -> str:
        """A stored name as the rows have it."""
        for pattern, new in self.renames:
            stored = re.sub(pattern, new, stored)
        return stored

    def rows(self, where: str, groups: Collection[str]) -> Rows:
        """The rows that stand somewhere, with those of these groups."""
        own = {BEFORE: self.before, AFTER: self.after, **{behind(name): () for name in self.stacks}}
        rows = own[where] if where in own else self.stacks[where].rows
        return rows + tuple(each for name, places in self.groups.items() if name in groups for each in places.get(where, ()))

    def required(self) -> Iterator[str]:
        """The names that a checkpoint of this form has without fail, of its stacks the first layer's; none has a layer's label."""
        for each in (*self.before, *self.after):
            yield each.stored
        for stack in self.stacks.values():
            for each in stack.rows:
                yield stack.prefix.format(layer="*") + each.stored


@dataclass(frozen=True, slots=True)
class Seen:
    """What a checkpoint shows: its layers' labels by stack, its groups, its axes' sizes, and the shapes of what is kept as it is."""

    stacks: Mapping[str, tuple[str, ...]]
    groups: frozenset[str]
    sizes: Mapping[str, int]
    passing: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        return sum(map(len, self.stacks.values()))


@dataclass(frozen=True, slots=True)
class Diffusion(Family):
    """A diffusion transformer. The first of its `forms` has the names that its logical tensors are declared by.

    `derived` are sizes that follow from others (expressions), `sums` axes that consist of others, `constants` sizes that are always the
    same. Of the groups of each of `one_of` exactly one must be there. `passing` are patterns of names that all forms have alike, of which
    nothing else is known: such tensors are kept as they are. `class_names` are diffusers' `_class_name`; `counts` the fields of a
    configuration that say how many layers a stack has. `stated`: published tensors of it look like another family's, and a job says which.
    """

    forms: tuple[Spelling, ...] = ()
    derived: Mapping[str, str] = field(default_factory=dict)
    sums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, int] = field(default_factory=dict)
    one_of: tuple[tuple[str, ...], ...] = ()
    passing: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    counts: Mapping[str, str] = field(default_factory=dict)
    stated: bool = False

    def build(self, facts: Facts, wanted: Wanted | None = None) -> Model:
        """The model that was seen. Raises SourceError where no tensors were looked at."""
        seen = facts.get(SEEN)
        if not isinstance(seen, Seen):
            raise SourceError(
                f"{facts.origin}: {self.title} is a diffusion model, and this format is not read as one",
                do='read what is published as format "diffusers", rank files of MindSpeed-MM as "mindspeed-mm-sora"',
            )
        return self.model_of(seen)

    def model_of(self, seen: Seen) -> Model:
        """The model of these sizes, by the first spelling's names; each stack of layers is a module."""
        sizes = dict(seen.sizes)
        carriable = tuple((Laid(name, shape, ()), None) for name, shape in seen.passing.items())
        return Model(self, tuple(scopes_of(self.forms[0], seen)), sizes, (), 0, False, carriable=carriable)

    def form(self, name: str) -> Spelling | None:
        return next((each for each in self.forms if each.name == name), None)

    def is_passing(self, stored: str) -> bool:
        return any(re.fullmatch(pattern, stored) for pattern in self.passing)


def diffusion(name: str, title: str, **own: Any) -> Diffusion:
    """A family without anything that a text decoder has."""
    return Diffusion(name=name, title=title, model_types=(), architectures=(), norms=(), attention=(), mlp=(), decoder=False, **own)


def behind(stack: str) -> str:
    """Where rows stand that lie with a stack's last layer."""
    return f"behind {stack}"


def scopes_of(spelling: Spelling, seen: Seen) -> Iterator[Scope]:
    """A model's scopes by a form's names: what comes first, each stack's layers, what comes last."""
    module = next(iter(spelling.stacks), "dit")
    yield Scope("embedding", "", "", spelling.rows(BEFORE, seen.groups), seen.sizes, module=module)
    for name, stack in spelling.stacks.items():
        rows = spelling.rows(name, seen.groups)
        for number, label in enumerate(seen.stacks[name]):
            its = rows + (stack.first if number == 0 else ())
            yield Scope("layer", f"{name}.{number}.", stack.prefix.format(layer=label), its, seen.sizes, number, module=name)
        if last := spelling.rows(behind(name), seen.groups):
            yield Scope("part", f"{name}.behind.", "", last, seen.sizes, module=name)
    yield Scope("output", "", "", spelling.rows(AFTER, seen.groups), seen.sizes, module=module)


def labels_of(spelling: Spelling, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The labels of each stack's layers that names have, in order."""
    found: dict[str, set[str]] = {name: set() for name in spelling.stacks}
    patterns = {
        name: re.compile(re.escape(stack.prefix).replace(r"\{layer\}", f"({stack.label})")) for name, stack in spelling.stacks.items()
    }
    for stored in names:
        for name, pattern in patterns.items():
            if match := pattern.match(stored):
                found[name].add(match[1])
    return {name: tuple(sorted(labels, key=lambda label: tuple(map(int, label.split("."))))) for name, labels in found.items()}


def groups_of(spelling: Spelling, shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The groups of which anything is there, with as many dimensions: of a stack's, in any of its layers."""
    stars = {(_starred(spelling, name), len(shape)) for name, shape in shapes.items()}
    return frozenset(
        name
        for name, places in spelling.groups.items()
        if any((_prefix(spelling, where) + row.stored, len(row.parts[0].order)) in stars for where, rows in places.items() for row in rows)
    )


def passing_of(family: Diffusion, spelling: Spelling, seen: Seen, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """What is kept as it is, of the tensors that are no row's."""
    claimed = {scope.prefix + row.stored for scope in scopes_of(spelling, seen) for row in scope.rows}
    return {name: shape for name, shape in shapes.items() if name not in claimed and family.is_passing(name)}


def solved(family: Diffusion, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes with those that follow from them."""
    sizes = {**sizes, **{axis: sum(sizes[each] for each in parts) for axis, parts in family.sums.items() if axis not in sizes}}
    return {**sizes, **{axis: evaluate(how, sizes) for axis, how in family.derived.items() if axis not in sizes}}


def fit(spelling: Spelling, names: Iterable[str]) -> tuple[int, int]:
    """(names that every checkpoint of this form has and that are there, how many there should be): layers count once."""
    stars = {_starred(spelling, each) for each in names}
    required = set(spelling.required())
    if not required:
        # A form of groups alone (adapters): then all that is there is in one of them.
        groups = {_prefix(spelling, where) + row.stored for places in spelling.groups.values() for where in places for row in places[where]}
        return len(groups & stars), len(stars)
    return len(required & stars), len(required)


def _prefix(spelling: Spelling, where: str) -> str:
    return spelling.stacks[where].prefix.format(layer="*") if where in spelling.stacks else ""


def _starred(spelling: Spelling, stored: str) -> str:
    """A name with a star in the place of its layer's label."""
    for stack in spelling.stacks.values():
        head, _, tail = stack.prefix.partition("{layer}")
        if stored.startswith(head) and (match := re.match(stack.label + re.escape(tail), stored[len(head) :])):
            return head + "*" + tail + stored[len(head) + match.end() :]
    return stored


def check_choices(family: Diffusion, seen: Seen, origin: str) -> None:
    """Raises SourceError where of alternatives not exactly one is there."""
    for names in family.one_of:
        there = seen.groups.intersection(names)
        if len(there) != 1:
            what = ", ".join(f"{each.stored} {list(each.parts[0].order)}" for each in _alternatives(family, names))
            raise SourceError(f"{origin} has {len(there)} of {', '.join(names)}; it must have one", facts=[f"they are {what}"])


def _alternatives(family: Diffusion, names: Iterable[str]) -> Iterator[Row]:
    return (row for name in names for rows in family.forms[0].groups[name].values() for row in rows)


def check_sizes(spelling: Spelling, seen: Seen, names: Collection[str], origin: str) -> None:
    """Raises SourceError for tensors that are missing where nothing else says how large they are."""
    missing = [
        scope.prefix + row.stored
        for scope in scopes_of(spelling, seen)
        for row in scope.rows
        if scope.prefix + row.stored not in names and any(axis not in seen.sizes for each in row.logicals for axis in each.axes)
    ]
    if missing:
        more = [f"and {len(missing) - 12} more"] if len(missing) > 12 else []
        raise SourceError(f"{origin}: {len(missing)} tensors are missing", facts=missing[:12] + more, do="fetch all its files")


def expected(spelling: Spelling, stacks: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The stacks that must have layers, and those that have: one with nothing but groups may be missing."""
    some = any(stacks.values())
    return {name: labels for name, labels in stacks.items() if labels or spelling.stacks[name].rows or not some}


def check_labels(family: str, origin: str, stacks: Mapping[str, tuple[str, ...]]) -> None:
    """Layers are numbered from 0 on without a gap. Raises SourceError, naming those that are missing."""
    for name, labels in stacks.items():
        if not labels:
            raise SourceError(f"{origin} has no layer of the {name} of {family}")
        if "." in labels[0]:
            continue
        missing = sorted(set(range(int(labels[-1]) + 1)) - set(map(int, labels)))
        if missing:
            shown = ", ".join(map(str, missing[:12]))
            raise SourceError(f"{origin}: layer(s) {shown} of the {name} are missing, of {int(labels[-1]) + 1}", do="fetch all its files")
