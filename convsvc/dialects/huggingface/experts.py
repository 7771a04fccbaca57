"""Which form a layer's experts have in a new directory: each expert's matrices a tensor of their own, or all experts' in one.

A family's own rows have one form, its `packed` rows may have the other: a table each, with its own names and order of axes. Pure, but for
`forms_in`, which reads the names of what lies in a directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from convsvc.dialects.huggingface.checkpoint import open_directory
from convsvc.dialects.huggingface.job import HuggingFaceSource
from convsvc.dialects.huggingface.layout import Settings
from convsvc.dialects.huggingface.weight_files import choose_files
from convsvc.errors import ConvsvcError, JobError, PathRefused
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.roots import RootedPath
from convsvc.tensors.declare import Row

AS_CONFIG_DIR, PER_EXPERT, FUSED = "as-config-dir", "per-expert", "fused"
WORDS = {PER_EXPERT: "one by one", FUSED: "all in one tensor"}
# By whether MTP layers are spoken of, which may have another form than the layers before them (Qwen3.5 as published).
Forms = Mapping[bool, str]

_NAMED = re.compile(r"(?:^|\.)experts\.(?:(?P<number>\d+)\.|(?:gate_up|gate_and_up|up|down)_projs?(?:[._]|$))")


def form_of(rows: Iterable[Row]) -> str | None:
    """The form in which rows hold experts; None where they hold none."""
    rows = tuple(rows)
    if any(_is_stack(each) for each in rows):
        return FUSED
    return PER_EXPERT if any("expert" in each.looped for each in rows) else None


def _is_stack(row: Row) -> bool:
    """Whether it holds all experts' matrices: a router has a row an expert, too, but no more axes."""
    return "expert" not in row.looped and any("expert" in each.axes and len(each.axes) > 2 for each in row.logicals)


def rows_as(form: str, scope: Scope, model: Model) -> Rows | None:
    """The `packed` rows that hold a scope's experts in this form; nothing where its own do. None where the family knows no such form."""
    if form_of(scope.rows) in (None, form):
        return ()
    held = scope.logicals
    rows = tuple(each for each in model.family.packed if held.issuperset(part.name for part in each.logicals))
    if form_of(rows) != form or (form == FUSED and not model.family.stacked):
        return None
    need = {each.name for row in scope.rows for each in row.logicals if _is_stack(row) or "expert" in row.looped}
    return rows if need <= {each.name for row in rows for each in row.logicals} else None


def packed_as(form: str, model: Model) -> frozenset[str]:
    """The stored names of the `packed` rows with which all experts have this form. Raises JobError where the family has none for it."""
    sparse = [scope for scope in model.scopes if form_of(scope.rows) is not None]
    if not sparse:
        raise JobError(f"target.experts is {form!r}: this model, {model.family.name}, has no experts", do="leave it out")
    names: set[str] = set()
    for scope in sparse:
        rows = rows_as(form, scope, model)
        if rows is None:
            raise JobError(
                f"target.experts is {form!r}: {model.family.name} keeps experts {WORDS[str(form_of(scope.rows))]}; "
                f"that transformers loads them {WORDS[form]} is not known",
                do=f"leave it out, or say {form_of(scope.rows)!r}",
            )
        names.update(scope.prefix + each.stored for each in rows)
    return frozenset(names)


def packed_like(forms: Forms, model: Model, apart: bool) -> frozenset[str]:
    """The same where experts have the forms that lie elsewhere; a scope keeps its own form where its family has no other.

    Without `apart` none is taken apart that its family stacks: only what quantised it stores it so, transformers does not load it.
    """
    names: set[str] = set()
    for scope in model.scopes:
        form = forms.get(scope.kind.startswith("mtp"), forms.get(False))
        rows = rows_as(form, scope, model) if form == FUSED or (form and apart) else ()
        names.update(scope.prefix + each.stored for each in rows or ())
    return frozenset(names)


def packed_again(settings: object, read: Model, model: Model, apart: bool) -> frozenset[str]:
    """The `packed` rows of a source (the `packed` of its settings, under its layers' numbers) by the numbers that are written.

    `apart` as in `packed_like`.
    """
    there = frozenset(getattr(settings, "packed", None) or ())
    return frozenset(
        new.prefix + each.stored
        for old, new in (zip(read.scopes, model.scopes, strict=True) if there else ())
        for each in model.family.packed
        if old.prefix + each.stored in there and form_of(old.rows) is not None and (apart or "expert" not in each.looped)
    )


def settings_of(packed: frozenset[str]) -> Settings | None:
    """The settings for these rows."""
    return Settings(tuple(sorted(packed))) if packed else None


def forms_in(folder: RootedPath) -> Forms:
    """The forms of the experts that lie in a directory, by their names, quantised or not; nothing where there are none to be read."""
    try:
        names: Iterable[str] = choose_files(folder).weight_map
        if not names:
            opened = open_directory(HuggingFaceSource(format="huggingface", path=folder.path), folder.roots)
            names = [name for _, name in opened.found]
    except PathRefused:
        raise
    except ConvsvcError:
        return {}  # a directory of words alone is one, too; of its weights nothing is converted
    forms: dict[bool, str] = {}
    for name in names:
        if (found := _NAMED.search(name)) and (is_mtp := "mtp." in name) not in forms:
            forms[is_mtp] = PER_EXPERT if found["number"] else FUSED
    return forms
