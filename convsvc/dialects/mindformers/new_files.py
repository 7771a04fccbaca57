"""A new checkpoint of MindSpore Transformers, whole: parts and their map, and the model's configuration beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod

from convsvc.dialects.alike import plan_alike
from convsvc.dialects.huggingface.new_files import parse_size
from convsvc.dialects.huggingface.words import words
from convsvc.dialects.layout import Layout
from convsvc.dialects.mindformers.files import PART_BYTES, part_count, spread_over_parts
from convsvc.dialects.mindformers.flags import WRITTEN, flag_notes
from convsvc.dialects.mindformers.job import MindFormersTarget
from convsvc.dialects.mindformers.layout import Settings
from convsvc.dialects.mindformers.ranks import strategy_file
from convsvc.dialects.mindformers.whole import MAP
from convsvc.dialects.output import Draft, NewFile, Output, SideFile
from convsvc.formats import safetensors
from convsvc.formats.strategy.binary import to_binary
from convsvc.formats.strategy.records import stage_strategy

METADATA = {"format": "ms", "remove_redundancy": "False"}


def whole_output(draft: Draft[MindFormersTarget, Settings]) -> tuple[Layout, Output]:
    """Parts of some 3 GiB, the largest tensors first into the lightest part; the map last."""
    target, layout = draft.target, draft.layout
    specs = {spec.name: spec for spec in draft.specs()}
    limit = parse_size(target.max_part_size) if target.max_part_size else PART_BYTES
    sizes = {name: spec.size_bytes for name, spec in specs.items()}
    parts = spread_over_parts(sizes, part_count(sizes, limit))
    files = tuple(NewFile(f"part{number}.safetensors", "safetensors", number) for number in range(len(parts)))
    skeletons = tuple(safetensors.plan_skeleton([specs[name] for name in part], METADATA) for part in parts)
    file_of = {name: file.path for file, part in zip(files, parts, strict=True) for name in part}
    total = sum(spec.size_bytes for spec in specs.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}, indent=4) + "\n"
    sides, notes = words(target.config_dir, draft.model, draft.facts, specs.values(), draft.roots)
    placed = tuple([entry._replace(file=file_of[layout.kinds[entry.kind].name]) for entry in layout.entries])
    side_files = (*sides, SideFile(MAP, text=text, last=True))
    said = flag_notes(draft.model, draft.settings.flags, WRITTEN)
    return replace(layout, entries=placed), Output(files, skeletons, side_files, (*notes, *said))


def rank_output(draft: Draft[MindFormersTarget, Settings]) -> tuple[Layout, Output]:
    """A file a rank, and a strategy file a rank, as MindSpore saves them."""
    target, settings, layout, kinds = draft.target, draft.settings, draft.layout, draft.specs()
    held: dict[str, list[int]] = {}
    for entry in layout.entries:
        held.setdefault(entry.file, []).append(entry.kind)
    metadata = {"format": "ms", "remove_redundancy": str(target.remove_redundancy)}
    skeletons, chosen = plan_alike(held.values(), kinds, lambda specs: safetensors.plan_skeleton(specs, metadata))
    files = tuple(NewFile(path, "safetensors", number) for path, number in zip(held, chosen, strict=True))
    size = prod(next(iter(settings.strategies[0].values())).dev_matrix)
    said = {stage: to_binary(stage_strategy(stage, layouts.values())) for stage, layouts in settings.strategies.items()}
    strategies = [SideFile(strategy_file(stage * size + rank), text=said[stage]) for stage in said for rank in range(size)]
    sides, notes = words(target.config_dir, draft.model, draft.facts, kinds, draft.roots)
    return layout, Output(files, skeletons, (*sides, *strategies), (*notes, *flag_notes(draft.model, settings.flags, WRITTEN)))
