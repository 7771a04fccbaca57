"""What a row is for some windows, without names: the layers of one kind, a trillion parameters' sixty, differ in nothing else. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from convsvc.blocks.embeddings import EMBEDDING
from convsvc.dialects.layout import Entry, Layout
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.scope import DECODER, Rows, Scope
from convsvc.tensors.blocks import Laid, LogicalTensor, Window, lay, renamed
from convsvc.tensors.declare import ANYWHERE, Row
from convsvc.tensors.quick import quick
from convsvc.tensors.runs import cut_laid

Windows = frozenset[tuple[str, Window]]


@dataclass(frozen=True, slots=True)
class Template:
    """A row in a scope: `alike` is the same for equal rows in scopes of equal sizes, `tensors` are the scope's, met so far."""

    row: Row
    scope: Scope
    prefix: str
    alike: int
    tensors: dict[str, LogicalTensor] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return self.scope.logical or self.scope.kind


class Templates:
    """The kinds of a layout as they are laid: equal rows once for the same windows; in a scope they only bear its names."""

    def __init__(self) -> None:
        self.kinds: list[Laid] = []
        self._numbers: dict[tuple[Row, frozenset[tuple[str, int]]], int] = {}
        self._bare: dict[tuple[int, Windows], tuple[Laid, ...]] = {}

    def of(self, scope: Scope, rows: tuple[Row, ...], prefix: str) -> list[Template]:
        """A scope's rows; `prefix` goes before their stored names."""
        tensors: dict[str, LogicalTensor] = {}
        sizes = frozenset(scope.sizes.items())
        return [Template(each, scope, prefix, self._numbers.setdefault((each, sizes), len(self._numbers)), tensors) for each in rows]

    def lay(self, template: Template, windows: Mapping[str, Window], key: Windows) -> range:
        """The new kinds that a row's stored tensors are, by their numbers; `key` are the windows once more, as they can be looked up."""
        bare = self._bare.get((template.alike, key))
        if bare is None:
            bare = tuple(lay(template.row, template.scope.sizes, windows))
            if ANYWHERE in windows:
                bare = tuple(_part(each, windows[ANYWHERE]) for each in bare)
            self._bare[template.alike, key] = bare
        return self.add([renamed(each, template.scope.logical, template.prefix, template.tensors) for each in bare])

    def add(self, tensors: Iterable[Laid]) -> range:
        """Further kinds, by their numbers."""
        first = len(self.kinds)
        self.kinds += tensors
        return range(first, len(self.kinds))


def _part(laid: Laid, window: Window) -> Laid:
    """Of so many equal parts of a stored tensor's first dimension (`window.stop`), the one with the number `window.start`."""
    rows, rest = divmod(laid.shape[0], window.stop)
    if rest:
        raise LayoutError(f"{laid.name} has {laid.shape[0]} rows, which {window.stop} tensor ranks do not divide")
    first = (window.start * rows, *(0 for _ in laid.shape[1:]))
    return cut_laid(laid, first, (first[0] + rows, *laid.shape[1:]))


def check_module(module: str, places: Collection[str], framework: str) -> None:
    """Raises LayoutError for a module that a framework has no place for: a tower's layers bear the names that a decoder's do."""
    if module not in places:
        raise LayoutError(
            f"{framework} has no place for the {module} of a model: source.modules: [text_decoder] converts its text decoder alone",
            do="set that, or convert to a format that keeps models of several modules: huggingface, dcp, mindspeed-mm",
        )


def rows_that_fit(scope: Scope, model: Model, table: Rows, framework: str) -> Rows:
    """The rows of a framework's table that hold a scope's logical tensors; optional where a checkpoint of the family may do without.

    Copies (`Model.same_as`) need no row. Raises LayoutError if another logical tensor has no place in the table.
    """
    if model.family.instead and scope.kind == "output" and scope.module == DECODER:
        raise LayoutError(
            f"{framework} has no place for the head of {model.family.name} as {model.family.instead}: it trains language models",
            do="convert to a format that keeps any tensors: huggingface, dcp",
        )
    absent = frozenset(each.name for row in table for each in row.logicals) - scope.logicals
    copies = {name for name in scope.logicals if scope.logical + name in model.same_as}
    optionals = scope.optionals - copies - {EMBEDDING.name}
    kept = [row for candidate in table if (row := candidate.without(absent)) is not None]
    rows = tuple([replace(row, optional=True) if all(part.name in optionals for part in row.logicals) else row for row in kept])
    homeless = scope.logicals - copies - {each.name for row in rows for each in row.logicals}
    is_tied = scope.kind == "output" and scope.module == DECODER and model.tied
    if homeless and scope.kind != "last_embedding" and not is_tied:
        raise LayoutError(f"{framework} has no place for {', '.join(sorted(homeless))} of {model.family.name}")
    return rows


def lay_table(
    model: Model, table: Callable[[Scope], tuple[tuple[Row, ...], str]], windows: Callable[[Row], Mapping[str, Window]] = lambda row: {}
) -> Layout:
    """Every tensor once, in the model's order, and what is carried: its file is told by its name alone.

    `table` gives a scope's rows and the prefix of their names, `windows` what a row is padded to.
    """
    templates = Templates()
    entries: list[Entry] = []
    for scope in model.scopes:
        for template in templates.of(scope, *table(scope)):
            held, unit = windows(template.row), template.unit
            entries += [quick(Entry, ("", kind, unit, False)) for kind in templates.lay(template, held, frozenset(held.items()))]
    entries += [Entry("", kind, "carried") for kind in templates.add(model.lay_carried())]
    return Layout(tuple(templates.kinds), tuple(entries))
