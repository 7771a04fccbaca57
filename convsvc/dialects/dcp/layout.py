"""Where each logical tensor lies in a torch distributed checkpoint: Hugging Face's tensors, cut into boxes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from convsvc.dialects.cuts import Cut, cut_layout
from convsvc.dialects.diffusers.layout import Settings as Published
from convsvc.dialects.diffusers.layout import lay_form
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.layout import Layout
from convsvc.dialects.named import lay_named, with_copies
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.spelling import Spelling

SHOWN = 12
PLAIN = Spelling({})


@dataclass(frozen=True, slots=True)
class Settings:
    """How a checkpoint is laid out: what of each tensor (by the family's name) lies where, the tensors' whole
    shapes, and which packed rows are stored.

    A target's have `prefix` before its names, which are spelled as `spelling` has it, and `shards` pieces of each tensor; experts in the
    forms of `experts`; `copies` are written once more. `folder` is where its files lie. `diffusion` is how a diffusion model's are named.
    """

    cuts: Mapping[str, tuple[Cut, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    packed: tuple[str, ...] = ()
    prefix: str = ""
    shards: int = 1
    spelling: Spelling = PLAIN
    experts: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    diffusion: Published | None = None

    def described(self) -> dict[str, int | str]:
        """The settings in JSON, for people."""
        pieces = sum(map(len, self.cuts.values()))
        said: dict[str, int | str] = {"pieces": pieces} if pieces else {}
        return said | ({"prefix": self.prefix} if self.prefix else {}) | ({"shards": self.shards} if self.shards > 1 else {})


def lay_source(model: Model, settings: Settings) -> Layout:
    """The boxes that there are; of a tensor that nothing holds the whole, which is missing then.

    Raises LayoutError for tensors that have another shape than the model's.
    """
    whole = lay_model(model, frozenset(settings.packed))
    cuts: dict[str, tuple[Cut, ...]] = {}
    faults: list[str] = []
    for laid in whole.kinds:
        stored = next((name for name in (laid.name, *laid.also) if name in settings.cuts), None)
        cuts[laid.name] = (Cut("", (0,) * len(laid.shape), laid.shape),) if stored is None else settings.cuts[stored]
        if stored is not None and settings.shapes[stored] != laid.shape:
            faults.append(f"{stored}: expected {list(laid.shape)}, found {list(settings.shapes[stored])}")
    if faults:
        raise LayoutError(
            f"{len(faults)} tensors have other shapes than this {model.family.name} has",
            facts=faults[:SHOWN],
            do="give the config.json of this very checkpoint (source.config_dir)",
        )
    return cut_layout(whole, cuts)


def lay_target(model: Model, settings: Settings) -> Layout:
    """Every tensor that is written, under its prefixed name; where there are several shards, cut along its first dimension."""
    named = lay_named(model, settings.experts) if settings.diffusion is None else lay_form(model, settings.diffusion)
    whole = with_copies(named, settings.copies)
    spelling = settings.spelling
    if spelling:
        spelling.check([laid.name for laid in whole.kinds], "target.names")
    prefix, spelled = settings.prefix, spelling.stored if spelling else str
    kinds = tuple([laid._replace(name=prefix + spelled(laid.name)) for laid in whole.kinds])
    spelled_out = Layout(kinds, tuple([entry for entry in whole.entries if kinds[entry.kind].written]))
    if settings.shards == 1:
        return spelled_out
    by_shape = {shape: fsdp_cuts(shape, settings.shards, settings.folder) for shape in {laid.shape for laid in kinds}}
    return cut_layout(spelled_out, {laid.name: by_shape[laid.shape] for laid in kinds})


def fsdp_cuts(shape: tuple[int, ...], shards: int, folder: str = "") -> tuple[Cut, ...]:
    """The pieces of a tensor over ranks, as torch.chunk and so fully_shard cuts them: equal ones, then a smaller one, then none.

    >>> [(cut.file, cut.starts, cut.stops) for cut in fsdp_cuts((5, 2), 4)]
    [('__0_0.distcp', (0, 0), (2, 2)), ('__1_0.distcp', (2, 0), (4, 2)), ('__2_0.distcp', (4, 0), (5, 2))]
    """
    if not shape:
        return (Cut(folder + rank_file(0), (), ()),)
    rows = -(-shape[0] // shards)
    starts = range(0, shape[0], rows) if rows else (0,)
    rest = shape[1:]
    return tuple(
        Cut(folder + rank_file(rank), (start, *(0,) * len(rest)), (min(start + rows, shape[0]), *rest)) for rank, start in enumerate(starts)
    )


def rank_file(rank: int, number: int = 0) -> str:
    """A file's name as torch's FileSystemWriter gives it: the rank that writes it, and the number of its file."""
    return f"__{rank}_{number}.distcp"
