"""A page a model family, made from the declarations: `python -m convsvc.dialects.family_pages docs/families`.

Which rows a family has depends on the configuration, so a made-up one stands for all: every flag is on, one layer of four is dense.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import convsvc.families
from convsvc.dialects import target_of
from convsvc.dialects.base import Target
from convsvc.dialects.diffusion_pages import tables
from convsvc.dialects.family_example import example_model
from convsvc.dialects.family_matrix import markdown
from convsvc.errors import LayoutError
from convsvc.families import FAMILIES, Family, Model
from convsvc.models.diffusion import Diffusion
from convsvc.models.scope import DECODER, Scope
from convsvc.models.towers import Tower
from convsvc.spec import parse_target
from convsvc.spec.formats import sides
from convsvc.tensors.declare import Logical, Part, Row
from convsvc.tensors.notation import Order

COLUMNS, RULE = "| axes as stored | cut along |", "---|---|---|"
# What training shares with another tensor, or has no place for.
NOWHERE = ["no place of its own", "", ""]
ABOUT = """What `model_type` may be, where each family's tensors lie (its page), and what can be done with it: made from the
declarations, from what Hugging Face's target and a LoRA adapter find weights for in an example of the family, and from the tables of the
tests in which a client of the ecosystem gave the same before a conversion and after. An encoding or an adapter that finds weights was tried
with some families, not with all.
`convsvc families --json` has the same. A text decoder that stands in a model of more modules is converted by
`source.modules: [text_decoder]`."""
AXES = {
    "vocab": "the vocabulary, without padding",
    "hidden": "hidden_size",
    "group": "key-value heads; a group is a key-value head with the queries that share it",
    "query": "queries of a group",
    "slot": "what a group has: its queries, its key, its value",
    "head_dim": "a head's width",
    "glu": "0 the gate, 1 up",
    "ffn": "intermediate_size",
    "expert": "routed experts",
    "expert_ffn": "an expert's intermediate size",
    "shared_ffn": "the intermediate size of all shared experts together",
    "head": "attention heads",
    "q_rank": "q_lora_rank",
    "kv_rank": "kv_lora_rank",
    "latent": "kv_lora_rank and the shared rotary key",
    "query_dim": "a query's part without position, then its rotary part",
    "key_value": "a key's part without position, then the value",
    "value_dim": "v_head_dim",
    "part": "0 the embedding, 1 the hidden state",
}


Places = dict[str, list[tuple[Row, Part]]]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the model with one table: its heading, a scope that stands for it, and what goes before Hugging Face's names."""

    heading: str
    scope: Scope
    prefix: str


@dataclass(frozen=True, slots=True)
class Form:
    """A format as it is written for a model."""

    target: Target
    model: Model
    settings: Any


def page(family: Family, notes: str | None = None) -> str:
    """The family's page in Markdown. Pure."""
    if isinstance(family, Diffusion):
        return "\n".join([f"# {family.title}", "", *_about(family), "", *tables(family), *_end(notes)])
    model = example_model(family)
    sections = list(_sections(model))
    lines = [f"# {family.title}", "", *_about(family), ""]
    told = [_told(target, model, sections) for target in tabled() if family.towers or not target.of_modules]
    if family.towers or all(refused for _, refused in told):
        lines += _names(sections)
    lines += [line for each, _ in told for line in each]
    return "\n".join([*lines, *_axes(sections), *_end(notes)])


def _end(notes: str | None) -> list[str]:
    lines = [] if not notes else ["## Differences from MindSpeed-LLM's converter", "", notes.partition("\n")[2].strip(), ""]
    return [
        *lines,
        "<!-- Made by `python -m convsvc.dialects.family_pages docs/families`; change the declarations or notes/ instead. -->",
        "",
    ]


def _told(target: Target, model: Model, sections: list[Section]) -> tuple[list[str], bool]:
    """What is said of a framework, and whether it refuses the family."""
    heading = [f"## {target.title}", ""]
    try:
        tables = list(_tables(Form(target, model, _settings(target, model)), sections))
        return [*heading, *tables, *_variants(target, model.family)], False
    except LayoutError as error:
        return [*heading, f"Refused: {error.message}.", ""], True


def pages(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every page with its path; the text in `notes/` of the folder goes into it."""
    names = sorted(FAMILIES, key=str.lower)
    yield folder / "README.md", f"# Model families\n\n{ABOUT}\n\n{markdown()}"
    for name in names:
        notes = folder / "notes" / f"{name}.md"
        yield folder / f"{name}.md", page(FAMILIES[name], notes.read_text() if notes.is_file() else None)


def tabled() -> list[Target]:
    """The formats that have tables of their own, by their titles."""
    targets = [target for target in map(target_of, sides("TARGET")) if target.title is not None]
    return sorted(targets, key=lambda target: str(target.title))


def _settings(target: Target, model: Model, **stated: object) -> Any:
    return target.settings(parse_target({"format": target.name, "path": "/", **stated}), model)


def _about(family: Family) -> Iterator[str]:
    for info in iter_modules(convsvc.families.__path__):
        module = import_module(f"convsvc.families.{info.name}")
        if family in (getattr(module, "FAMILIES", None) or [getattr(module, "FAMILY", None)]) and module.__doc__:
            yield module.__doc__.strip()
            yield ""
    shown = ", ".join(f"`{each}`" for each in family.architectures) or "none"
    if isinstance(family, Diffusion):
        yield f"`model_type: {family.name}`; found by its tensors' names. Sizes are as their shapes."
        return
    yield f"`model_type: {family.name}`; found by `architectures` in config.json: {shown}."


def _sections(model: Model) -> Iterator[Section]:
    """Embedding, a section for each kind of layer, the MTP layer, what comes last."""
    family = model.family
    for tower in family.towers:
        yield from _tower_sections(tower, [scope for scope in model.scopes if scope.module == tower.name])
    if not family.decoder:
        return
    decoder = [scope for scope in model.scopes if scope.module == DECODER]
    first, last = decoder[0], next(scope for scope in decoder if scope.kind == "output")
    yield Section("Before the layers", first, "")
    kinds: dict[tuple[Row, ...], list[Scope]] = {}
    for layer in model.layers():
        kinds.setdefault(layer.rows, []).append(layer)
    for alike in kinds.values():
        yield Section(_heading(alike[0], model, kinds), alike[0], family.layer_prefix)
    if model.num_mtp:
        assert family.mtp is not None
        own = next(each for each in model.scopes if each.kind == "mtp")
        block = next(each for each in model.scopes if each.kind == "mtp_block")
        where = ", where {layer} counts on after the hidden layers" if "{layer}" in family.mtp.prefix else ""
        yield Section(f"An MTP layer{where}", own, family.mtp.prefix)
        like = next((f", like: {_heading(alike[0], model, kinds)}" for rows, alike in kinds.items() if rows == block.rows), "")
        yield Section(f"Its transformer layer{like}", block, family.mtp.block_prefix or family.mtp.prefix)
    yield Section("After the layers", last, "")
    yield from (Section("A further head", scope, "") for scope in decoder if scope.kind == "head")


def _tower_sections(tower: Tower, scopes: Iterable[Scope]) -> Iterator[Section]:
    """A module beside the decoder: what lies before its layers, each kind of layer, what lies behind."""
    kinds: set[tuple[Row, ...]] = set()
    where = {"embedding": "before the layers", "layer": "a layer", "part": "beside a layer", "output": "after the layers"}
    for scope in scopes:
        if scope.kind in ("layer", "part"):
            if scope.rows in kinds:
                continue
            kinds.add(scope.rows)
        prefix = tower.prefix + tower.layer_prefix if scope.kind == "layer" else scope.prefix
        yield Section(f"{tower.name}: {where[scope.kind]}", scope, prefix)


def _names(sections: Iterable[Section]) -> list[str]:
    """The tensors of a model of several modules by Hugging Face's names, which few frameworks have a place for."""
    lines = ["## Hugging Face", ""]
    for section in sections:
        lines += [f"### {section.heading}", "", "| Hugging Face | axes as stored |", "|---|---|"]
        for row in section.scope.rows:
            parts = "<br>".join(_order(part, row) for part in row.parts)
            lines.append(f"| `{section.prefix}{row.stored}`{' (may be absent)' if row.optional else ''} | {parts} |")
        lines.append("")
    return lines


def _heading(layer: Scope, model: Model, kinds: Iterable[tuple[Row, ...]]) -> str:
    """A kind of layer by what its feed-forward block is; with the example's numbers where that does not tell it from others."""
    if len(tuple(kinds)) == 1:
        return "A layer"
    what = "A dense layer" if layer.dense else "A layer with experts"
    alike = [other.number for other in model.layers() if other.rows == layer.rows]
    if len({other.rows for other in model.layers() if other.dense == layer.dense}) == 1:
        return what
    return f"{what} (as {', '.join(map(str, alike))} of {model.num_layers}, counted from 0)"


def _tables(form: Form, sections: Iterable[Section]) -> list[str]:
    head = f"| Hugging Face | axes as stored | {form.target.title} {COLUMNS}"
    lines: list[str] = []
    for section in sections:
        lines += [f"### {section.heading}", "", head, f"|---|---|{RULE}", *_table(section, _places(section, form)), ""]
    return lines


def _table(section: Section, places: Places) -> Iterator[str]:
    for row in section.scope.rows:
        for part in row.parts:
            where = [place for place in places.get(part.logical.name, ()) if _meet(place[1], part)]
            cells = [[f"`{held.stored}`", _order(at, held), _cut(held)] for held, at in where]
            theirs, order, cut = ("<br>".join(dict.fromkeys(column)) for column in zip(*(cells or [NOWHERE]), strict=True))
            optional = " (may be absent)" if row.optional else ""
            yield f"| `{section.prefix}{row.stored}`{optional} | {_order(part, row)} | {theirs} | {order} | {cut} |"


def _places(section: Section, form: Form) -> Places:
    """By logical tensor: the format's rows that hold it, under their whole names, each with its part. Raises LayoutError."""
    scope, places = section.scope, Places()
    number = ".{layer}." if scope.kind == "layer" else ".{mtp}."
    for row in form.target.rows(scope, form.model, form.settings):
        name = form.target.prefix(scope, form.model) + row.stored
        numbered = name.replace(f".{scope.number}.", number, 1) if scope.kind in ("layer", "mtp", "mtp_block") else name
        for part in row.parts:
            places.setdefault(part.logical.name, []).append((replace(row, stored=numbered), part))
    return places


def _meet(at: Part, part: Part) -> bool:
    """Whether two parts may hold common elements: not where both fix an axis, to different indices."""
    mine, other = dict(at.selection.where), dict(part.selection.where)
    return all(other.get(axis, where) == where or ":" in where + other[axis] for axis, where in mine.items())


def _variants(target: Target, family: Family) -> Iterator[str]:
    """For each form of the target that names or orders tensors otherwise: those tensors. MTP layers have only one form."""
    model = example_model(family, num_mtp=0)
    sections = [section for section in _sections(model) if section.scope.kind == "layer"]
    usual = [_places(section, Form(target, model, _settings(target, model))) for section in sections]
    for heading, stated in target.variants.items():
        try:
            form = Form(target, model, _settings(target, model, **stated))
            lines: dict[str, None] = {}
            for section, before in zip(sections, usual, strict=True):
                lines |= dict.fromkeys(_changed(before, _places(section, form)))
        except LayoutError as error:
            yield from (f"### With {heading}", "", f"Refused: {error.message}.", "")
            continue
        if lines:
            yield from (f"### With {heading}", "", f"| instead of | {target.title} {COLUMNS}", f"|---|{RULE}", *lines, "")


def _changed(before: Places, after: Places) -> Iterator[str]:
    for logical, places in after.items():
        usual = [row for row, _ in before[logical]]
        if [row for row, _ in places] != usual:
            instead = "<br>".join(dict.fromkeys(f"`{row.stored}`" for row in usual))
            for row, part in places:
                yield f"| {instead} | `{row.stored}` | {_order(part, row)} | {_cut(row)} |"


def _axes(sections: Iterable[Section]) -> Iterator[str]:
    logicals: list[Logical] = [each for section in sections for row in section.scope.rows for each in row.logicals]
    used = dict.fromkeys(axis for each in logicals for axis in each.axes if axis in AXES)
    yield from ("## Axes", "", *(f"- `{axis}`: {AXES[axis]}" for axis in used), "")


def _order(part: Part, row: Row) -> str:
    where = ", ".join(f"{axis} {at}" for axis, at in part.selection.where)
    claimed = f", called {_text(row.shape)}" if row.shape else ""
    within = f" within each {row.within}" if row.within else ""
    among = f"part {row.parts.index(part) + 1} of {len(row.parts)}{within}: " if len(row.parts) > 1 else ""
    return f"{among}{_text(part.order)}{f'; {where}' if where else ''}{claimed}"


def _text(order: Order) -> str:
    return " ".join(group[0] if len(group) == 1 else f"({' '.join(group)})" for group in order)


def _cut(row: Row) -> str:
    cuts = (("tp", row.tp), ("ep", row.ep), ("etp", row.etp))
    return ", ".join(f"{name}: {axis}" for name, axis in cuts if axis) or "replicated"


def main(folder: str) -> None:
    """Write all pages into a folder."""
    for path, text in pages(Path(folder)):
        path.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
