"""A new Hugging Face directory: shards and their index; what lies beside them is config_files'."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from convsvc.dialects.huggingface.config_files import config_files
from convsvc.dialects.huggingface.job import HuggingFaceTarget
from convsvc.dialects.huggingface.layout import Settings, packed_in
from convsvc.dialects.huggingface.quantised import beside_specs, encode_layers, quantization_notes, quantization_words, stored_as
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import Draft, NewFile, Output, SideFile
from convsvc.encodings.base import Written
from convsvc.errors import JobError
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.roots import RootedPath

INDEX = "model.safetensors.index.json"
NOTHING: Mapping[str, Written] = MappingProxyType({})
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def output(draft: Draft[HuggingFaceTarget, Settings | None]) -> tuple[Layout, Output]:
    """One shard a layer, or shards of at most max_shard_size; with several, an index; and the words."""
    quantization = draft.target.quantization
    encoded = encode_layers(quantization, draft.layout, draft.dtypes, draft.release)
    units, further = [entry.unit for entry in draft.layout.entries], beside_specs(quantization, draft.release)
    layout, written = weights(draft, units, encoded, further)
    kinds = draft.specs()
    specs = [kinds[entry.kind] for entry in layout.entries]
    config_dir = draft.target.config_dir
    folder = None if config_dir is None else RootedPath(config_dir, draft.roots)
    said = quantization_words(quantization, layout, specs, encoded, draft.release)
    beside, notes = config_files(folder, draft.model, draft.facts, specs, said, packed_in(draft.settings))
    notes += quantization_notes(quantization, encoded, beside)
    return layout, replace(written, side_files=(*beside, *written.side_files), notes=tuple(notes))


def weights(
    draft: Draft[Any, Any], units: Sequence[str], encoded: Mapping[str, Written] = NOTHING, further: Sequence[TensorSpec] = ()
) -> tuple[Layout, Output]:
    """The shards and their index alone; `units` are the layout's entries', the layer that a tensor lies with (`by_layer`).

    `encoded`: how the weights of these names are stored instead; `further` tensors are of none of the layout's kinds.
    """
    layout, limit = draft.layout, draft.options.max_shard_size
    chosen = [(entry, unit) for entry, unit in zip(layout.entries, units, strict=True) if layout.kinds[entry.kind].written]
    kinds = draft.specs()
    stored = [(each, unit) for entry, unit in chosen for each in stored_as(kinds[entry.kind], encoded)]
    unit_of = {each.name.rpartition(".")[0]: unit for each, unit in stored} if further else {}
    stored += [(each, _unit(each.name, unit_of)) for each in further]
    pieces = [each for each, _ in stored]
    shards = by_size(pieces, parse_size(limit)) if limit else by_layer(pieces, [unit for _, unit in stored])
    names = shard_names(len(shards))
    files = tuple(NewFile(name, "safetensors", number) for number, name in enumerate(names))
    skeletons = tuple(map(safetensors.plan_skeleton, shards))
    file_of = {spec.name: name for name, shard in zip(names, shards, strict=True) for spec in shard}
    placed = tuple([entry._replace(file=file_of[stored_as(kinds[entry.kind], encoded)[0].name]) for entry, _ in chosen])
    side = [SideFile(INDEX, text=_index(pieces, file_of), last=True)] if len(shards) > 1 else []
    return replace(layout, entries=placed), Output(
        files, skeletons, tuple(side), encoded=encoded, beside=tuple([(file_of[each.name], each.name) for each in further])
    )


def _unit(name: str, unit_of: Mapping[str, str]) -> str:
    """The layer of the module that a tensor is in, or that of another one in the same."""
    module = name.rpartition(".")[0]
    while module and module not in unit_of:
        inner = next((unit for each, unit in unit_of.items() if each.startswith(module + ".")), None)
        if inner is not None:
            return inner
        module = module.rpartition(".")[0]
    return unit_of.get(module, "")


def parse_size(text: str) -> int:
    """Bytes of "5GB", "200MiB".

    >>> parse_size("1.5MiB")
    1572864
    """
    match = re.fullmatch(r"([0-9.]+)\s*(\w*?)B", text)
    if not match or match[2] not in UNITS:
        raise JobError(f"options.max_shard_size is {text!r}; it must be a number and B, KB, MB, GB, TB or KiB, MiB, GiB, TiB")
    return int(float(match[1]) * UNITS[match[2]])


def shard_names(count: int) -> list[str]:
    """model.safetensors for one file; else numbered as transformers does."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{at:05d}-of-{count:05d}.safetensors" for at in range(1, count + 1)]


def by_layer(specs: Sequence[TensorSpec], units: Sequence[str]) -> list[list[TensorSpec]]:
    """A shard for each layer; what stands before the first layer goes with it, what stands after another with that."""
    shards: list[list[TensorSpec]] = [[]]
    shard_of: dict[str, list[TensorSpec]] = {}
    current = shards[0]
    for spec, unit in zip(specs, units, strict=True):
        if unit.endswith("."):
            if unit not in shard_of:
                if shard_of:
                    shards.append([])
                shard_of[unit] = shards[-1]
            current = shard_of[unit]
        current.append(spec)
    return shards


def by_size(specs: Sequence[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    """Filled in order; a tensor larger than the limit has a shard of its own."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.size_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.size_bytes
    return shards


def _index(specs: Sequence[TensorSpec], file_of: Mapping[str, str]) -> str:
    total = sum(spec.size_bytes for spec in specs)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}, indent=2) + "\n"
