"""Whether two checkpoints are the same model: any formats that are read, any cuts, whoever wrote them. What `convsvc verify A B` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

from convsvc.roots import ANYWHERE, RootedPath, Roots

if TYPE_CHECKING:
    from convsvc.engine.listener import Listener
    from convsvc.execute.check.pairs import Counted, Difference
    from convsvc.plan.pairs import Pairs, Side
    from convsvc.plan.source import Asked, OpenSource


# What makes two checkpoints not the same model: in the answer, and in words.
FAULTS = {
    "other_model": "another model",
    "other_shape": "another shape",
    "only_a": "only in a",
    "only_b": "only in b",
    "different": "differs",
    "copies": "copies differ",
}


def compare(
    a: str,
    b: str,
    *,
    model_type: str | None = None,
    iteration: str | tuple[str | None, str | None] | None = None,
    modules: Sequence[str] | None = None,
    listener: Listener | None = None,
    roots: Roots = ANYWHERE,
) -> dict[str, Any]:
    """Compares the checkpoints at two paths, tensor by tensor and every copy, in bounded memory. Writes nothing.

    What lies there is detected. `model_type` is stated for both, `iteration` for rank files, of both or of each, `modules`
    (["text_decoder"]) where no more of a model of several is to be compared. Answers, as JSON:

        same           whether all tensors are on both sides and hold the same values
        different      the tensors that do not: {"name", "a", "b" (stored names), "elements", "of", "max_abs", "first" (index), "values"}
        only_a, only_b names of tensors that one side has
        other_shape    tensors of another shape, or of types that cannot be compared
        other_model    sizes in which the models differ
        copies         tensors of which a side itself holds copies that differ
        dtypes         {"BF16 and F32": how many}: stored in other types, compared by value
        a, b           what each is; compared, bytes_read

    Raises what opening a source raises: each must be a whole checkpoint of a known family.
    """
    from convsvc.engine.listener import Listener
    from convsvc.execute.check.pairs import compare_pairs, cut_batches
    from convsvc.plan.inspect import ask_for
    from convsvc.plan.pairs import lay_side, pair_sides

    told = listener or Listener()
    told.phase("open", 0)
    iterations = iteration if isinstance(iteration, tuple) else (iteration, iteration)
    asked = tuple(
        ask_for(RootedPath(path, roots), model_type, iteration=said, modules=modules) for path, said in zip((a, b), iterations, strict=True)
    )
    sides = tuple(lay_side(source, decoder_alone=modules is not None) for source in _alike(asked, roots))
    pairs = pair_sides(sides[0], sides[1])
    batches = cut_batches(pairs.pairs)
    told.phase("compare", len(batches))
    counted = compare_pairs(
        (sides[0], sides[1]), pairs.pairs, batches, lambda number, read: told.task_done(number, {"bytes_read": read}), roots
    )
    return _answer((sides[0], sides[1]), asked, pairs, counted)


def _alike(asked: Sequence[Asked], roots: Roots) -> tuple[OpenSource, OpenSource]:
    """Both, opened so that what one of them does not say is taken from the other: the model, the vocabulary without padding, MTP layers."""
    from convsvc.dialects.base import Wants
    from convsvc.plan.source import open_source
    from convsvc.spec import Options

    opened = [_open_with(mine, other, roots) for mine, other in (asked, asked[::-1])]
    asked, sources = [each for each, _ in opened], [source for _, source in opened]
    for mine, other in ((0, 1), (1, 0)):
        model, its, again = sources[mine].model, sources[other].model, asked[mine]
        if sources[mine].checkpoint.facts.get("vocab_size") is None and its.sizes["vocab"] < model.sizes["vocab"]:
            again = replace(again, options=Options(vocab_size=its.sizes["vocab"]))
        if model.num_mtp and not its.num_mtp:
            # The other side has them as tensors that are carried along, if at all: they are not asked for here either.
            again = replace(again, wants=Wants(0))
        if again is not asked[mine]:
            sources[mine] = open_source(again, roots)
    return sources[0], sources[1]


def _open_with(asked: Asked, other: Asked, roots: Roots) -> tuple[Asked, OpenSource]:
    """A side, with the other's configuration where its own words do not say which model it is: training's saved args never say all."""
    from convsvc.dialects import source_of
    from convsvc.errors import JobError, LayoutError, SourceError
    from convsvc.plan.source import open_source

    try:
        return asked, open_source(asked, roots)
    except (JobError, SourceError, LayoutError):
        its = source_of(other.source.format).words_dir(other.source)
        if its is None or "config_dir" not in type(asked.source).model_fields or asked.source.model_dump()["config_dir"] is not None:
            raise
    told = replace(asked, source=asked.source.model_copy(update={"config_dir": its}))
    return told, open_source(told, roots)


def _answer(sides: tuple[Side, Side], asked: Sequence[Asked], pairs: Pairs, counted: Counted) -> dict[str, Any]:
    different = [_difference(sides, pairs, number, found) for number, found in sorted(counted.between.items())]
    copies = [f"{pairs.pairs[number].tensor.name} in {side}: {_told(found)}" for (side, number), found in sorted(counted.copies.items())]
    dtypes: dict[str, int] = {}
    for pair in pairs.pairs:
        if pair.dtypes[0] != pair.dtypes[1]:
            said = " and ".join(pair.dtypes)
            dtypes[said] = dtypes.get(said, 0) + 1
    faults = (different, pairs.only_a, pairs.only_b, pairs.other_shape, pairs.other_model, copies)
    return {
        "same": not any(faults),
        "a": _about(sides[0], asked[0]),
        "b": _about(sides[1], asked[1]),
        "compared": len(pairs.pairs),
        "bytes_read": counted.bytes_read,
        "different": different,
        "only_a": [f"{name} ({', '.join(sides[0].stored(name)[:4])})" for name in pairs.only_a],
        "only_b": [f"{name} ({', '.join(sides[1].stored(name)[:4])})" for name in pairs.only_b],
        "other_shape": list(pairs.other_shape),
        "other_model": list(pairs.other_model),
        "copies": copies,
        "dtypes": dtypes,
        "advice": list(pairs.advice),
    }


def _difference(sides: tuple[Side, Side], pairs: Pairs, number: int, found: Difference) -> dict[str, Any]:
    tensor = pairs.pairs[number].tensor
    stored = {name: side.stored(tensor.name) if tensor.name in side.gathered else [] for name, side in zip("ab", sides, strict=True)}
    return {
        "name": tensor.name,
        **{side: names[:4] for side, names in stored.items()},
        "elements": found.elements,
        "of": prod(tensor.sizes),
        "max_abs": found.max_abs if found.max_abs is not None and isfinite(found.max_abs) else None,
        "first": list(found.first),
        "values": list(found.values),
    }


def _told(found: Difference) -> str:
    return f"{found.elements} elements differ between its copies, first at {list(found.first)}: {' and '.join(found.values)}"


def _about(side: Side, asked: Asked) -> dict[str, Any]:
    source = side.source
    about = {"path": asked.source.path, "format": asked.source.format, "model_type": source.model.family.name, "files": len(side.files)}
    if hasattr(source.settings, "parallel"):
        parallel = asdict(source.settings.parallel)
        about["parallel"] = {name: list(size) if isinstance(size, tuple) else size for name, size in parallel.items()}
    notes = [note.as_dict() for note in (*asked.detected.notes, *source.notes)]
    if side.aside:
        notes.append({"kind": "ignored", "text": f"{side.aside} tensors beside the text decoder are not compared: it alone is asked for"})
    return about | {**asked.detected.stated, "notes": notes}


def differences(result: dict[str, Any], most: int) -> Iterator[str]:
    """A line for each difference in an answer of `compare`, of each kind at most so many. Of an answer that was cut, `left_off` counts."""
    for name, what in FAULTS.items():
        count = len(result[name]) + result.get("left_off", {}).get(name, 0)
        for item in result[name][:most]:
            yield f"{what}: {_in_words(item) if name == 'different' else item}"
        if count > most:
            yield f"{what}: and {count - most} more (--json lists all)"


def _in_words(found: dict[str, Any]) -> str:
    apart = "by no finite number" if found["max_abs"] is None else f"at most {found['max_abs']:.6g} apart"
    first = f"first at {found['first']}: {found['values'][0]} and {found['values'][1]}"
    return f"{found['name']} in {found['elements']} of {found['of']} elements, {apart}, {first}"
