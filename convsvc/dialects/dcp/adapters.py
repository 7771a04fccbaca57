"""LoRA adapters in a torch distributed checkpoint of their own beside their Hugging Face base: what MindSpeed-MM trains is saved so."""

from __future__ import annotations

from dataclasses import replace

from convsvc.dialects.checkpoint import AdapterFacts, Checkpoint, Found
from convsvc.dialects.dcp.checkpoint import open_checkpoint
from convsvc.dialects.dcp.job import DcpSource
from convsvc.dialects.dcp.opened import Opened
from convsvc.errors import SourceError
from convsvc.roots import RootedPath
from convsvc.spec import Lora
from convsvc.tensors.boxes import Box

SIDE, BESIDE = ".lora_", "beside the adapters"


def with_saved_adapters(base: Checkpoint, lora: Lora, root: RootedPath) -> Checkpoint:
    """The base with the adapters' tensors beside its own: of each its whole shape, and the pieces that it is saved in.

    Raises SourceError for weights that are no adapters: what was trained whole would be lost.
    """
    there = open_checkpoint(DcpSource(format="dcp", path=root.path, names=lora.names), root.roots)
    opened: Opened = there.settings
    others = [name for name in opened.shapes if SIDE not in name]
    if others:
        raise SourceError(
            f"source.lora.path: {root} holds {len(others)} tensor(s) {BESIDE}, e.g. {others[0]}",
            do="give a checkpoint of the adapters alone",
        )
    twice = [name for name, cuts in opened.cuts.items() if any(cut.seams for cut in cuts)]
    if twice:
        raise SourceError(f"source.lora.path: {root}: chunks of {len(twice)} adapter(s) overlap, e.g. of {twice[0]}", do="save it again")
    found = dict(base.found)
    pieces: dict[str, tuple[tuple[Box, Found], ...]] = {}
    for name, cuts in opened.cuts.items():
        once = {Box(cut.starts, cut.stops): there.found[cut.file, name] for cut in reversed(cuts)}
        pieces[name] = tuple((box, each._replace(file=each.file + len(base.files))) for box, each in once.items())
        first = pieces[name][0][1]
        found["", name] = first._replace(tensor=first.tensor._replace(shape=opened.shapes[name]))
    facts = AdapterFacts(str(root), pieces=pieces)
    return replace(base, files=(*base.files, *there.files), found=found, lora=facts, notes=(*base.notes, *there.notes))
