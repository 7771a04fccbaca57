"""LoRA adapters in rank files of their own beside their base, which is cut in its own way or lies in a Hugging Face directory.

Each side is cut as its matrix is; of one that lies on several ranks these are its pieces (`AdapterFacts.pieces`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from convsvc.dialects.base import Source
from convsvc.dialects.checkpoint import AdapterFacts, Checkpoint, Found, SourceFile
from convsvc.dialects.diffusers.adapters import name_adapters
from convsvc.dialects.diffusers.layout import Settings as Published
from convsvc.dialects.diffusers.layout import lay_form, seen_of
from convsvc.dialects.iterations import TRACKER
from convsvc.dialects.joined import shifted
from convsvc.dialects.mindspeed_mm_sora.form import FORMAT
from convsvc.dialects.mindspeed_mm_sora.job import SoraSource
from convsvc.dialects.mindspeed_mm_sora.layout import Settings, lay_ranks, placed
from convsvc.dialects.mindspeed_mm_sora.seen import BESIDE
from convsvc.dialects.mindspeed_mm_sora.tables import forms
from convsvc.errors import SourceError
from convsvc.families import find_family
from convsvc.models.diffusion import Diffusion, Spelling, scopes_of
from convsvc.models.model import Model
from convsvc.roots import RootedPath
from convsvc.tensors.boxes import Box

SIDE, DEFAULT, LORA = ".lora_", ".default", "-lora"
Pieces = dict[str, dict[Box, Found]]


@dataclass(frozen=True, slots=True)
class Saved:
    """Adapters in rank files: the model that they are, and each side's pieces by its logical name; shapes are of whole sides."""

    files: tuple[SourceFile, ...]
    model: Model
    pieces: Pieces
    shapes: Mapping[str, tuple[int, ...]]


def is_rank_files(root: RootedPath) -> bool:
    """Whether a directory holds rank files."""
    return root.is_dir() and ((root / TRACKER).is_file() or any(name.startswith("mp_rank_") for name in root.names()))


def open_adapters(reader: Source, root: RootedPath) -> Saved:
    """The adapters in rank files. Raises SourceError for what is none, FormatError; PathRefused."""
    source = SoraSource(format=FORMAT, path=root.path)
    checkpoint = reader.open(source, root.roots)
    family = find_family(None, checkpoint.facts) if checkpoint.facts.get("model_type_hf") else None
    if not isinstance(family, Diffusion) or not family.name.endswith(LORA):
        raise SourceError(
            f"source.lora.path: {root} holds no adapters alone that are known", do="give the rank files that training saved them in"
        )
    checkpoint = reader.by_family_names(checkpoint, family)
    model = family.build(checkpoint.facts)
    settings = reader.settings(source, checkpoint, model)
    layout = lay_ranks(model, settings)
    pieces: Pieces = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in layout.entries:
        laid = layout.kinds[entry.kind]
        found = checkpoint.found.get((entry.file, laid.name))
        if found is None or found.tensor.shape != laid.shape:
            there = "missing" if found is None else f"{list(found.tensor.shape)}, expected {list(laid.shape)}"
            raise SourceError(f"source.lora.path: {entry.file}: {laid.name} is {there}", do="see that its files are of one checkpoint")
        (block,) = laid.blocks
        shapes[block.tensor.name] = block.tensor.sizes
        pieces.setdefault(block.tensor.name, {}).setdefault(Box(block.starts, block.stops), found)
    return Saved(checkpoint.files, model, pieces, shapes)


def with_rank_adapters(reader: Source, base: Checkpoint, root: RootedPath) -> Checkpoint:
    """A Hugging Face base with the adapters beside its weights, in the names of the form that it has. Raises SourceError for another's."""
    saved = open_adapters(reader, root)
    family = saved.model.family
    assert isinstance(family, Diffusion)
    named = [_names(saved.model, form) for form in family.forms]
    own = {name for _, name in base.found}
    names = max(named, key=lambda each: sum(_weight(name) in own for name in each.values()))
    found = dict(base.found)
    for logical, name in names.items():
        first = next(iter(saved.pieces[logical].values()))
        found["", name] = _whole(first, saved.shapes[logical], len(base.files))
    facts = AdapterFacts(str(root), pieces={name: _pieces(saved.pieces[logical], len(base.files)) for logical, name in names.items()})
    return replace(base, files=(*base.files, *saved.files), found=found, lora=facts)


def beside_ranks(reader: Source, base: Checkpoint, root: RootedPath) -> Checkpoint:
    """Rank files with the adapters beside their weights, wherever the layers of both lie. Raises SourceError for another model's."""
    saved = open_adapters(reader, root)
    base = name_adapters(base)
    family = find_family(None, base.facts)
    opened = reader.by_family_names(base, family)
    settings: Settings = opened.settings
    model = family.build(opened.facts)
    found = dict(base.found)
    if not saved.model.family.name.startswith(family.name):
        raise SourceError(f"source.lora.path: {root} holds adapters of {saved.model.family.title}, {base.path} is {family.title}")
    for logical, key in _places(saved.model, model, settings).items():
        if len(saved.pieces[logical]) > 1:
            raise SourceError(f"source.lora.path: {root} has {key[1]} in several pieces", do="cut it over one tensor rank first (resplit)")
        found[key] = shifted({key: next(iter(saved.pieces[logical].values()))}, len(base.files))[key]
    files = tuple(replace(file, name=BESIDE + file.name) for file in saved.files)
    return replace(base, files=(*base.files, *files), found=found, lora=AdapterFacts(str(root)))


def _places(adapters: Model, model: Model, settings: Settings) -> dict[str, tuple[str, str]]:
    """Where each side lies beside the weights of rank files, by its logical name. Raises SourceError for layers that they lack."""
    prefixes = {
        (scope.module, scope.number): (settings.file(0, stage), f"{settings.chunk_key(chunk)}/{settings.prefix}{prefix}")
        for scope, stage, chunk, prefix in placed(model, settings)
        if scope.kind == "layer"
    }
    places: dict[str, tuple[str, str]] = {}
    form = forms()[adapters.family.name].spelling
    for scope, name, logical in _rows(adapters, form):
        if scope not in prefixes:
            raise SourceError(f"the adapters are of layer {scope[1]} of the {scope[0]}, which the base has not", do="give their own base")
        file, prefix = prefixes[scope]
        places[logical] = file, prefix + name
    return places


def _rows(model: Model, form: Spelling) -> Iterator[tuple[tuple[str, int | None], str, str]]:
    logical = {scope.logical for scope in model.scopes}
    for scope in scopes_of(form, seen_of(model)):
        for row in scope.rows if scope.logical in logical else ():
            yield (scope.module, scope.number), row.stored, scope.logical + row.parts[0].logical.name


def _names(model: Model, form: Spelling) -> dict[str, str]:
    """The published name of each side, by its logical name."""
    layout = lay_form(model, Published(form))
    return {laid.blocks[0].tensor.name: laid.name.replace(DEFAULT, "") for laid in layout.kinds}


def _weight(side: str) -> str:
    return side.partition(SIDE)[0] + ".weight"


def _whole(first: Found, shape: tuple[int, ...], by: int) -> Found:
    return first._replace(file=first.file + by, tensor=first.tensor._replace(shape=shape))


def _pieces(pieces: Mapping[Box, Found], by: int) -> tuple[tuple[Box, Found], ...]:
    return tuple((box, each._replace(file=each.file + by)) for box, each in pieces.items())
