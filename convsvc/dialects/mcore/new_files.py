"""A new checkpoint's rank files, tracker and saved args."""

from __future__ import annotations

from typing import Any

from convsvc.blocks.linear_attention import DELTA_OUT
from convsvc.dialects.base import Entry, NewFile, Output, SideFile
from convsvc.dialects.mcore.checkpoint import TRACKER
from convsvc.dialects.mcore.grid import ranks
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.rank_files import Settings, chunk_name, rank_file
from convsvc.dialects.mcore.saved_args import write_args
from convsvc.dialects.mcore.sizes import ParallelSizes
from convsvc.formats import safetensors, torch_zip
from convsvc.formats.base import Skeleton, TensorSpec
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.tensors.blocks import Laid

ITERATION = 1


def output(
    target: ParallelSizes, model: Model, settings: Settings, facts: Facts, entries: tuple[Entry, ...], dtypes: tuple[str, ...]
) -> tuple[tuple[Entry, ...], Output]:
    """One file a rank, each with the same args, and one for what is carried; the tracker last."""
    args = write_args(model, settings, facts, bytes_by_dtype(entries, dtypes))
    chunks = place_layers(model.num_layers, settings.parallel).chunks
    models: dict[str, dict[str, dict[str, TensorSpec]]] = {
        rank_file(rank, settings): {chunk_name(chunk): {} for chunk in ([None] if chunks is None else range(chunks))}
        for rank in ranks(settings.parallel)
    }
    beside: dict[str, list[TensorSpec]] = {}
    known = _Specs()
    for entry, dtype in zip(entries, dtypes, strict=True):
        if entry.file not in models:
            beside.setdefault(entry.file, []).append(TensorSpec(entry.laid.name, dtype, entry.laid.shape))
            continue
        chunk, stored, spec = known.of(entry.laid, dtype)
        models[entry.file][chunk][stored] = spec
    skeletons = _Skeletons(args)
    files = tuple(NewFile(path, "torch_zip", skeletons.of(tree)) for path, tree in models.items())
    files += tuple(NewFile(path, "safetensors", safetensors.plan_skeleton(specs)) for path, specs in beside.items())
    notes = (*_notes(target, model, settings), *(_carried(path, specs) for path, specs in beside.items()))
    return entries, Output(files, (SideFile(TRACKER, text=str(ITERATION), last=True),), notes)


def bytes_by_dtype(entries: tuple[Entry, ...], dtypes: tuple[str, ...]) -> dict[str, int]:
    """How many bytes of each dtype there are. Ranks share what they hold alike, which is counted once: it is for comparing."""
    kinds = {id(entry.laid): (entry.laid, dtype) for entry, dtype in zip(entries, dtypes, strict=True)}
    sizes: dict[str, int] = {}
    for laid, dtype in kinds.values():
        sizes[dtype] = sizes.get(dtype, 0) + TensorSpec(laid.name, dtype, laid.shape).size_bytes
    return sizes


def _carried(path: str, specs: list[TensorSpec]) -> Note:
    text = f"{len(specs)} tensor(s) that training does not load, e.g. {specs[0].name}, are kept for the way back in {path}"
    return Note("carried", text)


class _Specs:
    """What tensors of rank files are. Those that are equal are one object."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, str], tuple[str, str, TensorSpec]] = {}
        self._equal: dict[TensorSpec, TensorSpec] = {}

    def of(self, laid: Laid, dtype: str) -> tuple[str, str, TensorSpec]:
        """(chunk, name in it, tensor) of a stored tensor, which ranks may share; its owner must keep it."""
        found = self._of.get((id(laid), dtype))
        if found is None:
            chunk, _, stored = laid.name.partition("/")
            spec = TensorSpec(laid.name, dtype, laid.shape)
            found = self._of[id(laid), dtype] = chunk, stored, self._equal.setdefault(spec, spec)
        return found


class _Skeletons:
    """Rank files' skeletons. All ranks of a stage that hold as much have equal files, which are planned once.

    Files are equal if they hold the same objects (`_Specs`), which is seen without looking into every tensor of every file.
    """

    def __init__(self, args: Any) -> None:
        self._args = args
        self._made: dict[tuple[tuple[str, tuple[int, ...]], ...], Skeleton] = {}

    def of(self, chunks: dict[str, dict[str, TensorSpec]]) -> Skeleton:
        key = tuple((chunk, tuple(map(id, tensors.values()))) for chunk, tensors in chunks.items())
        if key not in self._made:
            tree = {"args": self._args, "checkpoint_version": 3.0, "iteration": ITERATION, **chunks}
            self._made[key] = torch_zip.plan_skeleton(tree, archive="model_optim_rng")
        return self._made[key]


def _notes(target: ParallelSizes, model: Model, settings: Settings) -> list[Note]:
    notes = [Note("advice", said) for said in model.advice]
    if target.moe_grouped_gemm and not model.num_experts:
        notes.append(Note("advice", f"moe_grouped_gemm has no effect: {model.family.name} has no experts"))
    if target.mla_mm_split and not settings.mla_mm_split:
        notes.append(Note("advice", f"mla_mm_split has no effect: {model.family.name} has no latent attention that is ever split"))
    if settings.parallel.tp > 1 and any(DELTA_OUT.name in scope.logicals for scope in model.layers()):
        # mindspeed_llm/tasks/models/transformer/qwen3_next_gated_deltanet_attention.py, commit 0bba5c97: sizes are not divided by tp.
        advice = (
            "linear attention is cut by key heads, as Megatron core's is; MindSpeed-LLM's own holds all heads on every rank and loads it "
            "at tensor_parallel_size 1 only"
        )
        notes.append(Note("advice", advice))
    return notes
