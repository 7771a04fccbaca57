"""Which weights of a new Hugging Face directory are quantised, how they are stored then, and what config.json says of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convsvc.dialects.layout import Layout
from convsvc.dialects.output import SideFile
from convsvc.encodings.base import Written
from convsvc.encodings.known import ENCODINGS
from convsvc.encodings.release import Release, fitted
from convsvc.errors import JobError
from convsvc.formats.base import TensorSpec
from convsvc.notes import Note
from convsvc.tensors.blocks import Laid
from convsvc.tensors.dtypes import FLOATS

DECODED = FLOATS - {"F64"}
# Of a configuration, by where in it: "" is its top.
Words = Mapping[str, Mapping[str, Any]]
# What serving fuses: vLLM's fused_qkv_a_proj (model_executor/models/deepseek_v2.py), its QKVParallelLinear, its MergedColumnParallelLinear;
# ModelOpt gives all of it one scale (export/quant_utils.py).
FUSED = (
    ("q_a_proj.weight", "kv_a_proj_with_mqa.weight"),
    ("q_proj.weight", "k_proj.weight", "v_proj.weight"),
    ("in_proj_qkv.weight", "in_proj_z.weight"),
)
NONE, LIKE = "none", "like-source"


def encode_layers(quantization: str, layout: Layout, dtypes: Sequence[str], release: Release | None) -> dict[str, Written]:
    """How weights are written, by name: those of linear layers, as their rows say; of a model of experts only these where publishers do so.

    Like the source: those that it was published with so. Raises JobError where there is none, or nothing that could be rounded.
    """
    if quantization == NONE:
        return {}
    if quantization == LIKE:
        return _as_published(layout, dtypes, release)
    writer = ENCODINGS.writers[quantization]
    linear = [(laid, dtype) for laid, dtype in zip(layout.kinds, dtypes, strict=True) if laid.linear and laid.written]
    chosen = [each for each in linear if each[0].linear == "experts"] if writer.EXPERTS_ONLY and _has_experts(layout) else linear
    found = {laid.name: writer.written(laid.name, laid.shape) for laid, dtype in chosen if dtype in FLOATS}
    encoded = {name: written for name, written in found.items() if written is not None}
    for name in _fused_apart(encoded, {laid.name: laid for laid, _ in chosen}):
        del encoded[name]
    if not encoded:
        raise JobError(
            f"target.quantization is {quantization!r}, and none of the model's weights can be stored so",
            do="leave it out, or say target.experts: per-expert where experts lie in one tensor; what is quantised are weights of linear "
            "layers, matrices [out, in] of attention, MLP and experts, one by one",
        )
    return encoded


def _has_experts(layout: Layout) -> bool:
    """Whether there are experts, as they may lie."""
    return any("expert" in block.tensor.axes and len(block.tensor.axes) > 2 for laid in layout.kinds for block in laid.blocks)


def _fused_apart(encoded: Mapping[str, Written], laid: Mapping[str, Laid]) -> list[str]:
    """Weights that serving fuses into one, and that are parts of several tensors in training: one scale for all is not known before.

    A matrix of them has the largest scale in serving, so that the others' numbers would be wrong; all stay as they are.
    """
    apart: list[str] = []
    for name in (name for name, written in encoded.items() if _has_one_scale(written)):
        first = next((each for each in FUSED if name.endswith("." + each[0])), None)
        parts = [name.removesuffix(first[0]) + leaf for leaf in first] if first else []
        if len({laid[part].blocks[0].tensor.name for part in parts if part in encoded}) > 1:
            apart += [part for part in parts if part in encoded]
    return apart


def _has_one_scale(written: Written) -> bool:
    """Whether all of the weight shares a scale, beside those of its groups."""
    return any(not grid.rows and grid.dtype in FLOATS for grid in written.form.grids)


def _as_published(layout: Layout, dtypes: Sequence[str], release: Release | None) -> dict[str, Written]:
    """Every weight that was quantised, in its own form. Raises JobError where no scales are there, or one has no such weight any more."""
    if release is None:
        raise JobError(
            f"target.quantization is {LIKE!r}, and the source is neither quantised nor are a release's scales carried with it",
            do="convert the quantised release with options.carry_scales (the default), and that to Hugging Face; or say fp8-block, mxfp4 "
            "or int4, for new scales",
        )
    shapes = {laid.name: laid.shape for laid, dtype in zip(layout.kinds, dtypes, strict=True) if laid.written and dtype in DECODED}
    encoded: dict[str, Written] = {}
    lost: list[str] = []
    for name, written in release.weights().items():
        form = fitted(written.form, shapes[name]) if name in shapes else None
        if form is None:
            lost.append(f"{name}: published {list(written.form.seen_shape)}, " + _found(name, layout, dtypes))
        else:
            encoded[name] = written if form == written.form else replace(written, form=form)
    if lost:
        raise JobError(
            f"target.quantization is {LIKE!r}, and {len(lost)} weights are no longer what was published",
            facts=[*lost[:12], *([f"and {len(lost) - 12} more"] if len(lost) > 12 else [])],
            do="convert the whole model, in bf16 or fp32, with the experts as they were published; or say fp8-block, mxfp4 or int4",
        )
    return encoded


def _found(name: str, layout: Layout, dtypes: Sequence[str]) -> str:
    there = next(((laid, dtype) for laid, dtype in zip(layout.kinds, dtypes, strict=True) if laid.name == name and laid.written), None)
    return "written nowhere" if there is None else f"written {there[1]} {list(there[0].shape)}"


def beside_specs(quantization: str, release: Release | None) -> list[TensorSpec]:
    """What belongs to a release and to no weight: scales of activations and of the cache."""
    if quantization != LIKE or release is None:
        return []
    return [TensorSpec(name, leaf.dtype, leaf.shape) for name, leaf in release.beside()]


def stored_as(spec: TensorSpec, encoded: Mapping[str, Written]) -> list[TensorSpec]:
    """The stored tensors that a weight is: its codes first."""
    written = encoded.get(spec.name)
    if written is None:
        return [spec]
    return [TensorSpec(name, part.dtype, part.shape) for name, part in zip(written.names, written.parts, strict=True)]


def quantization_words(
    quantization: str, layout: Layout, specs: Sequence[TensorSpec], encoded: Mapping[str, Written], release: Release | None
) -> Words | None:
    """What config.json says, by where; the modules that are not quantised are those of every other matrix. None for nothing.

    A matrix that others call otherwise (`also`) is named so, too: compressed-tensors looks for modules by transformers' names.
    """
    if quantization == NONE:
        return None
    if quantization == LIKE and release is not None:
        return release.words
    matrices = [spec.name for spec in specs if spec.name.endswith(".weight") and len(spec.shape) == 2]
    others = {laid.name: laid.also for laid in layout.kinds}
    kept = [each.removesuffix(".weight") for name in matrices if name not in encoded for each in (name, *others.get(name, ()))]
    words = ENCODINGS.writers[quantization].words([*kept, *_experts_in_one(specs)])
    return {"": {"quantization_config": dict(words)}}


def _experts_in_one(specs: Sequence[TensorSpec]) -> list[str]:
    """The modules whose experts lie in one tensor, which is none of the linear layers: transformers takes all modules called experts for
    quantised that nobody names (integrations/finegrained_fp8.py, replace_with_fp8_linear, 5.24)."""
    whole = (spec.name.partition(".experts.")[0] for spec in specs if ".experts." in spec.name and not spec.name.endswith(".weight"))
    return [f"{module}.experts" for module in dict.fromkeys(whole)]


def quantization_notes(quantization: str, encoded: Mapping[str, Written], beside: Sequence[SideFile]) -> list[Note]:
    """What is rounded; and that nothing says so where there is no config.json."""
    if quantization == NONE:
        return []
    if quantization == LIKE:
        text = f"{len(encoded)} weights are stored as they were published, with the scales of then where they give their values"
        return [Note("changed", f"{text}; others get new ones, and the report names them")]
    shared = next(iter(encoded.values())).form.shared_by
    notes = [Note("changed", f"{len(encoded)} weights are quantised to {quantization}, with a new scale for each {shared}")]
    ragged = sorted(name for name, each in encoded.items() if each.form.grids[1].rows > 1 and _is_ragged(each))
    if ragged:
        # integrations/finegrained_fp8.py divides rows and columns by the number of scales (5.24).
        text = f"128 does not divide the rows or columns of {len(ragged)} of them, e.g. {ragged[0]}: transformers takes other blocks then,"
        notes.append(Note("advice", f"{text} or refuses; vLLM, SGLang and this program read them as they are written"))
    if not any(file.path == "config.json" for file in beside):
        notes.append(
            Note("advice", "no config.json is written, and only that tells a reader how weights are quantised; give target.config_dir")
        )
    return notes


def _is_ragged(written: Written) -> bool:
    """Whether the last blocks of rows or columns are short."""
    factors = written.form.grids[1]
    return any(size % by for size, by in zip(written.form.shape, (factors.rows, factors.columns), strict=True))
