"""Quantised weights with the scales that belong to them: found, checked, planned. Pure.

In blocks, as DeepSeek-V3 publishes it (its inference/fp8_cast_bf16.py): `X.weight` in float8 and `X.weight_scale_inv` with a factor
for each 128 x 128 block, [ceil(rows / 128), ceil(columns / 128)]. In rows, as GLM-4.5-FP8 does (compressed-tensors, strategy
"channel"): `X.weight_scale` [rows, 1] or [rows]. One for the tensor, as Ministral 3 (`X.weight_scale_inv` []) and ModelOpt
(`X.weight_scale` [] or [1]) do. Which it is shows in the scale's shape, not in its name; whatever its name, a scale is a factor. They
lie along the stored tensor's rows and columns, so they are no weights of the model: they are joined to theirs before tensors are
matched. Those count as BF16, which their unquantised twins are; as F32 where the job asks for fp32 or fp16, so that nothing is rounded
twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from convsvc.dialects.base import Checkpoint, Found, Scale
from convsvc.errors import PlanError, SourceError
from convsvc.models.facts import Facts
from convsvc.notes import Note
from convsvc.plan.match import Located
from convsvc.plan.mismatch import SHOWN
from convsvc.plan.quantised_kinds import refuse_unread
from convsvc.plan.records import BlockScale, PlannedTensor

Key = tuple[str, str]
FLOAT8 = ("F8_E4M3", "F8_E5M2")
SCALE_DTYPES = ("F32", "BF16", "F16", "F8_E8M0")
# How a scale is called beside `X.weight`: by DeepSeek V3 and Qwen3, by DeepSeek V4, by compressed-tensors and ModelOpt.
SUFFIXES = (("_scale_inv", ""), (".scale", ".weight"), ("_scale", ""))
CONFIG = "quantization_config"
# Factors for activations and for the cache, beside a module's weight; nothing of the weights (HF, ModelOpt, compressed-tensors, vLLM).
BESIDE = re.compile(r"(\.|_)(input|output|activation|k|v|q|kv|prob)_scale$|\.kv_cache_scaling_factor$")
BESIDE_ENDS = ("_scale", "_scaling_factor")


def join_scales(checkpoint: Checkpoint, dtype: str = "BF16") -> Checkpoint:
    """The checkpoint with every scale joined to its weight, and with a configuration that no longer says it is quantised.

    `dtype`: what the products count as, BF16 or F32.

    Raises SourceError for weights that are quantised otherwise, for a scale without its weight and float8 without its scale; PlanError
    for scales that do not fit.
    """
    refuse_unread(checkpoint)
    checkpoint = _without_beside(checkpoint)
    block = _block_size(checkpoint.facts)
    scales = {key: (at, _scale(checkpoint.found[key], at, found, block, dtype)) for key, at, found in _pairs(checkpoint.found)}
    _check_all_scaled(checkpoint, scales)
    if not scales:
        return checkpoint
    _check_shapes(checkpoint, {key: scale for key, (_, scale) in scales.items()})
    taken = {at for at, _ in scales.values()}
    joined = {
        key: found._replace(scale=scales[key][1]) if key in scales else found for key, found in checkpoint.found.items() if key not in taken
    }
    facts = Facts({name: value for name, value in checkpoint.facts.values.items() if name != CONFIG}, checkpoint.facts.origin)
    return replace(checkpoint, found=joined, facts=facts, notes=(*checkpoint.notes, _note([scale for _, scale in scales.values()])))


def product_dtype(wanted: str | None) -> str:
    """What products count as where the job wants this dtype: F32 where BF16 would lose bits that are wanted.

    >>> [product_dtype(wanted) for wanted in (None, "bf16", "fp16", "fp32")]
    ['BF16', 'BF16', 'F32', 'F32']
    """
    return "F32" if wanted in ("fp32", "fp16") else "BF16"


def describe_blocks(scales: Sequence[Scale]) -> str:
    """What shares a scale: "tensor", "row", or "128 x 128 block"."""
    return " or ".join(sorted(set(map(_shared_by, scales))))


def _shared_by(scale: Scale) -> str:
    if _is_single(scale.found.tensor.shape):
        return "tensor"
    return "row" if scale.rows == 1 else f"{scale.rows} x {scale.columns} block"


def _is_single(shape: tuple[int, ...]) -> bool:
    """Whether a scale of this shape is one number for the whole tensor."""
    return shape in ((), (1,))


def plan_sources(located: Sequence[Located]) -> tuple[PlannedTensor, ...]:
    """The source's tensors, numbered as they are located; after them their scales."""
    planned = [_planned(each.found.tensor.name, each.found) for each in located]
    scales: list[PlannedTensor] = []
    for number, each in enumerate(located):
        scale = each.found.scale
        if scale is not None:
            block = BlockScale(len(located) + len(scales), scale.rows, scale.columns, scale.dtype)
            planned[number] = planned[number]._replace(scale=block)
            scales.append(_planned(scale.name, scale.found)._replace(shape=_as_grid(scale.found.tensor.shape)))
    return (*planned, *scales)


def _planned(name: str, found: Found) -> PlannedTensor:
    tensor = found.tensor
    return PlannedTensor(found.file, name, tensor.dtype, tensor.shape, tensor.file_offset, tensor.size_bytes)


def _scale(weight: Found, at: Key, found: Found, block: tuple[int, int], dtype: str) -> Scale:
    return Scale(at[1], found, *_shares(weight.tensor.shape, found.tensor.shape, block), dtype)


def _shares(weight: tuple[int, ...], scale: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns that share a factor, as the scale's shape says; blocks where it is that of nothing else."""
    if len(weight) != 2:
        return block
    if _is_single(scale):
        return max(weight[0], 1), max(weight[1], 1)
    return (1, max(weight[1], 1)) if scale in ((weight[0],), (weight[0], 1)) else block


def _as_grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A scale's shape with both axes.

    >>> _as_grid(()), _as_grid((64,)), _as_grid((2, 3))
    ((1, 1), (64, 1), (2, 3))
    """
    return shape if len(shape) >= 2 else (*shape, *(1,) * (2 - len(shape)))


def _note(scales: Sequence[Scale]) -> Note:
    to, rounded = ("bf16", ", rounded once") if scales[0].dtype == "BF16" else ("fp32", "")
    text = f"{len(scales)} tensors are dequantised to {to}: float8 x a scale for each {describe_blocks(scales)}{rounded}"
    return Note("changed", text)


def _pairs(found: Mapping[Key, Found]) -> Iterator[tuple[Key, Key, Found]]:
    """(weight's key, scale's key, scale). A name that others bear too counts only beside a float8 weight."""
    suffixes = tuple(suffix for suffix, _ in SUFFIXES)
    scales = ((file, name, each) for (file, name), each in found.items() if name.endswith(suffixes))
    for file, name, scale in scales:
        for suffix, instead in SUFFIXES:
            if not name.endswith(suffix):
                continue
            weight = file, name.removesuffix(suffix) + instead
            is_clear = suffix == "_scale_inv" or (weight in found and found[weight].tensor.dtype in FLOAT8)
            if not is_clear:
                continue
            if weight not in found:
                raise SourceError(f"{name} scales {weight[1]}, which is not there", do="fetch the checkpoint again")
            yield weight, (file, name), scale


def _check_all_scaled(checkpoint: Checkpoint, scales: Mapping[Key, object]) -> None:
    bare = [key[1] for key, found in checkpoint.found.items() if found.tensor.dtype in FLOAT8 and key not in scales]
    if bare:
        raise SourceError(
            f"{checkpoint.path}: {len(bare)} float8 tensors have no scale (X.weight_scale_inv or X.weight_scale for X.weight)",
            facts=bare[:SHOWN],
            do="fetch the scales, or use a bf16 checkpoint: without them the numbers mean nothing",
        )


def _block_size(facts: Facts) -> tuple[int, int]:
    config = facts.get(CONFIG, default={})
    size = (config.get("weight_block_size") if isinstance(config, Mapping) else None) or (128, 128)
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(each, int) and each > 0 for each in size):
        raise SourceError(f"{facts.origin}: {CONFIG}.weight_block_size is {size!r}; it must be two numbers, rows and columns")
    return int(size[0]), int(size[1])


def _check_shapes(checkpoint: Checkpoint, scales: Mapping[Key, Scale]) -> None:
    faults: list[str] = []
    for key, scale in scales.items():
        weight, factors = checkpoint.found[key].tensor, scale.found.tensor
        if weight.dtype not in FLOAT8 or len(weight.shape) != 2:
            faults.append(f"{key[1]}: expected float8 with two axes, found {weight.dtype} {list(weight.shape)}")
            continue
        expected = (-(-weight.shape[0] // scale.rows), -(-weight.shape[1] // scale.columns))
        if _as_grid(factors.shape) != expected or factors.dtype not in SCALE_DTYPES:
            faults.append(f"{scale.name}: expected F32 {list(expected)}, found {factors.dtype} {list(factors.shape)}")
    if faults:
        raise PlanError(
            f"{checkpoint.path}: {len(faults)} scales do not fit their weights",
            facts=faults[:SHOWN],
            do=f"a tensor has one scale, one for each row ([rows, 1]), or one for each block: check {CONFIG}.weight_block_size in "
            f"{checkpoint.facts.origin}",
        )


def _without_beside(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the scales of activations and of the cache: numbers or short lists beside a module's weight."""
    beside = {key for key, found in checkpoint.found.items() if key[1].endswith(BESIDE_ENDS) and _is_beside(key, found)}
    if not beside:
        return checkpoint
    first = min(name for _, name in beside)
    note = Note("ignored", f"{len(beside)} scales of activations or of the key-value cache, e.g. {first}: not weights")
    found = {key: each for key, each in checkpoint.found.items() if key not in beside}
    return replace(checkpoint, found=found, notes=(*checkpoint.notes, note))


def _is_beside(key: Key, found: Found) -> bool:
    return len(found.tensor.shape) <= 1 and found.tensor.dtype in SCALE_DTYPES and BESIDE.search(key[1]) is not None
