"""LoRA adapters in rank files of their own, laid over their base's: both must be cut alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from convsvc.dialects.checkpoint import AdapterFacts, Checkpoint, Found
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.saved_layout import parallel_of
from convsvc.errors import SourceError
from convsvc.models.facts import Facts, shown
from convsvc.roots import RootedPath

# How ranks are numbered and matrices sliced; and what must be the same beside the layout, for matrices to be those of one model.
GRID = frozenset({"tp", "pp", "ep", "etp", "extend_ep"})
SIZES = ("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "num_experts", "mtp_num_layers")


def refuse_peft(root: RootedPath) -> None:
    """Raises SourceError for a PEFT directory, whose names are Hugging Face's."""
    if root.is_dir() and (root / "adapter_config.json").is_file():
        raise SourceError(
            f"source.lora.path: {root} is a PEFT adapter, whose names are Hugging Face's, and the base has Megatron's",
            do="merge it into the Hugging Face base: source.format huggingface",
        )


def overlay(base: Checkpoint, over: Checkpoint, lora: AdapterFacts) -> Checkpoint:
    """The tensors of both by rank; where both have a name, `over`'s. `lora` is what its args say of adapters.

    Raises SourceError unless both are cut alike.
    """
    folder_of = {Path(file).parent.name: file for file, _ in base.found}
    _check_cut_alike(base, over, folder_of)
    shifted = {
        (folder_of[Path(file).parent.name], name): Found(each.file + len(base.files), each.tensor)
        for (file, name), each in over.found.items()
    }
    return replace(
        base,
        files=base.files + over.files,
        found={**base.found, **shifted},
        notes=(*base.notes, *over.notes),
        lora=lora,
    )


def _check_cut_alike(base: Checkpoint, over: Checkpoint, folder_of: dict[str, str]) -> None:
    here, there = set(folder_of), {Path(file).parent.name for file, _ in over.found}
    faults = [f"{field}: {shown(a)} in the base, {shown(b)} in the adapters" for field, a, b in _differences(base.facts, over.facts)]
    if there - here:
        faults.append(f"ranks that the base has not: {', '.join(sorted(there - here)[:5])}")
    if here - there:
        faults.append(f"ranks that the adapters have not: {', '.join(sorted(here - there)[:5])}")
    if faults:
        raise SourceError(
            f"the adapters in {over.path} are not cut as their base in {base.path}",
            facts=faults,
            do="both must be cut alike: convert the base to the layout in which the adapters were trained",
        )


def _differences(base: Facts, over: Facts) -> Iterator[tuple[str, Any, Any]]:
    """The fields of the layout and the sizes that differ."""
    one, other = parallel_of(base), parallel_of(over)
    differing = [field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name)]
    # The same placement of layers can be written in several ways.
    if not GRID.intersection(differing) and place_layers(base.num_layers, one) == place_layers(over.num_layers, other):
        differing = []
    for name in differing:
        yield name, getattr(one, name), getattr(other, name)
    for name in SIZES:
        a, b = base.get(name), over.get(name)
        if a is not None and b is not None and a != b:
            yield name, a, b
