"""What a row is for some windows, without names: the layers of one kind, a trillion parameters' sixty, differ in nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from convsvc.models.scope import Scope
from convsvc.tensors.blocks import Laid, LogicalTensor, Window, lay, renamed
from convsvc.tensors.declare import Row

Windows = frozenset[tuple[str, Window]]
WHOLE: Windows = frozenset()


@dataclass(frozen=True, slots=True)
class Template:
    """A row in a scope: `kind` is the same for equal rows in scopes of equal sizes, `tensors` are the scope's, met so far."""

    row: Row
    scope: Scope
    prefix: str
    kind: int
    tensors: dict[str, LogicalTensor] = field(default_factory=dict)


class Templates:
    """Lays each kind of row once for the same windows; what it is in a scope is that with the scope's names."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[Row, frozenset[tuple[str, int]]], int] = {}
        self._laid: dict[tuple[int, Windows], tuple[Laid, ...]] = {}

    def of(self, scope: Scope, rows: tuple[Row, ...], prefix: str) -> list[Template]:
        """A scope's rows; `prefix` goes before their stored names."""
        tensors: dict[str, LogicalTensor] = {}
        sizes = frozenset(scope.sizes.items())
        return [Template(each, scope, prefix, self._kinds.setdefault((each, sizes), len(self._kinds)), tensors) for each in rows]

    def lay(self, template: Template, windows: Mapping[str, Window], key: Windows) -> tuple[Laid, ...]:
        """The stored tensors of a row; `key` are the windows once more, as they can be looked up."""
        if (template.kind, key) not in self._laid:
            self._laid[template.kind, key] = tuple(lay(template.row, template.scope.sizes, windows))
        bare = self._laid[template.kind, key]
        return tuple([renamed(each, template.scope.logical, template.prefix, template.tensors) for each in bare])
