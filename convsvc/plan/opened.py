"""What was written opens: a target, read through its own dialect and from its files alone, is what its plan says. Reads headers only.

A plan says where each element goes; whoever loads the target has nothing but the target's own words: the tracker, the index, the
configuration, the saved args, the headers. So these are read as any source is, and must lead to the same tensors at the same places, and
say of every element of every tensor what the plan wrote there: a layout that was read back with other pipeline stages or other
key-value groups has the same names and shapes and is another model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convsvc.dialects import target_of
from convsvc.dialects.base import Wants
from convsvc.dialects.checkpoint import Found, SourceFile
from convsvc.dialects.files import index_files
from convsvc.errors import ConvsvcError, PathRefused, StorageError, VerifyError
from convsvc.families import FAMILIES
from convsvc.plan.allocation import without_collection
from convsvc.plan.plan import Plan
from convsvc.plan.planner import describe_layouts, describe_model
from convsvc.plan.published import is_published
from convsvc.plan.records import PlannedFile, Transfer, View
from convsvc.plan.source import Asked, OpenSource, open_source
from convsvc.roots import ANYWHERE, RootedPath, Roots
from convsvc.spec import Architecture, Options, SourceSpec, parse_target
from convsvc.tensors.blocks import Block, Laid

SHOWN = 12

Where = tuple[str, str]


@without_collection()
def check_opens(plan: Plan, root: str, roots: Roots = ANYWHERE) -> None:
    """The plan's target, which lies at `root` (where it is staged, or published), is read as a source and compared with the plan.

    Raises VerifyError with what differs, StorageError where the disk fails; PathRefused.
    """
    place = RootedPath(root, roots)
    found = place.look()
    real = root if found is None else found[0]
    try:
        _check(plan, place, real)
    except (StorageError, PathRefused):
        raise
    except ConvsvcError as error:
        raise _told(error, plan, (real, root)) from error


def _check(plan: Plan, root: RootedPath, real: str) -> None:
    target = target_of(plan.job["target"]["format"])
    written = target.reopened(parse_target(plan.job["target"]), root.path, plan.side_files, _stated_sizes(plan))
    if written is None:
        _check_tensors(plan, _headers(plan, root))
        target.check_words(root, plan.side_files)
        return
    source = open_source(_asked(plan, written), root.roots)
    checkpoint = source.checkpoint
    number = _check_tensors(plan, {**_stored(checkpoint.files, checkpoint.found.values(), real), **_published(plan, root)})
    _check_model(plan, source)
    kind_of = {number[_where(each.found.pieces[0], checkpoint.files, real)]: each.kind for each in source.inventory.entries}
    _check_blocks(_Claims(plan, source.inventory.kinds, kind_of))


def _asked(plan: Plan, written: SourceSpec) -> Asked:
    """What was written as a source that is read as the plan's was: by its text decoder alone, with a head of its own, where that was so."""
    modules, options = plan.facts.get("modules"), _options(plan)
    if hasattr(written, "own_head"):
        written = written.model_copy(update={"own_head": plan.facts.get("tied_embeddings") is False})
    if not modules:
        is_stated = getattr(FAMILIES.get(plan.model_type), "stated", False)
        return Asked(written, plan.model_type if is_stated else plan.job.get("model_type"), options, _wants(plan))
    if hasattr(written, "modules"):
        written = written.model_copy(update={"modules": tuple(modules)})
    return Asked(written, plan.model_type, options, _wants(plan))


def _options(plan: Plan) -> Options:
    """Those of the job's that say what was written: with training's state, and then how many rows are no padding."""
    if plan.job.get("options", {}).get("state") != "training":
        return Options()
    return Options(state="training", vocab_size=plan.facts["sizes"].get("vocab"))


def _stated_sizes(plan: Plan) -> dict[str, int]:
    """What the job had to state of its source's model, of what any format's source may state."""
    stated = plan.job["source"].get("architecture") or {}
    return {name: value for name, value in stated.items() if name in Architecture.model_fields}


def _wants(plan: Plan) -> Wants:
    """MTP layers that are only carried along have no other names than their own: they are not asked for as such."""
    transfers = [transfer for task in plan.tasks for transfer in task.transfers]
    carries = any(_is_carried(plan, each) for each in transfers) and not any(each.name.startswith("mtp.") for each in transfers)
    return Wants(0) if carries else Wants()


def _is_carried(plan: Plan, transfer: Transfer) -> bool:
    """Whether a tensor is kept under its stored name (`Model.carried`)."""
    return bool(transfer.writes) and plan.target_tensors[transfer.writes[0].places[0].tensor].name == transfer.name


def _published(plan: Plan, root: RootedPath) -> dict[Where, Found]:
    """The tensors that no model has: what is moved as it was published."""
    moved = [transfer for task in plan.tasks for transfer in task.transfers if is_published(transfer)]
    numbers = {place.tensor for transfer in moved for view in transfer.writes for place in view.places}
    if not numbers:
        return {}
    wanted = {(plan.target_files[each.file].path, each.name) for each in map(plan.target_tensors.__getitem__, numbers)}
    files = {plan.target_tensors[number].file for number in numbers}
    there = _headers(plan, root, [plan.target_files[number] for number in sorted(files)])
    return {where: found for where, found in there.items() if where in wanted}


def _headers(plan: Plan, root: RootedPath, files: Sequence[PlannedFile] | None = None) -> dict[Where, Found]:
    """Every stored tensor of the planned files, or of these, by (file, name)."""
    files = plan.target_files if files is None else files
    names = [file.path for file in files]
    indexes = index_files([root / name for name in names], [file.format for file in files])
    return {
        (name, tensor.name): Found(number, tensor)
        for number, (name, (index, _)) in enumerate(zip(names, indexes, strict=True))
        for tensor in index.tensors
    }


def _stored(files: Sequence[SourceFile], stored: Iterable[Found], real: str) -> dict[Where, Found]:
    return {_where(piece, files, real): piece for found in stored for piece in found.pieces}


def _where(found: Found, files: Sequence[SourceFile], real: str) -> Where:
    return os.path.relpath(files[found.file].path, real), found.tensor.name


def _check_tensors(plan: Plan, found: Mapping[Where, Found]) -> dict[Where, int]:
    """The plan's number of every tensor by (file, name). Raises VerifyError unless each is there, as planned, and no other is."""
    number = {(plan.target_files[tensor.file].path, tensor.name): at for at, tensor in enumerate(plan.target_tensors)}
    faults = [f"{file}: {name} is there, and is not planned" for file, name in found.keys() - number.keys()]
    for (file, name), at in number.items():
        planned, there = _shown(plan.target_tensors[at]), found.get((file, name))
        if there is None:
            faults.append(f"{file}: {name} is not there")
        elif planned != (said := _shown(there.tensor)):
            faults.append(f"{file}: {name}: planned {planned}, found {said}")
    if faults:
        raise VerifyError(f"{len(faults)} tensors are not where the plan puts them", facts=faults)
    return number


def _shown(tensor: Any) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} from byte {tensor.file_offset} on"


def _check_model(plan: Plan, source: OpenSource) -> None:
    """Family, layers, sizes, and how it is cut: what the layout follows from, compared first, as it says best what is wrong."""
    planned = {**plan.facts, **_sizes(plan.facts.get("target_layout", {}))}
    read = {**describe_model(source.model), **_sizes(describe_layouts(None, source.settings).get("target_layout", {}))}
    faults = [f"{name}: planned {planned[name]}, read {read[name]}" for name in planned if name in read and planned[name] != read[name]]
    if faults:
        raise VerifyError(f"{source.checkpoint.facts.origin} describes another model than was written", facts=faults)


def _sizes(layout: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a layout. What only one side says is another way to write the same (virtual stages by their number or their length).

    Its flags are conventions of names, which names show only where there are some. All of it is matched anyway, block by block.
    """
    return {f"cut: {name}": value for name, value in layout.items() if not isinstance(value, bool)}


@dataclass(slots=True)
class _Claims:
    """What the layout that was read back says of the plan's tensors: `kind_of` each number the kind that it is read as."""

    plan: Plan
    kinds: Sequence[Laid]
    kind_of: Mapping[int, int]
    blocks: dict[int, dict[str, list[Block]]] = field(default_factory=dict)

    def faults(self) -> Iterator[str]:
        for task in self.plan.tasks:
            for transfer in task.transfers:
                for view in () if is_published(transfer) else transfer.writes:
                    yield from self._of_view(transfer.name, transfer.sizes, view)

    def _of_view(self, name: str, sizes: tuple[int, ...], view: View) -> Iterator[str]:
        starts: dict[int, int | None] = {}
        for number, offset in view.places:
            kind = self.kind_of.get(number)
            if kind is None:
                yield f"{self._named(number)}: the layout that is read back has no such tensor"
                continue
            if kind not in starts:
                starts[kind] = _offset_of(self._blocks(kind).get(name, ()), sizes, view)
            if starts[kind] != offset and not self._keeps_its_name(number, name):
                yield f"{self._named(number)}: holds {name} {_box(view)}, and is read back as {self._read_as(self.kinds[kind])}"

    def _blocks(self, kind: int) -> dict[str, list[Block]]:
        """A kind's blocks by logical tensor."""
        found = self.blocks.get(kind)
        if found is None:
            found = self.blocks[kind] = {}
            for block in self.kinds[kind].blocks:
                found.setdefault(block.tensor.name, []).append(block)
        return found

    def _keeps_its_name(self, number: int, name: str) -> bool:
        """Whether the tensor is one that is carried as it is (`Model.carried`): then its name says all that there is to say."""
        return self.plan.target_tensors[number].name == name

    def _named(self, number: int) -> str:
        tensor = self.plan.target_tensors[number]
        return f"{self.plan.target_files[tensor.file].path}: {tensor.name}"

    def _read_as(self, laid: Laid) -> str:
        first = next(iter(laid.blocks), None)
        return "nothing" if first is None else f"{first.tensor} {_box(first)}" + (" ..." if len(laid.blocks) > 1 else "")


def _offset_of(blocks: Iterable[Block], sizes: tuple[int, ...], view: View) -> int | None:
    """Where the view's first element lies in a stored tensor of these blocks; None if no block holds the view in its order."""
    for block in blocks:
        inside = all(map(int.__le__, block.starts, view.starts)) and all(map(int.__ge__, block.stops, view.stops))
        if not inside or block.tensor.sizes != sizes:
            continue
        axes = zip(block.strides, view.strides, view.starts, view.stops, strict=True)
        if all(mine == its or stop - start == 1 for mine, its, start, stop in axes):
            return block.offset + sum((a - b) * stride for a, b, stride in zip(view.starts, block.starts, block.strides, strict=True))
    return None


def _box(box: View | Block) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in zip(box.starts, box.stops, strict=True)) + "]"


def _check_blocks(claims: _Claims) -> None:
    """What is written is what a reader takes it for: each view of each transfer lies in a block of the layout that was read back."""
    faults = list(claims.faults())
    if faults:
        raise VerifyError(f"{len(faults)} parts of the target are read back as something else than they hold", facts=faults)


def _told(error: ConvsvcError, plan: Plan, places: tuple[str, ...]) -> VerifyError:
    """The error with the target's own name instead of the place where it is read."""

    def named(text: str) -> str:
        for place in places:
            text = text.replace(place, plan.target_path)
        return text

    facts = [named(fact) for fact in error.facts]
    more = [f"and {len(facts) - SHOWN} more"] if len(facts) > SHOWN else []
    return VerifyError(
        f"{plan.target_path} does not open as what was planned: {named(error.message)}",
        facts=facts[:SHOWN] + more,
        do="nothing that reads the target would find in it what was converted; see the plan's notes and config_dir, then convert again",
        details={"target": plan.target_path, "facts": facts, "cause": type(error).__name__},
    )
