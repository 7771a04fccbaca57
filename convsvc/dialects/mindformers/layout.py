"""Where each logical tensor lies in a checkpoint of MindSpore Transformers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from convsvc.dialects.base import Entry, Layout
from convsvc.dialects.mindformers.tables import Flags, prefix_of, rows_of
from convsvc.dialects.templates import lay_table
from convsvc.formats.strategy.records import ParameterLayout
from convsvc.models.model import Model
from convsvc.tensors.blocks import Laid, Window
from convsvc.tensors.boxes import Box
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


def layout(model: Model, settings: Settings) -> Layout:
    """Every stored tensor, whole (its file is told by its name alone) or as it is cut."""
    whole = lay_whole(model, settings)
    return _cut(whole, settings.cuts) if settings.cuts else whole


def lay_whole(model: Model, settings: Settings) -> Layout:
    """Every tensor whole."""
    padded = {} if settings.padded_vocab is None else {"vocab": Window(0, settings.padded_vocab)}
    return lay_table(
        model,
        lambda scope: (rows_of(scope, model, settings.flags), prefix_of(scope)),
        lambda row: padded if row.tp == "vocab" else {},
    )


def _cut(whole: Layout, cuts: Mapping[str, tuple[Cut, ...]]) -> Layout:
    """What of each tensor lies in which files; files that hold the same box of it hold the same kind."""
    kinds: list[Laid] = []
    entries: list[Entry] = []
    for entry in whole.entries:
        laid = whole.kinds[entry.kind]
        numbers: dict[Box, int] = {}
        for cut in cuts.get(laid.name, ()):
            box = Box(cut.starts, cut.stops)
            if box not in numbers:
                numbers[box] = len(kinds)
                kinds.append(cut_laid(laid, *box))
            entries.append(Entry(cut.file, numbers[box], entry.unit, cut.spare))
    return Layout(tuple(kinds), tuple(entries))
