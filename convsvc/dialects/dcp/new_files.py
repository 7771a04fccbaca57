"""A new torch distributed checkpoint: its files, `.metadata` last, and what lies beside Hugging Face weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convsvc.dialects.alike import plan_alike
from convsvc.dialects.dcp.job import DcpTarget
from convsvc.dialects.dcp.layout import Settings, rank_file
from convsvc.dialects.diffusers.new_files import beside
from convsvc.dialects.huggingface.new_files import by_layer, by_size, parse_size
from convsvc.dialects.huggingface.words import words
from convsvc.dialects.layout import Layout
from convsvc.dialects.named import CARRIED, layer_of
from convsvc.dialects.output import Draft, NewFile, Output, SideFile
from convsvc.formats import distcp
from convsvc.formats.base import Skeleton, TensorSpec
from convsvc.formats.dcp.records import METADATA, Chunk, Chunked, Item, Metadata
from convsvc.formats.dcp.writing import pickle_metadata
from convsvc.spec import Options
from convsvc.tensors.boxes import Box
from convsvc.tensors.quick import quick

KIND = "distcp"
# What the tracker says of weights that no training has made, and the directory that it names (megatron/training/checkpointing.py).
RELEASE, TRACKER = "release", "latest_checkpointed_iteration.txt"


def output(draft: Draft[DcpTarget, Settings]) -> tuple[Layout, Output]:
    """A file a rank; or, of whole tensors, a file a layer, or files of at most max_shard_size."""
    layout, settings, specs = draft.layout, draft.settings, draft.specs()
    if settings.shards == 1:
        layout = _in_files(layout, specs, draft.options, settings.folder)
    held: dict[str, list[int]] = {}
    for entry in layout.entries:
        held.setdefault(entry.file, []).append(entry.kind)
    skeletons, chosen = plan_alike(held.values(), specs, distcp.plan_skeleton)
    files = tuple([NewFile(path, KIND, number) for path, number in zip(held, chosen, strict=True)])
    metadata = _metadata(files, skeletons, settings.folder)
    prefix = settings.prefix
    paths = {name: (prefix[:-1], name.removeprefix(prefix)) if prefix else (name,) for name in metadata.tensors}
    if settings.diffusion is None:
        sides, notes = words(draft.target.config_dir, draft.model, draft.facts, specs, draft.roots)
    else:
        sides, notes = beside(draft.target.config_dir, draft.model, draft.roots)
    last = [SideFile(settings.folder + METADATA, text=pickle_metadata(metadata, paths), last=True)]
    last += [SideFile(TRACKER, text=RELEASE, last=True)] if settings.folder else []
    return layout, Output(files, skeletons, (*sides, *last), tuple(notes))


def _in_files(layout: Layout, specs: Sequence[TensorSpec], options: Options, folder: str) -> Layout:
    """The layout with the files that whole tensors go to."""
    written = [specs[entry.kind] for entry in layout.entries]
    units = [layer_of(specs[entry.kind].name) if entry.unit == CARRIED else entry.unit for entry in layout.entries]
    groups = by_size(written, parse_size(options.max_shard_size)) if options.max_shard_size else by_layer(written, units)
    file_of = {spec.name: folder + rank_file(0, number) for number, group in enumerate(groups) for spec in group}
    return replace(layout, entries=tuple([entry._replace(file=file_of[specs[entry.kind].name]) for entry in layout.entries]))


def _metadata(files: Sequence[NewFile], skeletons: Sequence[Skeleton], folder: str) -> Metadata:
    """What the files hold: pieces of a tensor follow each other along its first dimension, in the files' order."""
    # Files that are alike share a skeleton, and tensors that are alike are cut alike: half a million pieces are a few boxes.
    placed = [[(tensor, distcp.item_of(tensor)) for tensor in skeleton.tensors] for skeleton in skeletons]
    boxes: dict[tuple[int, tuple[int, ...]], Box] = {}
    chunks: dict[str, list[Chunk]] = {}
    dtypes: dict[str, str] = {}
    for file in files:
        path = file.path.removeprefix(folder)
        for tensor, (first, size_bytes) in placed[file.skeleton]:
            held = chunks.get(tensor.name)
            if held is None:
                held, dtypes[tensor.name] = chunks.setdefault(tensor.name, []), tensor.dtype
            above = held[-1].box.stops[0] if held else 0
            key = above, tensor.shape
            box = boxes.get(key)
            if box is None:
                box = boxes[key] = _box_from(*key)
            held.append(quick(Chunk, (box, quick(Item, (path, first, size_bytes)))))
    return Metadata({name: Chunked(dtypes[name], held[-1].box.stops, tuple(held)) for name, held in chunks.items()}, ())


def _box_from(row: int, shape: tuple[int, ...]) -> Box:
    """Where a piece of this shape lies whose first row this is."""
    return Box((row, *(0,) * (len(shape) - 1)), (row + shape[0], *shape[1:])) if shape else Box((), ())
