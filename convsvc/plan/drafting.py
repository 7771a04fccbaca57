"""A draft of a family file for a checkpoint that no family is known for: what `inspect --draft-family` prints. Reads headers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from typing import Any

import convsvc.blocks
import convsvc.families
from convsvc.dialects import source_of
from convsvc.families import FAMILIES
from convsvc.models.detect import text_part
from convsvc.models.draft import Shapes, SizeFunction, Table, draft_family
from convsvc.models.draft_text import draft_text
from convsvc.models.facts import Facts
from convsvc.plan.inspect import ask_for
from convsvc.plan.quantised import join_pieces
from convsvc.roots import ANYWHERE, RootedPath, Roots
from convsvc.tensors.declare import Row


def draft_of(path: str, roots: Roots = ANYWHERE) -> str:
    """The family file's text for the text decoder of the checkpoint at `path`.

    Raises SourceError where there is no checkpoint with a configuration, or none with layers.
    """
    asked = ask_for(RootedPath(path, roots))
    checkpoint = join_pieces(source_of(asked.source.format).open(asked.source, roots))
    shapes = {name: found.tensor.shape for (_, name), found in checkpoint.found.items()}
    text = text_part(checkpoint.facts)
    own = {name: value for name, value in text.facts.values.items() if not isinstance(value, Mapping) or name not in text.others}
    facts = Facts(own, text.facts.origin)
    return draft_text(draft_family(facts, _decoder(shapes), FAMILIES.values(), tables(), size_functions()))


def _decoder(shapes: Shapes) -> Shapes:
    """The text decoder's tensors, under the names that it would have alone."""
    bodies = [name.partition("embed_tokens.")[0] for name in shapes if name.endswith("embed_tokens.weight")]
    body = next((each for each in bodies if each.endswith("model.") and each != "model." and "visual" not in each), None)
    if body is None:
        return shapes
    inside = {"model." + name.removeprefix(body): shape for name, shape in shapes.items() if name.startswith(body)}
    heads = [shape for name, shape in shapes.items() if name.endswith("lm_head.weight")]
    return inside | dict.fromkeys(["lm_head.weight"][: len(heads)], heads[0] if heads else ())


def tables() -> list[Table]:
    """Every table of rows that a module of the blocks or the families keeps under a name."""
    return [
        Table(module.__name__, name, value)
        for module in _modules()
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, tuple) and value and all(isinstance(each, Row) for each in value)
    ]


def size_functions() -> dict[tuple[str, str], SizeFunction]:
    """Every function of theirs from a configuration to axes' lengths."""
    return {
        (module.__name__, name): value
        for module in _modules()
        for name, value in vars(module).items()
        if name.endswith("sizes") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    }


def _modules() -> Iterator[Any]:
    """The modules of the blocks and the families, without those of towers."""
    for package in (convsvc.blocks, convsvc.families):
        for info in sorted(iter_modules(package.__path__), key=lambda info: info.name):
            module = import_module(f"{package.__name__}.{info.name}")
            if not any(name.endswith("sizes") and _takes_more(value, module) for name, value in vars(module).items()):
                yield module


def _takes_more(value: Any, module: Any) -> bool:
    """Whether it is a function of a tower's own facts and of the model's."""
    return getattr(value, "__module__", None) == module.__name__ and callable(value) and len(signature(value).parameters) > 1
