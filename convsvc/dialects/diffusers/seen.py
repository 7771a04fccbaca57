"""What the names and shapes of tensors show of a diffusion model: family, form, layers, sizes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from convsvc.errors import SourceError
from convsvc.models.diffusion import (
    Diffusion,
    Seen,
    Spelling,
    check_choices,
    check_labels,
    check_sizes,
    expected,
    fit,
    groups_of,
    labels_of,
    passing_of,
    scopes_of,
    solved,
)
from convsvc.models.facts import Facts
from convsvc.models.shapes import Equation, equations_of, solve

# What may stand before all names: a wrapper, a pipeline's or a trainer's part.
PREFIXES = (
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "module.",
    "model.",
    "dit.",
    "predictor.",
    "base_model.model.",
    "pipe.dit.",
)
SHOWN = 12

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Shown:
    """The family and form that fit names best, and what stands before them."""

    family: Diffusion
    spelling: Spelling
    prefix: str
    matched: int
    required: int


def recognise_model(names: Collection[str], candidates: Iterable[tuple[Diffusion, Spelling]]) -> Shown | None:
    """The candidate of which most is there; None where none has even half of what it must have.

    Of two that have all, the one that explains more of the names is meant: a model with a further stack is no model without it.
    """
    best: Shown | None = None
    for family, spelling in candidates:
        for prefix in PREFIXES:
            own = [spelling.renamed(name.removeprefix(prefix)) for name in names if name.startswith(prefix)]
            if not own:
                continue
            matched, required = fit(spelling, own)
            shown = Shown(family, spelling, prefix, matched, required)
            if matched * 2 > required and (best is None or _rank(shown) > _rank(best)):
                best = shown
    return best


def _rank(shown: Shown) -> tuple[float, int]:
    whole = shown.matched == shown.required
    return (1.0 if whole else shown.matched / shown.required, shown.matched)


def see(shown: Shown, shapes: Shapes, origin: str, facts: Facts | None = None) -> Seen:
    """The layers, groups and sizes that tensors show; `shapes` by names without the prefix.

    Raises SourceError for layers that are missing, shapes that contradict each other, and another number of layers than `facts` say.
    """
    spelling, family = shown.spelling, shown.family
    stacks = labels_of(spelling, shapes)
    check_labels(family.name, origin, expected(spelling, stacks))
    if facts is not None:
        check_counts(family, stacks, facts, origin)
    groups = groups_of(spelling, shapes)
    rough = Seen(stacks, groups, {})
    return complete(shown, rough, shapes, equations(shown, rough, shapes), origin)


def complete(shown: Shown, rough: Seen, shapes: Shapes, equations: Iterable[Equation], origin: str) -> Seen:
    """With sizes, and with what is kept as it is. Raises SourceError."""
    family, spelling = shown.family, shown.spelling
    check_choices(family, rough, origin)
    sizes = solved(family, solve(equations, origin, family.constants))
    seen = replace(rough, sizes=sizes, passing=passing_of(family, spelling, rough, shapes))
    check_sizes(spelling, seen, shapes.keys(), origin)
    return seen


def check_counts(family: Diffusion, stacks: Mapping[str, Collection[str]], facts: Facts, origin: str) -> None:
    """Raises SourceError where a configuration counts other layers than there are."""
    faults = [
        f"{name}: {facts.origin} says {field} {said}, {origin} has {len(stacks[name])}"
        for name, field in family.counts.items()
        if (said := facts.get(field)) is not None and said != len(stacks[name])
    ]
    if faults:
        raise SourceError(f"{origin} has other layers than its configuration says", facts=faults, do="fetch all its files")


def equations(shown: Shown, seen: Seen, shapes: Shapes, tp: int = 1) -> Iterator[Equation]:
    for scope in scopes_of(shown.spelling, seen):
        for row in scope.rows:
            stored = scope.prefix + row.stored
            if stored in shapes:
                yield from equations_of(row, stored, shapes[stored], tp, shown.family.sums)


def refuse_names(path: str, names: Collection[str], family: Diffusion | None, forms: Iterable[str]) -> SourceError:
    """The error for tensors that are no diffusion model's, or not the stated one's."""
    what = f"a {family.name} model in any form that is known ({', '.join(forms)})" if family else "a diffusion model that is known"
    return SourceError(
        f"{path} does not look like {what}, by its tensors' names",
        facts=[f"there is {name}" for name in sorted(names)[:SHOWN]],
        do="state model_type; or convert as tensors of no known model, with format huggingface",
    )
