"""Where each logical tensor lies in a checkpoint of MindSpore Transformers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from convsvc.dialects.base import Entry
from convsvc.dialects.mindformers.tables import Flags, prefix_of, rows_of
from convsvc.dialects.templates import Templates
from convsvc.formats.strategy.records import ParameterLayout
from convsvc.models.model import Model
from convsvc.tensors.blocks import Laid, Window
from convsvc.tensors.runs import cut_laid


@dataclass(frozen=True, slots=True)
class Cut:
    """What a file holds of a tensor: the box `starts:stops` of the whole; `spare` where another file may hold it instead."""

    file: str
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """How a checkpoint is laid out: by which flags; how many rows a vocabulary has where some are padding; and, where it is cut, what of
    each tensor (by its stored name) lies in which files, and, to be written, the stages' strategies."""

    flags: Flags
    padded_vocab: int | None = None
    cuts: Mapping[str, tuple[Cut, ...]] = field(default_factory=dict)
    strategies: Mapping[int, Mapping[str, ParameterLayout]] = field(default_factory=dict)

    def described(self) -> dict[str, int | bool]:
        """The settings in JSON, for people: the flags always, as no file says them."""
        files = {cut.file for cuts in self.cuts.values() for cut in cuts}
        cut = {"rank_files": len(files)} if files else {}
        return {**asdict(self.flags), **({"padded_vocab": self.padded_vocab} if self.padded_vocab else {}), **cut}


def layout(model: Model, settings: Settings) -> tuple[Entry, ...]:
    """Every stored tensor, whole (its file is told by its name alone) or as it is cut."""
    if not settings.cuts:
        return tuple(Entry("", laid, unit) for laid, unit in lay_whole(model, settings))
    return tuple(_cut(model, settings))


def lay_whole(model: Model, settings: Settings) -> Iterator[tuple[Laid, str]]:
    """Every whole tensor in the model's order, with its unit."""
    templates = Templates()
    padded = {} if settings.padded_vocab is None else {"vocab": Window(0, settings.padded_vocab)}
    for scope in model.scopes:
        for template in templates.of(scope, rows_of(scope, model, settings.flags), prefix_of(scope)):
            windows = padded if template.row.tp == "vocab" else {}
            yield from ((laid, scope.logical or scope.kind) for laid in templates.lay(template, windows, frozenset(windows.items())))
    yield from ((laid, "carried") for laid in model.lay_carried())


def _cut(model: Model, settings: Settings) -> Iterator[Entry]:
    for laid, unit in lay_whole(model, settings):
        pieces: dict[tuple[tuple[int, ...], tuple[int, ...]], Laid] = {}
        for cut in settings.cuts.get(laid.name, ()):
            box = cut.starts, cut.stops
            if box not in pieces:
                pieces[box] = cut_laid(laid, *box)
            yield Entry(cut.file, pieces[box], unit)
