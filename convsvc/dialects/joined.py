"""Several directories as one checkpoint: a model whose modules were saved apart, or adapters beside their base. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.errors import SourceError

Key = tuple[str, str]


def join_modules(parts: Mapping[str, Checkpoint], main: str) -> Checkpoint:
    """The checkpoints of a model's modules as one: what lies in FILE of a module's directory lies in MODULE/FILE of it.

    Where a file is told by the tensor's name alone (an entry's file is empty), it stays so, and names must differ between the modules.
    `main` is the module whose facts, path and adapters are the model's; `settings` are the parts', by module. Raises SourceError, naming
    both directories, for a tensor that two of them hold.
    """
    files = tuple(file for part in parts.values() for file in part.files)
    found: dict[Key, Found] = {}
    origin: dict[Key, str] = {}
    first = 0
    for module, part in parts.items():
        for (file, name), each in shifted(part.found, first).items():
            key = (f"{module}/{file}" if file else "", name)
            if key in found:
                raise SourceError(
                    f"{name} is in the directories of two modules: {parts[origin[key]].path} ({origin[key]}) and {part.path} ({module})",
                    do="see which of the two holds the module's weights, and give another directory for the other",
                )
            found[key], origin[key] = each, module
        first += len(part.files)
    notes = tuple(note for part in parts.values() for note in part.notes)
    settings = {module: part.settings for module, part in parts.items()}
    return replace(parts[main], files=files, found=found, settings=settings, notes=notes)


def shifted(found: Mapping[Key, Found], by: int) -> dict[Key, Found]:
    """The tensors with the numbers of their files, and of their pieces', where so many files stand before theirs."""
    if not by:
        return dict(found)
    return {key: _shifted(each, by) for key, each in found.items()}


def _shifted(each: Found, by: int) -> Found:
    encoded = None if each.encoded is None else each.encoded._replace(pieces=tuple(_shifted(piece, by) for piece in each.encoded.pieces))
    return Found(each.file + by, each.tensor, encoded)
