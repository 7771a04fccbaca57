"""A new checkpoint's rank files, tracker and saved args."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convsvc.dialects.alike import plan_alike
from convsvc.dialects.base import Draft, Layout, NewFile, Output, SideFile
from convsvc.dialects.iterations import TRACKER
from convsvc.dialects.mcore.grid import ranks
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.rank_files import chunk_name, rank_file
from convsvc.dialects.mcore.saved_args import compose_args
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.sizes import ParallelSizes
from convsvc.formats import safetensors, torch_zip
from convsvc.formats.base import TensorSpec
from convsvc.models.model import Model
from convsvc.notes import Note

ITERATION = 1


def output(draft: Draft[ParallelSizes, Settings], own: Mapping[str, Any], advice: Iterable[Note] = ()) -> tuple[Layout, Output]:
    """One file a rank, each with the same args, and one for what is carried; the tracker last.

    `own` are a framework's args beside Megatron's, `advice` what it must be told beside the weights.
    """
    model, settings, layout, specs = draft.model, draft.settings, draft.layout, draft.specs()
    args = compose_args(model, settings, draft.facts, bytes_by_dtype(specs), own)
    chunks = place_layers(model.num_layers, settings.parallel).chunks
    names = [chunk_name(chunk) for chunk in ([None] if chunks is None else range(chunks))]
    kinds: dict[str, list[int]] = {rank_file(rank, settings): [] for rank in ranks(settings.parallel)}
    beside: dict[str, list[TensorSpec]] = {}
    for entry in layout.entries:
        held = kinds.get(entry.file)
        if held is None:
            beside.setdefault(entry.file, []).append(specs[entry.kind])
        else:
            held.append(entry.kind)
    skeletons, chosen = plan_alike(
        kinds.values(), specs, lambda held: torch_zip.plan_skeleton(_tree(held, names, args), archive="model_optim_rng")
    )
    files = [NewFile(path, "torch_zip", number) for path, number in zip(kinds, chosen, strict=True)]
    files += [NewFile(path, "safetensors", number) for number, path in enumerate(beside, len(skeletons))]
    skeletons += tuple(map(safetensors.plan_skeleton, beside.values()))
    notes = (*_notes(draft.target, model, settings), *advice, *(_carried(path, held) for path, held in beside.items()))
    return layout, Output(tuple(files), skeletons, (SideFile(TRACKER, text=str(ITERATION), last=True),), notes)


def bytes_by_dtype(kinds: Iterable[TensorSpec]) -> dict[str, int]:
    """How many bytes of each dtype there are. What ranks hold alike is counted once: it is for comparing."""
    sizes: dict[str, int] = {}
    for spec in kinds:
        sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.size_bytes
    return sizes


def _carried(path: str, specs: list[TensorSpec]) -> Note:
    text = f"{len(specs)} tensor(s) that training does not load, e.g. {specs[0].name}, are kept for the way back in {path}"
    return Note("carried", text)


def _tree(specs: Iterable[TensorSpec], chunks: Iterable[str], args: Any) -> dict[str, Any]:
    """What a rank file holds: its tensors by model chunk, beside the args."""
    held: dict[str, dict[str, TensorSpec]] = {chunk: {} for chunk in chunks}
    for spec in specs:
        chunk, _, stored = spec.name.partition("/")
        held[chunk][stored] = spec
    return {"args": args, "checkpoint_version": 3.0, "iteration": ITERATION, **held}


def _notes(target: ParallelSizes, model: Model, settings: Settings) -> list[Note]:
    notes = [Note("advice", said) for said in model.advice]
    if target.moe_grouped_gemm and not model.num_experts:
        notes.append(Note("advice", f"moe_grouped_gemm has no effect: {model.family.name} has no experts"))
    if target.mla_mm_split and not settings.mla_mm_split:
        notes.append(Note("advice", f"mla_mm_split has no effect: {model.family.name} has no latent attention that is ever split"))
    return notes
