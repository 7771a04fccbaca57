"""A new checkpoint of MindSpore Transformers, whole: parts and their map, and the model's configuration beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import prod

from convsvc.dialects.base import Entry, NewFile, Output, SideFile
from convsvc.dialects.huggingface.config_files import config_files
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.huggingface.new_files import parse_size
from convsvc.dialects.mindformers.files import PART_BYTES, part_count, spread_over_parts
from convsvc.dialects.mindformers.job import MindFormersTarget
from convsvc.dialects.mindformers.layout import Settings
from convsvc.dialects.mindformers.ranks import strategy_file
from convsvc.dialects.mindformers.tables import Flags
from convsvc.dialects.mindformers.whole import MAP
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.formats.strategy.binary import to_binary
from convsvc.formats.strategy.records import stage_strategy
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots

METADATA = {"format": "ms", "remove_redundancy": "False"}


def whole_output(
    target: MindFormersTarget,
    model: Model,
    settings: Settings,
    facts: Facts,
    entries: tuple[Entry, ...],
    dtypes: tuple[str, ...],
    roots: Roots,
) -> tuple[tuple[Entry, ...], Output]:
    """Parts of some 3 GiB, the largest tensors first into the lightest part; the map last."""
    specs = {entry.laid.name: TensorSpec(entry.laid.name, dtype, entry.laid.shape) for entry, dtype in zip(entries, dtypes, strict=True)}
    sizes = {name: spec.size_bytes for name, spec in specs.items()}
    limit = parse_size(target.max_part_size) if target.max_part_size else PART_BYTES
    parts = spread_over_parts(sizes, part_count(sizes, limit))
    files = tuple(
        NewFile(f"part{number}.safetensors", "safetensors", safetensors.plan_skeleton([specs[name] for name in part], METADATA))
        for number, part in enumerate(parts)
    )
    file_of = {name: file.path for file, part in zip(files, parts, strict=True) for name in part}
    total = sum(spec.size_bytes for spec in specs.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}, indent=4) + "\n"
    sides, notes = words(target.config_dir, model, facts, dtypes, entries, roots)
    placed = tuple(entry._replace(file=file_of[entry.laid.name]) for entry in entries)
    return placed, Output(files, (*sides, SideFile(MAP, text=text, last=True)), (*notes, *flag_notes(model, settings.flags)))


def rank_output(
    target: MindFormersTarget,
    model: Model,
    settings: Settings,
    facts: Facts,
    entries: tuple[Entry, ...],
    dtypes: tuple[str, ...],
    roots: Roots,
) -> tuple[tuple[Entry, ...], Output]:
    """A file a rank, and a strategy file a rank, as MindSpore saves them."""
    held: dict[str, list[TensorSpec]] = {}
    for entry, dtype in zip(entries, dtypes, strict=True):
        held.setdefault(entry.file, []).append(TensorSpec(entry.laid.name, dtype, entry.laid.shape))
    metadata = {"format": "ms", "remove_redundancy": str(target.remove_redundancy)}
    files = tuple(NewFile(path, "safetensors", safetensors.plan_skeleton(specs, metadata)) for path, specs in held.items())
    size = prod(next(iter(settings.strategies[0].values())).dev_matrix)
    said = {stage: to_binary(stage_strategy(stage, layouts.values())) for stage, layouts in settings.strategies.items()}
    strategies = [SideFile(strategy_file(stage * size + rank), text=said[stage]) for stage in said for rank in range(size)]
    sides, notes = words(target.config_dir, model, facts, dtypes, entries, roots)
    return entries, Output(files, (*sides, *strategies), (*notes, *flag_notes(model, settings.flags)))


def words(
    config_dir: str | None, model: Model, facts: Facts, dtypes: Sequence[str], entries: Sequence[Entry], roots: Roots
) -> tuple[list[SideFile], list[Note]]:
    """config.json and what belongs to it, as beside Hugging Face weights: no other word of the model is in the files."""
    if not model.scopes:
        return [], [Note("advice", "these are tensors under their own names, of no model that is known: no config.json is written")]
    sizes = Counter[str]()
    for entry, dtype in zip(entries, dtypes, strict=True):
        sizes[dtype] += TensorSpec(entry.laid.name, dtype, entry.laid.shape).size_bytes
    main = sizes.most_common(1)[0][0]
    specs = [TensorSpec(entry.laid.name, main, entry.laid.shape) for entry in lay_model(model) if entry.laid.written]
    return config_files(None if config_dir is None else RootedPath(config_dir, roots), model, facts, specs)


def flag_notes(model: Model, flags: Flags) -> list[Note]:
    """What training must be told, as no file says it."""
    names = frozenset().union(*(scope.logicals for scope in model.scopes)) if model.scopes else frozenset()
    said = []
    if any(name.endswith(("mlp.linear_fc1.weight", "shared_experts.linear_fc1.weight")) for name in names):
        said.append(f"use_interleaved_weight_layout_mlp: {flags.interleaved_mlp}")
    if "self_attention.linear_qkv.weight" in names:
        said.append(f"use_contiguous_weight_layout_attention: {flags.contiguous_attention}")
    return [Note("advice", f"the layout depends on what no file says: {', '.join(said)}")] if said else []
