"""LoRA adapters for themselves, without the weights they belong to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convsvc.dialects.base import Adapted
from convsvc.errors import JobError
from convsvc.plan.adapter_names import Adapters
from convsvc.plan.adapters import locate_adapters
from convsvc.plan.match import Inventory
from convsvc.tensors.blocks import Laid, LogicalTensor


def export_adapters(
    target: str, have: str | None, weights: Inventory, adapters: Adapters | None, same_as: Mapping[str, str]
) -> tuple[Adapted, Inventory]:
    """What a target of adapters is made of, and the A and B, which take the weights' place.

    `target` is its format, `have` the format that the source's adapters are in. Raises JobError if the source has no adapters, or has
    them in that format already.
    """
    if adapters is None:
        raise JobError(f"target.format is {target}, but no adapters are read", do="state source.lora with r and alpha")
    if have == target:
        raise JobError(
            f"target.format is {target}, and the source's adapters are one already",
            do="copy their directory; or choose a target of full weights to merge them",
        )
    if not adapters.uniform:
        raise JobError("the adapters have several ranks, which is not exported", do="choose a target of full weights to merge them")
    sides = locate_adapters(weights, adapters, same_as).sides
    shared = _shared(sides)
    names = {tensor.name for tensor in shared.values()}
    kept = replace(sides, kinds=tuple(_only(laid, names) for laid in sides.kinds))
    return Adapted(shared, adapters.r, adapters.alpha, adapters.use_rslora), kept


def _shared(sides: Inventory) -> dict[str, LogicalTensor]:
    """The logical A and B by name; weights that the source stores in one tensor have one A, which is the first one's."""
    tensors: dict[str, LogicalTensor] = {}
    origins: dict[str, list[tuple[str, str]]] = {}
    for each in sides.entries:
        for block in sides.kinds[each.kind].blocks:
            tensors[block.tensor.name] = block.tensor
            origins.setdefault(block.tensor.name, []).append(each.key)
    first: dict[object, LogicalTensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".lora_A"):
            tensors[name] = first.setdefault((frozenset(origins[name]), tensor.axes, tensor.sizes), tensor)
    return tensors


def _only(laid: Laid, names: set[str]) -> Laid:
    return laid._replace(blocks=tuple(block for block in laid.blocks if block.tensor.name in names))
