"""Where each logical tensor lies in a checkpoint of MindSpore Transformers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from convsvc.dialects.cuts import Cut, cut_layout
from convsvc.dialects.layout import Layout
from convsvc.dialects.mindformers.tables import Flags, prefix_of, rows_of
from convsvc.dialects.templates import lay_table
from convsvc.formats.strategy.records import ParameterLayout
from convsvc.models.model import Model
from convsvc.tensors.blocks import Window


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
    return cut_layout(whole, settings.cuts) if settings.cuts else whole


def lay_whole(model: Model, settings: Settings) -> Layout:
    """Every tensor whole."""
    padded = {} if settings.padded_vocab is None else {"vocab": Window(0, settings.padded_vocab)}
    return lay_table(
        model,
        lambda scope: (rows_of(scope, model, settings.flags), prefix_of(scope)),
        lambda row: padded if row.tp == "vocab" else {},
    )
