"""New files of a diffusion model: shards and an index that agrees with them, or one file; the configuration beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convsvc.dialects.diffusers.checkpoint import CONFIG
from convsvc.dialects.diffusers.job import DiffusersTarget
from convsvc.dialects.diffusers.layout import Settings, seen_of
from convsvc.dialects.diffusers.seen import check_counts
from convsvc.dialects.huggingface.copied_files import copied_files
from convsvc.dialects.huggingface.new_files import by_layer, by_size, parse_size
from convsvc.dialects.json_files import read_json
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import Draft, NewFile, Output, SideFile
from convsvc.errors import PlanError, SourceError
from convsvc.formats import safetensors, torch_zip
from convsvc.formats.base import TensorSpec
from convsvc.models.diffusion import Diffusion
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots


def output(draft: Draft[DiffusersTarget, Settings]) -> tuple[Layout, Output]:
    """One shard a layer, or shards of at most max_shard_size, with an index where there are several; or the one file that is asked for."""
    layout, kinds = draft.layout, draft.specs()
    written = [entry for entry in layout.entries if layout.kinds[entry.kind].written]
    specs = [kinds[entry.kind] for entry in written]
    side, notes = beside(draft.target.config_dir, draft.model, draft.roots)
    if draft.target.file_name is not None:
        name = draft.target.file_name
        placed = tuple([entry._replace(file=name) for entry in written])
        return replace(layout, entries=placed), _one_file(name, specs, side, notes)
    limit, stem = draft.options.max_shard_size, draft.settings.spelling.file
    shards = by_size(specs, parse_size(limit)) if limit else by_layer(specs, [entry.unit for entry in written])
    names = shard_names(stem, len(shards))
    file_of = {spec.name: name for name, shard in zip(names, shards, strict=True) for spec in shard}
    index = [SideFile(f"{stem}.safetensors.index.json", text=_index(specs, file_of), last=True)] if len(shards) > 1 else []
    placed = tuple([entry._replace(file=file_of[kinds[entry.kind].name]) for entry in written])
    files = tuple(NewFile(name, "safetensors", number) for number, name in enumerate(names))
    return replace(layout, entries=placed), Output(files, tuple(map(safetensors.plan_skeleton, shards)), (*side, *index), tuple(notes))


def _one_file(name: str, specs: Sequence[TensorSpec], side: Sequence[SideFile], notes: Sequence[Note]) -> Output:
    if name.endswith(".safetensors"):
        return Output((NewFile(name, "safetensors", 0),), (safetensors.plan_skeleton(specs),), tuple(side), tuple(notes))
    tree: Mapping[str, Any] = {spec.name: spec for spec in specs}
    skeleton = torch_zip.plan_skeleton(tree, archive=name.rpartition(".")[0])
    return Output((NewFile(name, "torch_zip", 0),), (skeleton,), tuple(side), tuple(notes))


def shard_names(stem: str, count: int) -> list[str]:
    """The shards' names as diffusers numbers them.

    >>> shard_names("diffusion_pytorch_model", 1), shard_names("model", 2)[1]
    (['diffusion_pytorch_model.safetensors'], 'model-00002-of-00002.safetensors')
    """
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{at:05d}-of-{count:05d}.safetensors" for at in range(1, count + 1)]


def beside(config_dir: str | None, model: Model, roots: Roots) -> tuple[list[SideFile], list[Note]]:
    """The configuration and what belongs to it. Raises PlanError where it is that of another number of layers."""
    if config_dir is None or not (RootedPath(config_dir, roots) / CONFIG).is_file():
        return [], [Note("advice", "the target has weights only, no config.json: diffusers needs one; give target.config_dir")]
    folder = RootedPath(config_dir, roots)
    assert isinstance(model.family, Diffusion)
    try:
        check_counts(model.family, seen_of(model).stacks, Facts(read_json(folder / CONFIG), str(folder / CONFIG)), "the target")
    except SourceError as error:
        raise PlanError(f"{folder / CONFIG} does not describe the weights that are written", facts=error.facts) from None
    return copied_files(folder)


def _index(specs: Sequence[TensorSpec], file_of: Mapping[str, str]) -> str:
    total = sum(spec.size_bytes for spec in specs)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}, indent=2) + "\n"
