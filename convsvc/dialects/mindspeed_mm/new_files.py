"""New rank files of MindSpeed-MM, and their tracker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convsvc.dialects.alike import plan_alike
from convsvc.dialects.base import Draft, Layout, NewFile, Output, SideFile
from convsvc.dialects.iterations import TRACKER
from convsvc.dialects.mcore.grid import ranks
from convsvc.dialects.mcore.rank_files import chunk_name, rank_file
from convsvc.dialects.mindspeed_mm.job import MindSpeedMMTarget
from convsvc.dialects.mindspeed_mm.settings import FOLDER, Settings
from convsvc.formats import safetensors, torch_zip
from convsvc.formats.base import TensorSpec
from convsvc.notes import Note


def output(draft: Draft[MindSpeedMMTarget, Settings]) -> tuple[Layout, Output]:
    """One file a rank, with a dict for each of its chunks, and one for what is carried; the tracker last."""
    cut, layout, specs = draft.settings.cut, draft.layout, draft.specs()
    chunks = cut.parallel.virtual_stages
    names = [chunk_name(chunk) for chunk in ([None] if chunks is None else range(chunks))]
    kinds: dict[str, list[int]] = {rank_file(rank, cut): [] for rank in ranks(cut.parallel)}
    beside: dict[str, list[TensorSpec]] = {}
    for entry in layout.entries:
        held = kinds.get(entry.file)
        if held is None:
            beside.setdefault(entry.file, []).append(specs[entry.kind])
        else:
            held.append(entry.kind)
    skeletons, chosen = plan_alike(
        kinds.values(), specs, lambda held: torch_zip.plan_skeleton(_tree(held, names), archive="model_optim_rng")
    )
    files = [NewFile(path, "torch_zip", number) for path, number in zip(kinds, chosen, strict=True)]
    files += [NewFile(path, "safetensors", number) for number, path in enumerate(beside, len(skeletons))]
    skeletons += tuple(map(safetensors.plan_skeleton, beside.values()))
    notes = [Note("advice", said) for said in draft.model.advice]
    notes += [Note("carried", f"{len(held)} tensor(s) that training does not load are kept in {path}") for path, held in beside.items()]
    return layout, Output(tuple(files), skeletons, (SideFile(TRACKER, text=FOLDER, last=True),), tuple(notes))


def _tree(specs: Iterable[TensorSpec], chunks: Iterable[str]) -> dict[str, Any]:
    """What a rank file holds: its tensors by model chunk."""
    held: dict[str, dict[str, TensorSpec]] = {chunk: {} for chunk in chunks}
    for spec in specs:
        chunk, _, stored = spec.name.partition("/")
        held[chunk][stored] = spec
    return {"checkpoint_version": 3.0, **held}
