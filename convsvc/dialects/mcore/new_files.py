"""A new checkpoint's rank files, tracker and saved args."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convsvc.dialects.iterations import TRACKER
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.grid import ranks
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.planned_files import plan_rank_files
from convsvc.dialects.mcore.progress import RELEASE, counted, tracked_as
from convsvc.dialects.mcore.rank_files import chunk_name, rank_file
from convsvc.dialects.mcore.saved_args import compose_args
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.sizes import RankFilesTarget
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.formats.base import TensorSpec
from convsvc.models.model import Model
from convsvc.notes import Note


def output(draft: Draft[RankFilesTarget, Settings], own: Mapping[str, Any], advice: Iterable[Note] = ()) -> tuple[Layout, Output]:
    """One file a rank, each with the same args, and one for what is carried; the tracker last.

    `own` are a framework's args beside Megatron's, `advice` what it must be told beside the weights.
    """
    model, settings, layout, specs = draft.model, draft.settings, draft.layout, draft.specs()
    if draft.target.iteration is None:
        own = {**counted(draft.facts, settings.folder), **own}
    args = compose_args(model, settings, draft.facts, bytes_by_dtype(specs), own)
    tracked = tracked_as(settings.folder)
    chunks = place_layers(model.num_layers, settings.parallel).chunks
    names = [chunk_name(chunk) for chunk in ([None] if chunks is None else range(chunks))]
    paths = [rank_file(rank, settings) for rank in ranks(settings.parallel)]
    top = {"args": args, "checkpoint_version": 3.0, "iteration": 0 if tracked == RELEASE else int(tracked)}
    files, skeletons, carried = plan_rank_files(paths, layout, specs, names, lambda held: {**top, **held})
    notes = (*_notes(draft.target, model, settings), *advice, *carried)
    return layout, Output(files, skeletons, (SideFile(TRACKER, text=tracked, last=True),), notes)


def bytes_by_dtype(kinds: Iterable[TensorSpec]) -> dict[str, int]:
    """How many bytes of each dtype there are. What ranks hold alike is counted once: it is for comparing."""
    sizes: dict[str, int] = {}
    for spec in kinds:
        sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.size_bytes
    return sizes


def _notes(target: RankFilesTarget, model: Model, settings: Settings) -> list[Note]:
    notes = [Note("advice", said) for said in model.advice]
    if target.moe_grouped_gemm and not model.num_experts:
        notes.append(Note("advice", f"moe_grouped_gemm has no effect: {model.family.name} has no experts"))
    if target.mla_mm_split and not settings.mla_mm_split:
        notes.append(Note("advice", f"mla_mm_split has no effect: {model.family.name} has no latent attention that is ever split"))
    return notes
