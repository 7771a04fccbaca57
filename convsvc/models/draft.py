"""A first table for an architecture that nobody has declared: from its tensors' names and shapes, its configuration, the tables there are.

What fits is taken from tables that are known, the nearest family's first; what is new is a logical tensor of its own, its axes guessed by
their lengths. A guess is marked with its reason. Pure.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from math import prod

from convsvc.errors import ConvsvcError, SourceError
from convsvc.models.facts import Facts, is_count
from convsvc.models.family import Family
from convsvc.models.scope import Rows
from convsvc.tensors.blocks import lay
from convsvc.tensors.declare import Row

Shapes = Mapping[str, tuple[int, ...]]
Sizes = Mapping[str, int]
SizeFunction = Callable[[Facts], Mapping[str, int]]
LAYER = re.compile(r"^(?P<prefix>.*?\.|)(?P<number>\d+)\.(?P<rest>.+)$")
# The ends that nearly every model calls so, whatever stands before them.
BODY = "model."


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that a module keeps under a name; a family's own sizes functions come with its module."""

    module: str
    name: str
    rows: Rows


@dataclass(frozen=True, slots=True)
class Guess:
    """A tensor's row in the draft: a known one (`table`, `at`), or one of its own with guessed axes. `reasons` explain the guesses."""

    stored: str
    shape: tuple[int, ...]
    table: Table | None = None
    at: int = 0
    axes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """What a family file is made of.

    `kinds` are the layers' kinds, each a list of guesses; `pattern` says which layer is of which; `field` is the field of the configuration
    that tells them apart, with the kind for each of its values. `ends` are the tensors outside of layers. `sizes` are known functions by
    (module, name), `own_sizes` the axes that none of them has: (length, expression, reason).
    """

    facts: Facts
    nearest: str
    nearest_share: float
    layer_prefix: str
    kinds: tuple[tuple[Guess, ...], ...]
    pattern: tuple[int, ...]
    decides: tuple[str, Mapping[str, int]] | None
    ends: tuple[Guess, ...]
    sizes: tuple[tuple[str, str], ...]
    own_sizes: Mapping[str, tuple[int, str, str]]


@dataclass(slots=True)
class _Lengths:
    """Names for axes' lengths: those that known functions give, then the configuration's fields, then none."""

    facts: Facts
    known: dict[str, int]
    own: dict[str, tuple[int, str, str]] = field(default_factory=dict)

    def name(self, length: int) -> tuple[str, str]:
        """(axis, reason)."""
        for axis in ("hidden", "vocab"):
            if self.known.get(axis) == length:
                return axis, f"{length} = {axis}"
        for axis, (own, _, reason) in self.own.items():
            if own == length:
                return axis, reason
        axis, expression, reason = self._new(length)
        self.own[axis] = (length, expression, reason)
        return axis, reason

    def _new(self, length: int) -> tuple[str, str, str]:
        if length == 1:
            return "single", "1", "1"
        numbers = {name: int(value) for name, value in self.facts.values.items() if is_count(value) and int(value) > 1 and _is_size(name)}
        fields = [name for name, value in numbers.items() if value == length]
        if fields:
            return f"own_{_word(fields[0])}", f'facts.number("{fields[0]}")', f"{length} = {' or '.join(fields[:3])}"
        if doubled := [name for name, value in numbers.items() if 2 * value == length]:
            return f"own_two_{_word(doubled[0])}", f'2 * facts.number("{doubled[0]}")', f"{length} = 2 * {' or '.join(doubled[:3])}"
        if (less := _halved(length, numbers) or _fused(length, self.facts)) is not None:
            return less
        products = [(a, b) for a in numbers for b in numbers if a < b and numbers[a] * numbers[b] == length]
        if products:
            a, b = min(products, key=_unlikely)
            more = f" (or {len(products) - 1} other products)" if len(products) > 1 else ""
            return f"own_{_word(a)}_{_word(b)}", f'facts.number("{a}") * facts.number("{b}")', f"{length} = {a} * {b}{more}"
        return f"own_{length}", str(length), f"{length}: no field of the configuration says so"


def draft_family(
    facts: Facts, shapes: Shapes, families: Iterable[Family], tables: Iterable[Table], functions: Mapping[tuple[str, str], SizeFunction]
) -> Draft:
    """The draft for a text decoder with these tensors, under the names that it would have alone (`model.layers.0. ...`).

    Raises SourceError where there is no stack of layers.
    """
    prefix, layers, outside = _split(shapes)
    names = {name for layer in layers.values() for name in layer}
    ranked = sorted(families, key=lambda family: -_share(family, facts, names))
    nearest = ranked[0]
    ordered = sorted(functions, key=lambda key: (functions[key] not in nearest.sizes, ".families." in key[0]))
    found = {key: sizes for key in ordered if (sizes := _tried(functions[key], facts)) is not None}
    chosen = _Choice(found, _own_tables(nearest, tables), {"hidden": facts.number("hidden"), "vocab": facts.number("vocab")})
    kinds: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
    pattern = tuple(kinds.setdefault(tuple(sorted(layer.items())), len(kinds)) for _, layer in sorted(layers.items()))
    lengths = _Lengths(facts, chosen.sizes)
    guessed = tuple(tuple(_guesses(dict(kind), chosen, lengths)) for kind in kinds)
    ends = tuple(_guesses(outside, chosen, lengths))
    return Draft(
        facts, nearest.name, _share(nearest, facts, names), prefix, guessed, pattern, _decides(facts, pattern),
        ends, tuple(chosen.used), lengths.own,
    )  # fmt: skip


def _split(shapes: Shapes) -> tuple[str, dict[int, dict[str, tuple[int, ...]]], dict[str, tuple[int, ...]]]:
    """(what stands before a layer's names, with {layer} in it; each layer's tensors; the others)."""
    weight: Counter[str] = Counter()
    for name, shape in shapes.items():
        if (at := LAYER.match(name)) is not None:
            weight[at["prefix"]] += prod(shape)
    if not weight:
        raise SourceError("no tensor's name has a layer's number in it", do="a draft needs a model with layers")
    prefix = max(sorted(weight), key=lambda each: weight[each])
    layers: dict[int, dict[str, tuple[int, ...]]] = defaultdict(dict)
    outside: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        at = LAYER.match(name)
        if at is not None and at["prefix"] == prefix:
            layers[int(at["number"])][_looped(at["rest"])] = shape
        else:
            outside[name] = shape
    return prefix + "{layer}.", layers, outside


def _looped(name: str) -> str:
    """Experts' numbers are one axis.

    >>> _looped("mlp.experts.17.up_proj.weight")
    'mlp.experts.{expert}.up_proj.weight'
    """
    return re.sub(r"experts\.\d+\.", "experts.{expert}.", name)


def _share(family: Family, facts: Facts, names: set[str]) -> float:
    """How much of the layers' names and of the family's own are the same."""
    own = {row.stored for rows in (family.norms, family.attention, family.mlp, family.experts) for row in rows}
    with suppress(ConvsvcError, TypeError, ValueError, KeyError, IndexError):
        own |= {row.stored for layer in range(facts.num_layers) for row in family.rows_of(facts, layer).rows}
    return len(own & names) / len(own | names) if own and family.decoder and not family.towers else 0.0


def _tried(function: SizeFunction, facts: Facts) -> Sizes | None:
    try:
        return function(facts)
    except (ConvsvcError, ArithmeticError, TypeError, ValueError):
        return None


def _own_tables(nearest: Family, tables: Iterable[Table]) -> list[Table]:
    """The tables, those first whose rows the nearest family has."""
    own = {*nearest.norms, *nearest.attention, *nearest.mlp, *nearest.experts, *nearest.embedding, *nearest.final_norm, *nearest.output}
    return sorted(tables, key=lambda table: (-sum(row in own for row in table.rows) / max(len(table.rows), 1), -len(table.rows)))


@dataclass(slots=True)
class _Choice:
    """Which tables and sizes functions are used; a function that was taken decides its axes for all rows that follow."""

    found: Mapping[tuple[str, str], Sizes]
    tables: list[Table]
    sizes: dict[str, int]
    used: dict[tuple[str, str], None] = field(default_factory=dict)

    def fits(self, rows: Rows, shapes: Shapes) -> bool:
        """Whether the rows have these shapes, with the sizes that are taken already or with those of one or two more functions, which are
        taken then."""
        lacking = {axis for row in rows for each in row.logicals for axis in each.axes} - set(self.sizes)
        helping = [key for key, sizes in self.found.items() if lacking & set(sizes) and self._agrees(sizes)]
        for keys in [()] if not lacking else [(key,) for key in helping] + list(combinations(helping, 2)):
            sizes = {**self.sizes, **{axis: length for key in keys for axis, length in self.found[key].items()}}
            if lacking <= set(sizes) and all(_shape(row, sizes) == shapes[row.stored] for row in rows):
                self.sizes |= sizes
                self.used |= dict.fromkeys(keys)
                return True
        return False

    def _agrees(self, sizes: Sizes) -> bool:
        return all(self.sizes.get(axis, length) == length for axis, length in sizes.items())


def _shape(row: Row, sizes: Sizes) -> tuple[int, ...] | None:
    """The shape of the row's first tensor."""
    try:
        return next(iter(lay(row, sizes, {}))).shape
    except (KeyError, StopIteration, ConvsvcError, ValueError):
        return None


def _guesses(tensors: Shapes, chosen: _Choice, lengths: _Lengths) -> Iterator[Guess]:
    left = dict(tensors)
    for table in chosen.tables:
        names = [row.stored for row in table.rows]
        if table.rows and all(name in left for name in names) and chosen.fits(table.rows, left):
            for at, name in enumerate(names):
                yield Guess(name, left.pop(name), table, at)
    for name, shape in sorted(left.items()):
        known = next((found for found in _single(name, shape, chosen)), None)
        yield known or _own(name, shape, lengths)


def _single(name: str, shape: tuple[int, ...], chosen: _Choice) -> Iterator[Guess]:
    """A table one of whose rows is this tensor, where not all of them are there."""
    for table in chosen.tables:
        for at, row in enumerate(table.rows):
            if row.stored == name and chosen.fits((row,), {name: shape}):
                yield Guess(name, shape, table, at)


def _own(name: str, shape: tuple[int, ...], lengths: _Lengths) -> Guess:
    """A tensor of its own. Two axes of one length are told apart, since a tensor's axes have names of their own."""
    axes: list[str] = ["expert"] if "{expert}" in name else []
    reasons: list[str] = []
    for length in shape:
        axis, reason = lengths.name(length)
        if axis in axes:
            first = lengths.own.get(axis, (length, f'facts.number("{axis}")', reason))
            axis = f"{axis}_{len(axes)}"
            lengths.own.setdefault(axis, (length, first[1], reason))
        axes.append(axis)
        reasons.append(reason)
    return Guess(name, shape, axes=tuple(axes), reasons=tuple(dict.fromkeys(reasons)))


def _halved(length: int, numbers: Mapping[str, int]) -> tuple[str, str, str] | None:
    """Half of a field: gate and up are counted together there (Qwen 1, Molmo)."""
    halved = [name for name, value in numbers.items() if value == 2 * length]
    if not halved:
        return None
    return f"own_half_{_word(halved[0])}", f'facts.number("{halved[0]}") // 2', f"{length} = {' or '.join(halved[:3])} / 2"


def _fused(length: int, facts: Facts) -> tuple[str, str, str] | None:
    """The queries, keys and values of all heads together."""
    try:
        heads = facts.number("heads")
        groups = facts.number("num_key_value_heads", default=heads)
        head_dim = facts.number("head_dim", default=facts.number("hidden") // max(heads, 1))
    except ConvsvcError:
        return None
    if length != (heads + 2 * groups) * head_dim:
        return None
    count = '(facts.number("heads") + 2 * facts.number("num_key_value_heads", default=facts.number("heads")))'
    width = 'facts.number("head_dim", default=facts.number("hidden") // facts.number("heads"))'
    return "own_fused_qkv", f"{count} * {width}", f"{length} = all queries, keys and values, in whatever order"


def _decides(facts: Facts, pattern: tuple[int, ...]) -> tuple[str, Mapping[str, int]] | None:
    """A field of the configuration, as long as there are layers, whose values tell their kinds apart."""
    for name, values in facts.values.items():
        if isinstance(values, list) and len(values) == len(pattern) and len(set(pattern)) > 1:
            pairs = {(str(value), kind) for value, kind in zip(values, pattern, strict=True)}
            if len(pairs) == len({value for value, _ in pairs}):
                return name, dict(sorted(pairs))
    return None


def _is_size(name: str) -> bool:
    """Whether a field may be an axis's length: no token's number, nothing that counts layers or tokens.

    >>> _is_size("head_dim"), _is_size("eos_token_id"), _is_size("num_hidden_layers")
    (True, False, False)
    """
    return not re.search(r"_id$|layers?$|^max_|per_tok|top_?k|window|freq|step|interval", name)


def _unlikely(pair: tuple[str, str]) -> int:
    """How little two fields look like how many of something there are, and how wide each is."""
    counts = [name for name in pair if re.search(r"heads|groups|^n_|^num_", name)]
    widths = [name for name in pair if re.search(r"dim|size|rank", name)]
    return 4 - 2 * bool(counts) - 2 * bool(widths) - ("heads" in "".join(counts) and "head_dim" in "".join(widths))


def _word(name: str) -> str:
    """A field's name as an axis's.

    >>> _word("index-head.dim")
    'index_head_dim'
    """
    return re.sub(r"\W+", "_", name).strip("_").lower()
