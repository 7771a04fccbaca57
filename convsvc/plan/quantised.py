"""Weights that are quantised: each joined from the stored tensors that it is made of, checked, planned. Pure.

Which tensors these are and what they mean is the encodings' business. Factors lie along the stored tensor's rows and columns, so they are
no weights of the model: they are joined to theirs before tensors are matched. Those count as BF16, which their unquantised twins are;
as F32 where the job asks for fp32 or fp16, so that nothing is rounded twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

from convsvc.dialects.checkpoint import Checkpoint, Encoded, Found
from convsvc.encodings.base import Claim, Form, Incomplete, Missaid, Part, Unfit, Unread
from convsvc.encodings.known import ENCODINGS, claims, said_under, unread_words
from convsvc.encodings.release import quantisation_words
from convsvc.errors import PlanError, SourceError
from convsvc.formats.base import StoredTensor, tensor_bytes
from convsvc.models.facts import Facts, shown
from convsvc.notes import Note
from convsvc.plan.match import Located
from convsvc.plan.mismatch import SHOWN
from convsvc.plan.records import Coded, PlannedTensor
from convsvc.tensors.quick import quick

Key = tuple[str, str]
# The end of a tensor's name, its dtype and its shape.
Leaf = tuple[str, str, tuple[int, ...]]
FLOAT8 = ("F8_E4M3", "F8_E5M2")
SCALE_DTYPES = ("F32", "BF16", "F16", "F8_E8M0")
BARE = ("I8", "U8")
CONFIGS = ("quantization_config", "compression_config")
# Factors for activations and for the cache, beside a module's weight; nothing of the weights (HF, ModelOpt, compressed-tensors, vLLM).
BESIDE = re.compile(r"(\.|_)(input|output|activation|k|v|q|kv|prob|input_global)_scale$|\.kv_cache_scaling_factor$")
# The ends of a tensor after which, and an underscore, such a factor is named.
NAMED_AFTER = ("", ".weight", "_weight", "_blocks", "_packed", "_weight_packed", ".weight_packed")
# What only encodings call tensors so, which are joined to their weights.
PIECES = tuple(
    [f".weight_{end}" for end in ("scale", "scale_inv", "scale_2", "global_scale", "packed", "shape", "zero_point", "g_idx")]
    + [".qweight", ".qzeros", ".g_idx"]
    + [f"proj_{end}" for end in ("blocks", "scales", "scale_inv")]
)
BESIDE_ENDS = ("_scale", "_scaling_factor")


def join_pieces(checkpoint: Checkpoint, dtype: str = "BF16") -> Checkpoint:
    """The checkpoint with every quantised weight joined from its pieces, and with a configuration that no longer says it is quantised.

    `dtype`: what the values count as, BF16 or F32.

    Raises SourceError for weights that are quantised in a way that is not read, for a piece without the others; PlanError for pieces
    that do not fit.
    """
    found = _claimed(checkpoint, dtype)
    rest = dict(compress(checkpoint.found.items(), found.free)) if found.joined else checkpoint.found
    beside = {key for key in rest if key[1].endswith(BESIDE_ENDS) and _is_beside(key, checkpoint.found)}
    _check_pieces(checkpoint.path, rest)
    _check_bare(checkpoint.path, rest)
    if not found.joined and not beside:
        return checkpoint
    checkpoint = replace(
        checkpoint, beside=tuple([checkpoint.found[key] for key in sorted(beside)]), quantised=quantisation_words(checkpoint.facts.values)
    )
    joined = {key: each for key, each in rest.items() if key not in beside}
    joined |= found.joined
    notes = [_beside_note(beside)] if beside else []
    if not found.joined:
        return replace(checkpoint, found=joined, notes=(*checkpoint.notes, *notes))
    facts = Facts({name: value for name, value in checkpoint.facts.values.items() if name not in CONFIGS}, checkpoint.facts.origin)
    notes.append(_note(len(found.joined), found.forms, dtype))
    return replace(checkpoint, found=joined, facts=facts, notes=(*checkpoint.notes, *notes))


def product_dtype(wanted: str | None) -> str:
    """What products count as where the job wants this dtype: F32 where BF16 would lose bits that are wanted.

    >>> [product_dtype(wanted) for wanted in (None, "bf16", "fp16", "fp32")]
    ['BF16', 'BF16', 'F32', 'F32']
    """
    return "F32" if wanted in ("fp32", "fp16") else "BF16"


def describe_encodings(found: Iterable[Found]) -> dict[str, Any]:
    """How many weights are quantised, how, and what shares a scale; empty where none is."""
    forms = [each.encoded.form for each in found if each.encoded is not None]
    if not forms:
        return {}
    kinds = Counter(ENCODINGS[form.kind].TITLE for form in forms)
    return {"tensors": len(forms), "encodings": dict(kinds.most_common()), "one_scale_for": _shared(forms)}


def plan_sources(located: Sequence[Located]) -> tuple[PlannedTensor, ...]:
    """The source's tensors, numbered as they are located; after them the further pieces of those that are quantised."""
    planned: list[PlannedTensor] = []
    further: list[PlannedTensor] = []
    end = len(located)
    for _, _, _, found in located:
        if found.encoded is None:
            planned.append(_planned(found))
            continue
        form, (codes, *rest) = found.encoded
        first, end = end, end + len(rest)
        further += map(_planned, rest)
        file, (_, dtype, shape, file_offset), _ = codes
        coded = quick(Coded, (form, tuple(range(first, end)), found.tensor.dtype, ()))
        planned.append(quick(PlannedTensor, (file, found.tensor.name, dtype, form.shape, file_offset, tensor_bytes(dtype, shape), coded)))
    return (*planned, *further)


def _planned(found: Found) -> PlannedTensor:
    file, (name, dtype, shape, file_offset), _ = found
    return quick(PlannedTensor, (file, name, dtype, shape, file_offset, tensor_bytes(dtype, shape), None))


@dataclass(slots=True)
class _Claimed:
    """The weights that encodings have recognised, their forms; a 1 for each tensor that is no piece of one; what is wrong with others."""

    joined: dict[Key, Found] = field(default_factory=dict)
    forms: dict[int, Form] = field(default_factory=dict)
    free: bytearray = field(default_factory=bytearray)
    unfit: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


class _Look:
    """What encodings see of a checkpoint beside one of its tensors."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._parts: Mapping[str, Part] = {}
        inner = checkpoint.facts.get("text_config")
        places = (checkpoint.facts.values, inner if isinstance(inner, Mapping) else {})
        self._config = [place[name] for place in places for name in CONFIGS if isinstance(place.get(name), Mapping)]
        self._said: dict[str, tuple[Any, ...]] = {}

    def among(self, parts: Mapping[str, Part]) -> _Look:
        self._parts = parts
        return self

    def part(self, name: str) -> Part | None:
        return self._parts.get(name)

    def said(self, name: str) -> tuple[Any, ...]:
        if name not in self._said:
            self._said[name] = said_under(self._config, name)
        return self._said[name]

    @property
    def method(self) -> str | None:
        """What the configuration calls it."""
        parts = [
            str(value)[:60] for name in ("quant_method", "quant_algo", "format") for value in self.said(name)[:1] if isinstance(value, str)
        ]
        return ", ".join(parts) or None


def _claimed(checkpoint: Checkpoint, dtype: str) -> _Claimed:
    """All that encodings recognise. Raises SourceError, PlanError for what is wrong with any of it.

    Modules whose tensors are called alike, and are alike in dtype and shape, are quantised alike: of a million one is looked at.
    """
    claimed, signs = _Claimed(), tuple(ENCODINGS.by_sign)
    if not any(name.endswith(signs) for _, name in checkpoint.found):
        return claimed
    look, there = _Look(checkpoint), list(checkpoint.found.values())
    claimed.free = bytearray(b"\1") * len(there)
    leaves, kinds, modules = _modules(checkpoint.found)
    known: dict[tuple[int, ...], list[tuple[Claim, tuple[int, ...]]] | None] = {}
    for (file, module), members in modules.items():
        alike = tuple([kinds[at] for at in members])
        if alike not in known:
            known[alike] = _placed_claims([leaves[kind] for kind in alike], look)
        claims = known[alike]
        if claims is None:
            _explain(claimed, module, [leaves[kind] for kind in alike], look, checkpoint.facts.origin)
            continue
        for claim, places in claims:
            pieces = []
            for place in places:
                at = members[place]
                claimed.free[at] = 0
                pieces.append(there[at])
            name, form, codes = module + claim.name, claim.form, pieces[0]
            claimed.forms[id(form)] = form
            tensor = quick(StoredTensor, (name, dtype, form.seen_shape, codes.tensor.file_offset))
            claimed.joined[file, name] = quick(Found, (codes.file, tensor, quick(Encoded, (form, tuple(pieces)))))
    if claimed.joined and (words := unread_words(look)):
        claimed.unread[words] = len(claimed.joined)
        claimed.examples[words] = next(iter(claimed.joined))[1]
    _refuse(checkpoint, claimed, look.method)
    return claimed


def _modules(found: Mapping[Key, Found]) -> tuple[list[Leaf], list[int], dict[Key, list[int]]]:
    """The kinds of leaves that there are, which one each tensor is, and the tensors' numbers by their modules.

    A module is (file, what stands before a name's last dot), its leaf what is left of the name.
    """
    leaves: dict[Leaf, int] = {}
    kinds: list[int] = []
    modules: dict[Key, list[int]] = {}
    last: Key | None = None
    members: list[int] = []
    for at, ((file, name), (_, (_, dtype, shape, _), _)) in enumerate(found.items()):
        end = max(name.rfind("."), 0)
        kinds.append(leaves.setdefault((name[end:], dtype, shape), len(leaves)))
        module = file, name[:end]
        if module != last:
            last, members = module, modules.setdefault(module, [])
        members.append(at)
    return list(leaves), kinds, modules


def _placed_claims(alike: Sequence[Leaf], look: _Look) -> list[tuple[Claim, tuple[int, ...]]] | None:
    """`_claims`, and where in the module the pieces of each are."""
    claims = _claims(alike, look)
    place = {leaf: at for at, (leaf, _, _) in enumerate(alike)}
    return None if claims is None else [(claim, tuple([place[piece] for piece in claim.pieces])) for claim in claims]


def _claims(alike: Iterable[Leaf], look: _Look) -> list[Claim] | None:
    """The weights of a module, by what is left of names; None where something is wrong with them."""
    parts = {leaf: Part(dtype, shape) for leaf, dtype, shape in alike}
    try:
        found = [claim for leaf in parts for claim in claims(leaf, look.among(parts))]
    except (Unfit, Incomplete, Unread, Missaid):
        return None
    return found if len({claim.name for claim in found}) == len(found) else None


def _explain(claimed: _Claimed, module: str, alike: Iterable[Leaf], look: _Look, origin: str) -> None:
    """What is wrong with a module's tensors, by their names. Raises SourceError where the configuration is what is wrong."""
    parts = {module + leaf: Part(dtype, shape) for leaf, dtype, shape in alike}
    found: dict[str, Claim] = {}
    for name in parts:
        try:
            for claim in claims(name, look.among(parts)):
                if claim.name in found:
                    raise Unfit(f"{claim.name}: {', '.join(found[claim.name].pieces)} or {', '.join(claim.pieces)} are it")
                found[claim.name] = claim
        except Missaid as fault:
            raise SourceError(f"{origin}: {CONFIGS[0]}.{fault}") from None
        except Unfit as fault:
            claimed.unfit.append(str(fault))
        except Incomplete as fault:
            claimed.incomplete.append(str(fault))
        except Unread as fault:
            claimed.unread[str(fault)] += 1
            claimed.examples.setdefault(str(fault), name)


def _refuse(checkpoint: Checkpoint, claimed: _Claimed, said: str | None) -> None:
    if claimed.unread:
        names = " and ".join(kind for kind, _ in claimed.unread.most_common())
        raise SourceError(
            f"{checkpoint.path} is quantised: {names}, which is not read",
            facts=[f"{kind}: {count} weights, e.g. {claimed.examples[kind]}" for kind, count in claimed.unread.most_common()]
            + ([f"{checkpoint.facts.origin} says {CONFIGS[0]} {shown(said)}"] if said else []),
            do="give the checkpoint it was made from (bf16, fp16, fp32 or float8), or dequantise it first: load it with transformers and "
            "`dequantize`, and save it",
        )
    if claimed.incomplete:
        raise SourceError(
            f"{checkpoint.path}: {len(claimed.incomplete)} quantised weights are not whole: {claimed.incomplete[0]}",
            facts=claimed.incomplete[:SHOWN],
            do="fetch the checkpoint again: without all of its parts a weight's numbers mean nothing",
        )
    if claimed.unfit:
        raise PlanError(
            f"{checkpoint.path}: {len(claimed.unfit)} scales do not fit their weights",
            facts=claimed.unfit[:SHOWN],
            do=f"a tensor has one scale, one for each row ([rows, 1]), or one for each block or group: check weight_block_size and "
            f"group_size of {CONFIGS[0]} in {checkpoint.facts.origin}",
        )


def _check_pieces(path: str, found: Mapping[Key, Found]) -> None:
    """Raises SourceError for pieces of quantised weights that are no weight's; `found` is what no encoding has recognised."""
    left = [key for key in found if key[1].endswith(PIECES)]
    if not left:
        return
    raise SourceError(
        f"{path}: {len(left)} tensors belong to quantised weights, and to none that is here: {left[0][1]}",
        facts=[_beside_what(key, found) for key in left[:SHOWN]],
        do="fetch the checkpoint again; or, where another tool has changed some of its weights, the one that those were made from: a "
        "piece beside a weight that is not stored so is a sign that one of both is another's",
    )


def _beside_what(key: Key, found: Mapping[Key, Found]) -> str:
    """A piece that is left, and what it was found with in its module."""
    where, name = key
    module = name.rpartition(".")[0] + "."
    others = [other for file, other in found if file == where and other != name and other.startswith(module)]
    beside = [f"{other} {found[where, other].tensor.dtype} {list(found[where, other].tensor.shape)}" for other in others]
    tensor = found[key].tensor
    expected = "a weight in codes, which it belongs to"
    return f"{name} {tensor.dtype} {list(tensor.shape)}: expected {expected}, found {', '.join(beside[:3]) or 'nothing'} beside it"


def _check_bare(path: str, found: Mapping[Key, Found]) -> None:
    """Raises SourceError for numbers of one byte that nothing says the meaning of; `found` is what no encoding has recognised."""
    bare = [(name, each.tensor.dtype) for (_, name), each in found.items() if _is_bare(name, each.tensor.dtype)]
    if bare:
        what = f"{len(bare)} float8 tensors have no scale (X.weight_scale_inv or X.weight_scale for X.weight)"
        if any(dtype in BARE for _, dtype in bare):
            what = f"{len(bare)} weights are stored as integers without a scale: quantised in a way that is not known"
        raise SourceError(
            f"{path}: {what}",
            facts=[f"{name}: {dtype}" for name, dtype in bare[:SHOWN]],
            do="fetch the scales, or use a bf16 checkpoint: without them the numbers mean nothing",
        )


def _is_bare(name: str, dtype: str) -> bool:
    return dtype in FLOAT8 or (dtype in BARE and name.endswith((".weight", "_blocks")))


def _note(count: int, known: Mapping[int, Form], dtype: str) -> Note:
    forms = list(known.values())
    to, rounded = ("bf16", ", rounded once") if dtype == "BF16" else ("fp32", "")
    kinds = " and ".join(dict.fromkeys(ENCODINGS[form.kind].TITLE for form in forms))
    return Note("changed", f"{count} tensors are dequantised to {to}: {kinds} x a scale for each {_shared(forms)}{rounded}")


def _shared(forms: Sequence[Form]) -> str:
    """What shares a scale: "tensor", "row", or "128 x 128 block"."""
    return " or ".join(sorted({form.shared_by for form in forms}))


def _beside_note(beside: set[Key]) -> Note:
    first = min(name for _, name in beside)
    return Note("ignored", f"{len(beside)} scales of activations or of the key-value cache, e.g. {first}: not weights")


def _is_beside(key: Key, found: Mapping[Key, Found]) -> bool:
    """Numbers or short lists beside a module's weight. One that is named after a tensor (`down_proj_input_scale`) has that beside it: a
    model may have a weight of its own with such a name (Gemma 3n's `correct_output_scale`)."""
    tensor, (where, name) = found[key].tensor, key
    named = BESIDE.search(name)
    if named is None or len(tensor.shape) > 1 or tensor.dtype not in SCALE_DTYPES:
        return False
    return named[1] != "_" or any((where, name[: named.start()] + end) in found for end in NAMED_AFTER)
