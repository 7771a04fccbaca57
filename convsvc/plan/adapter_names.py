"""Which stored tensors are LoRA adapters, of which weights, and how they are scaled: from names, checkpoint and job. Pure.

Names are peft's (peft/tuners/lora/layer.py, peft/utils/save_and_load.py, 0.21), in rank files after a chunk's: X.base_layer.weight for the
X.weight that is adapted, X.lora_A.<adapter>.weight beside it, X.modules_to_save.<adapter>.weight for what was trained whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import NamedTuple, TypeVar

from convsvc.dialects.checkpoint import AdapterFacts, Checkpoint, Found
from convsvc.errors import JobError, PlanError, SourceError
from convsvc.notes import Note
from convsvc.spec import Lora
from convsvc.tensors.boxes import Box
from convsvc.tensors.dtypes import FLOATS

Key = tuple[str, str]
Number = TypeVar("Number", float, int | None)
Sides = Mapping[Key, Mapping[str, tuple[Key, Found]]]
SHOWN = 12

MARKS = (".lora_", ".base_layer.", ".modules_to_save.", ".original_module.", ".token_adapter.", "base_model.model.")
PREFIX = re.compile(r"(^|/)base_model\.model\.")
SIDE = re.compile(r"^(?P<module>.*)\.lora_(?P<side>[AB])\.(?:\w+\.)?weight$")
BASE = re.compile(r"\.base_layer\.")
SAVED = re.compile(r"\.modules_to_save\.\w+\.")
# What peft may put beside A and B, and what it is.
OTHER_KINDS = {
    r"\.lora_magnitude_vector\b": "DoRA (a magnitude for each output, use_dora)",
    r"\.lora_[AB]\.(?:\w+\.)?bias$": "lora_bias (a bias in A or B)",
    r"\.lora_embedding_[AB]\b": "an adapter on an embedding",
    r"\.lora_E\b": "AdaLoRA",
    r"\.token_adapter\.": "trainable tokens (trainable_token_indices)",
    r"\.lora_": "an adapter of a kind that is not known",
}  # fmt: skip


class Pair(NamedTuple):
    """A and B of one stored weight, their rank, and the factor of their product."""

    a: tuple[Key, Found]
    b: tuple[Key, Found]
    r: int
    scale: float


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of every adapted weight, by (file, plain name of the weight).

    `r` and `alpha` are those of modules without their own; `uniform`: all modules have these. `pieces`: of a side that is saved in
    several, by its stored name, which box lies where.
    """

    pairs: Mapping[Key, Pair]
    r: int
    alpha: float
    use_rslora: bool
    uniform: bool
    pieces: Mapping[str, tuple[tuple[Box, Found], ...]] = field(default_factory=dict)


class _Part(NamedTuple):
    """What a marked name is: its plain name, and "A" or "B", "base", "saved", "original", "plain", or the words for another kind."""

    name: str
    what: str


def split_adapters(checkpoint: Checkpoint, lora: Lora | None) -> tuple[Checkpoint, Adapters | None]:
    """The checkpoint with its weights under their plain names and without adapters; the adapters.

    Raises JobError if there are adapters that the job does not mention, or the other way round, and if job and checkpoint contradict each
    other; SourceError for adapters without their base, PlanError for those that are no plain LoRA.
    """
    parts = _parts({name for _, name in checkpoint.found})
    if not parts and lora is None:
        return checkpoint, None
    _check_kinds(checkpoint, parts)
    plain, sides = _sorted_out(checkpoint, parts)
    if not sides and lora is not None:
        raise JobError(f"the job states source.lora, but {lora.path or checkpoint.path} holds no LoRA adapters")
    if not parts:
        return checkpoint, None
    checkpoint = replace(checkpoint, found=plain, notes=(*checkpoint.notes, *_notes(parts)))
    if not sides:
        return checkpoint, None
    if all(parts[name].what in ("A", "B", "saved") if name in parts else False for _, name in checkpoint.found):
        raise SourceError(
            f"{checkpoint.path} holds {len(sides)} LoRA adapters and not the weights they are for",
            facts=[f"e.g. {next(iter(sides))[1]}"],
            do="state the base model's checkpoint as source.path, and this one as source.lora.path",
        )
    if lora is None:
        raise _not_mentioned(checkpoint, sides)
    adapters = _scaled(sides, lora, checkpoint)
    return replace(checkpoint, notes=(*checkpoint.notes, *_module_notes(lora, sides))), adapters


def set_aside(checkpoint: Checkpoint) -> tuple[Checkpoint, int]:
    """The checkpoint with its weights under their plain names and without adapters, and how many adapters those were: to look at it."""
    parts = _parts({name for _, name in checkpoint.found})
    if not parts:
        return checkpoint, 0
    _check_kinds(checkpoint, parts)
    plain, sides = _sorted_out(checkpoint, parts)
    return replace(checkpoint, found=plain), len(sides)


def leave_out(adapters: Adapters, ignores: Callable[[Key], str | None]) -> tuple[Adapters, tuple[Note, ...]]:
    """The adapters without those whose weight is ignored (a layer that is not converted), and a note for each reason."""
    reasons = {key: reason for key in adapters.pairs if (reason := ignores(key)) is not None}
    if not reasons:
        return adapters, ()
    kept = {key: pair for key, pair in adapters.pairs.items() if key not in reasons}
    counts = Counter(reasons.values())
    notes = tuple(Note("ignored", f"{count} LoRA adapter(s): their weight is {reason}") for reason, count in counts.items())
    return replace(adapters, pairs=kept), notes


def _parts(names: Set[str]) -> dict[str, _Part]:
    """What the marked ones of the names are; as a rule there are none, and one look at all of them at once says so."""
    text = "\n".join(names)
    marks = [mark for mark in MARKS if mark in text]
    return {name: _part(name) for name in names if any(mark in name for mark in marks)} if marks else {}


def _part(stored: str) -> _Part:
    name = PREFIX.sub(r"\1", stored)
    side = SIDE.match(name)
    if side:
        return _Part(f"{side['module']}.weight", side["side"])
    for pattern, words in OTHER_KINDS.items():
        if re.search(pattern, name):
            return _Part(name, words)
    if ".original_module." in name:
        return _Part(name.replace(".original_module.", "."), "original")
    if ".modules_to_save." in name:
        return _Part(SAVED.sub(".", name), "saved")
    return _Part(BASE.sub(".", name), "base" if ".base_layer." in name else "plain")


def _check_kinds(checkpoint: Checkpoint, parts: Mapping[str, _Part]) -> None:
    kinds: dict[str, list[str]] = {}
    for name, part in parts.items():
        if part.what in OTHER_KINDS.values():
            kinds.setdefault(part.what, []).append(name)
    if kinds:
        raise PlanError(
            f"{checkpoint.path} holds adapters that are not plain LoRA: {'; '.join(sorted(kinds))}",
            facts=[f"{what}: {len(names)} tensors, e.g. {min(names)}" for what, names in sorted(kinds.items())],
            do="merge them with the tool that trained them (peft: merge_and_unload), and convert the result",
        )


def _sorted_out(checkpoint: Checkpoint, parts: Mapping[str, _Part]) -> tuple[dict[Key, Found], dict[Key, dict[str, tuple[Key, Found]]]]:
    """Weights by their plain names, and the sides of every adapted weight. What training renamed goes before what bears the plain name."""
    plain: dict[Key, Found] = {}
    sides: dict[Key, dict[str, tuple[Key, Found]]] = {}
    for (file, stored), found in checkpoint.found.items():
        part = parts.get(stored)
        if part is None:
            plain.setdefault((file, stored), found)
        elif part.what in ("A", "B"):
            pair = sides.setdefault((file, part.name), {})
            if part.what in pair:
                raise PlanError(
                    f"{file or checkpoint.path}: {part.name.removesuffix('.weight')} has several LoRA adapters",
                    facts=[f"{pair[part.what][0][1]} and {stored}"],
                    do="merge one of them first",
                )
            pair[part.what] = ((file, stored), found)
        elif part.what != "original":
            plain[file, part.name] = found
    return plain, sides


def _notes(parts: Mapping[str, _Part]) -> list[Note]:
    saved = sorted({part.name for part in parts.values() if part.what == "saved"})
    if not saved:
        return []
    return [
        Note("changed", f"{len(saved)} tensor(s) that were trained whole (modules_to_save) take the place of the base's: {_some(saved)}")
    ]


def _not_mentioned(checkpoint: Checkpoint, sides: Sides) -> JobError:
    said = checkpoint.lora
    facts = [f"e.g. {next(iter(sides))[1]}"]
    if said is not None and (said.r is not None or said.alpha is not None):
        facts.append(f"{said.origin} says r {said.r}, alpha {_number(said.alpha)}")
    return JobError(
        f"{checkpoint.path} holds {len(sides)} LoRA adapters, and the job does not say how to merge them",
        facts=facts,
        do="state source.lora, with r and alpha where the checkpoint does not say them",
    )


def _scaled(sides: Sides, lora: Lora, checkpoint: Checkpoint) -> Adapters:
    said = checkpoint.lora or AdapterFacts("the checkpoint")
    r, alpha, use_rslora = _settled(lora, said, lora.path or checkpoint.path)
    half = [key[1] for key, pair in sides.items() if set(pair) != {"A", "B"}]
    if half:
        raise PlanError(f"{len(half)} LoRA adapters lack A or B, e.g. {half[0]}")
    _check_shapes(sides, r, said, "source.lora.r" if lora.r is not None else f"lora_r of {said.origin}")
    pairs: dict[Key, Pair] = {}
    for key, pair in sides.items():
        module = key[1].rpartition("/")[2].removesuffix(".weight")
        own_r, own_alpha = pair["A"][1].tensor.shape[0], _of(said.alpha_pattern, module, alpha)
        scale = lora.scale or own_alpha / (sqrt(own_r) if use_rslora else own_r)
        pairs[key] = Pair(pair["A"], pair["B"], own_r, scale)
    kinds = {(pair.r, pair.scale) for pair in pairs.values()}
    first = next(iter(pairs.values()))
    whole_alpha = lora.scale * first.r if lora.scale else alpha
    return Adapters(pairs, r or first.r, whole_alpha, use_rslora, len(kinds) == 1, said.pieces)


def _settled(lora: Lora, said: AdapterFacts, path: str) -> tuple[int | None, float, bool]:
    """r, alpha and use_rslora, of the job and of the checkpoint. Raises JobError where they differ, or none of them says alpha."""
    both = {
        "r": (lora.r, said.r),
        "alpha": (lora.alpha, said.alpha),
        "use_rslora": (lora.use_rslora, said.use_rslora),
    }
    faults = [
        f"source.lora.{name}: stated {_number(given)}, it is {_number(value)} in {said.origin}"
        for name, (given, value) in both.items()
        if given is not None and value is not None and given != value
    ]
    if faults:
        raise JobError(
            "the job contradicts what the adapters were trained with", facts=faults, do="leave these out: they are read from there"
        )
    r, alpha, use_rslora = (value if given is None else given for given, value in both.values())
    if lora.scale is not None:
        _check_scale_alone(alpha, lora.use_rslora, said)
        alpha, use_rslora = lora.scale, False
    if alpha is None:
        raise JobError(
            f"neither the job nor {path} says the adapters' alpha",
            do="state source.lora.alpha (lora_alpha, --lora-alpha): what was trained with; the scale is alpha / r",
        )
    return (None if r is None else int(r)), float(alpha), bool(use_rslora)


def _check_scale_alone(alpha: float | None, use_rslora: bool | None, said: AdapterFacts) -> None:
    """Raises JobError where the scale is said and follows from something else, too."""
    if alpha is not None or use_rslora is not None or said.alpha_pattern:
        raise JobError(
            "source.lora.scale: the scale follows from alpha already",
            facts=[f"alpha is {_number(alpha)} in the job or {said.origin}"],
            do="state alpha or scale, not both",
        )


def _check_shapes(sides: Sides, r: int | None, said: AdapterFacts, where: str) -> None:
    odd = [
        f"{key[1]}: {found.tensor.dtype} {list(found.tensor.shape)}"
        for pair in sides.values()
        for key, found in pair.values()
        if len(found.tensor.shape) != 2 or not all(found.tensor.shape) or found.tensor.dtype not in FLOATS
    ]
    if odd:
        raise PlanError(
            f"{len(odd)} tensors of LoRA adapters are no matrices of floats",
            facts=odd[:SHOWN],
            do="save the adapter again: DeepSpeed ZeRO-3 and FSDP leave such tensors where they are not gathered before",
        )
    wrong = []
    for key, pair in sides.items():
        want, have = _of(said.rank_pattern, key[1].rpartition("/")[2].removesuffix(".weight"), r), pair["A"][1].tensor.shape[0]
        if want is not None and want != have:
            wrong.append(f"{key[1]}: expected {want}, found A {list(pair['A'][1].tensor.shape)}")
    if wrong:
        raise JobError(
            f"{where} is {r}; {len(wrong)} adapters have another rank, e.g. {wrong[0]}",
            facts=wrong[1:SHOWN],
            do="state the r the adapters were trained with",
        )


def _of(pattern: Mapping[str, float], module: str, default: Number) -> float | Number:
    """A module's own value, else the default (peft/utils/other.py, get_pattern_key): patterns fit the end of its name."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _module_notes(lora: Lora, sides: Sides) -> list[Note]:
    """Users pass one list of modules for every model: what of it has no adapters is said, and so is what has and is not in it."""
    if not lora.target_modules:
        return []
    modules = {key[1].removesuffix(".weight") for key in sides}
    named = set(lora.target_modules)
    unused = [name for name in lora.target_modules if not any(module == name or module.endswith(f".{name}") for module in modules)]
    others = {module.rpartition(".")[2] for module in modules if not any(module == name or module.endswith(f".{name}") for name in named)}
    notes = []
    if unused:
        notes.append(Note("ignored", f"source.lora.target_modules names {', '.join(unused)}: no adapter is for such a module"))
    if others:
        notes.append(Note("advice", f"adapters of {_some(sorted(others))} are used too, which source.lora.target_modules does not name"))
    return notes


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _number(value: float | None) -> str:
    return "nothing" if value is None else str(int(value) if value == int(value) and not isinstance(value, bool) else value)
