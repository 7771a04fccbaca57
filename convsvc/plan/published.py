"""The scales that a release was published with: found beside its weights, carried along where those are dequantised, given back.

Carried, they lie one behind the other in a tensor for each dtype; words beside them say whose they are. Nobody's training opens either.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from convsvc.dialects.checkpoint import Checkpoint, SourceFile
from convsvc.dialects.files import index_file
from convsvc.dialects.json_files import read_json
from convsvc.dialects.output import NewFile, Output, SideFile
from convsvc.encodings.known import ENCODINGS
from convsvc.encodings.release import BadRelease, Leaf, Release, load_release
from convsvc.errors import SourceError
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.notes import Note
from convsvc.plan.match import Inventory
from convsvc.plan.records import Coded, Place, PlannedTensor, Transfer, View
from convsvc.plan.turning import turned
from convsvc.roots import RootedPath
from convsvc.tensors.blocks import Laid
from convsvc.tensors.quick import quick

WORDS, SCALES = "published.json", "published.safetensors"
# How the transfers are called that move what is published, and no weight.
PUBLISHED = "published: "
UNKNOWN: tuple[int, int, tuple[str, ...]] = (0, 0, ())


@dataclass(frozen=True, slots=True)
class Published:
    """How a source was published, and where each kept tensor lies, in the release's order.

    `weights` are the source's tensors that are quantised now, with how many kept ones each has, as they come in that order. `files` and
    `tensors` are further ones of the source's, numbered after its own.
    """

    release: Release
    places: Sequence[Place]
    weights: Sequence[tuple[int, int]] = ()
    files: tuple[SourceFile, ...] = ()
    tensors: tuple[PlannedTensor, ...] = ()

    def by_name(self) -> dict[str, Place]:
        """Where each lies, by its whole name."""
        return dict(zip((name for name, _ in self.release.kept()), self.places, strict=True))


def is_published(transfer: Transfer) -> bool:
    """Whether a transfer moves scales as they were published."""
    return transfer.name.startswith(PUBLISHED)


def find_published(checkpoint: Checkpoint, inventory: Inventory, sources: Sequence[PlannedTensor], root: RootedPath) -> Published | None:
    """What a quantised source itself has, or what was carried along to a source that is not; None where there is neither.

    Raises SourceError for carried words that cannot be meant.
    """
    if any(each.coded is not None and ENCODINGS[each.coded.form.kind].SIGNS for each in sources):
        return _of_quantised(checkpoint, inventory, sources)
    if not (root / WORDS).is_file():
        return None
    return _carried(root, len(checkpoint.files), len(sources))


def _of_quantised(checkpoint: Checkpoint, inventory: Inventory, sources: Sequence[PlannedTensor]) -> Published:
    """Of half a million tensors each is looked at once: what leaves a weight has follows from its form and from two of their names."""
    kinds: dict[tuple[Leaf, ...], int] = {}
    known: dict[int, tuple[int, int, tuple[str, ...]]] = {}
    modules: list[tuple[str, int]] = []
    called: dict[str, str] = {}
    places: list[Place] = []
    weights: list[tuple[int, int]] = []
    published = {kind for kind, each in ENCODINGS.items() if each.SIGNS}
    for number, (kind, _, _, found) in enumerate(inventory.entries):
        encoded, coded = found.encoded, sources[number].coded
        if encoded is None or coded is None or encoded.form.kind not in published:
            continue
        form, pieces = encoded
        name, named = pieces[0].tensor.name, inventory.kinds[kind].name
        size = max(name.rfind("."), 0)
        module = named[: max(named.rfind("."), 0)]
        at, count, ends = known.get(id(form), UNKNOWN)
        if len(pieces) != count or name[size:] != ends[0] or not all(map(str.endswith, [each.tensor.name for each in pieces], ends)):
            leaves = [Leaf(each.tensor.name[size:], each.tensor.dtype, each.tensor.shape, each is not pieces[0]) for each in pieces]
            at = kinds.setdefault(tuple(leaves), len(kinds))
            known[id(form)] = at, len(pieces), tuple([leaf.leaf for leaf in leaves])
        modules.append((module, at))
        if size != len(module) or not name.startswith(module):
            called[name[:size]] = module
        places += [quick(Place, (piece, 0)) for piece in coded.pieces]
        weights.append((number, len(pieces) - 1))
    further: list[PlannedTensor] = []
    for found in checkpoint.beside:
        tensor, stored = found.tensor, found.tensor.name.rpartition(".")[0]
        leaf = Leaf(tensor.name[len(stored) :], tensor.dtype, tensor.shape, True)
        modules.append((called.get(stored, stored), kinds.setdefault((leaf,), len(kinds))))
        places.append(Place(len(sources) + len(further), 0))
        further.append(PlannedTensor(found.file, tensor.name, tensor.dtype, tensor.shape, tensor.file_offset, tensor.size_bytes))
    release = Release(checkpoint.quantised, tuple(kinds), tuple(modules))
    return Published(release, places, weights, (), tuple(further))


def _carried(root: RootedPath, files: int, tensors: int) -> Published:
    try:
        release = load_release(read_json(root / WORDS))
        release.weights()
    except BadRelease as fault:
        raise SourceError(
            f"{root / WORDS} does not say how the weights were published: {fault}",
            do="convert the release again; or remove the file: then its scales are not known",
        ) from None
    index, file = index_file(root / SCALES)
    stored = {each.name: each for each in index.tensors}
    planned = tuple([PlannedTensor(files, t.name, t.dtype, t.shape, t.file_offset, t.size_bytes) for t in stored.values()])
    number = {each.name: tensors + at for at, each in enumerate(planned)}
    lengths = _lengths(release)
    there = {name: (each.dtype, each.shape) for name, each in stored.items()}
    expected = {f"scales.{dtype}": (dtype, (length,)) for dtype, length in lengths.items()}
    if there != expected:
        raise SourceError(
            f"{root / SCALES} does not belong to {WORDS}",
            facts=[f"expected {expected}", f"found    {there}"],
            do="copy both from one conversion; or remove both: then the release's scales are not known",
        )
    places = _landed(release, {dtype: number[f"scales.{dtype}"] for dtype in lengths})
    return Published(release, places, (), (file,), planned)


def _landed(release: Release, numbers: Mapping[str, int]) -> list[Place]:
    """Where everything that is kept lies, one behind the other in the tensor of its dtype, of which `numbers` has the numbers."""
    ends, runs, places = dict.fromkeys(numbers, 0), release.runs(), []
    for _, kind in release.modules:
        for dtype, count in runs[kind]:
            at = ends[dtype]
            places.append(quick(Place, (numbers[dtype], at)))
            ends[dtype] = at + count
    return places


def _lengths(release: Release) -> dict[str, int]:
    """How many elements of each dtype are kept."""
    ends: dict[str, int] = {}
    times = Counter([kind for _, kind in release.modules])
    for kind, run in enumerate(release.runs()):
        for dtype, count in run:
            ends[dtype] = ends.get(dtype, 0) + times[kind] * count
    return dict(sorted(ends.items()))


def carry(published: Published, output: Output) -> Output:
    """The output with the scales and the words about them beside it."""
    lengths = _lengths(published.release)
    specs = [TensorSpec(f"scales.{dtype}", dtype, (length,)) for dtype, length in lengths.items()]
    text = json.dumps(published.release.as_json(), separators=(",", ":")) + "\n"
    count, size = len(published.places), sum(spec.size_bytes for spec in specs)
    note = Note("carried", f"{count} scales of the release ({size} bytes) are kept for the way back (like-source) in {SCALES} and {WORDS}")
    return replace(
        output,
        files=(*output.files, NewFile(SCALES, "safetensors", len(output.skeletons))),
        skeletons=(*output.skeletons, safetensors.plan_skeleton(specs)),
        side_files=(SideFile(WORDS, text=text), *output.side_files),
        notes=(*output.notes, note),
        beside=tuple([(SCALES, spec.name) for spec in specs]),
    )


def as_encoded(kinds: tuple[Laid, ...], output: Output) -> tuple[Laid, ...]:
    """The layout's kinds, of which those that are encoded turned lie so."""
    turns = {name for name, written in output.encoded.items() if written.form.turned}
    return tuple([turned(laid) if laid.name in turns else laid for laid in kinds]) if turns else kinds


class _Runs(NamedTuple):
    """What is kept of one dtype, as it follows each other: where it is, where it goes, and where it ends on one long axis."""

    here: list[Place]
    there: list[Place]
    ends: list[int]

    def transfer(self, dtype: str) -> Transfer:
        edges = [(0,), *zip(self.ends, strict=True)]
        reads = [quick(View, (start, stop, (1,), (place,))) for place, start, stop in zip(self.here, edges, edges[1:], strict=False)]
        return Transfer(f"{PUBLISHED}{dtype}", (self.ends[-1],), (0,), tuple(reads), tuple(self._writes()))

    def _writes(self) -> Iterator[View]:
        """Those that follow each other in a stored tensor are one."""
        first, start, end = self.there[0], 0, 0
        for place, stop in zip(self.there, self.ends, strict=True):
            if place.tensor != first.tensor or place.offset - first.offset != end - start:
                yield View((start,), (end,), (1,), (first,))
                first, start = place, end
            end = stop
        yield View((start,), (end,), (1,), (first,))


def _moved(release: Release, places: Sequence[Place], landed: Sequence[Place | None]) -> tuple[tuple[str, Transfer], ...]:
    """A transfer for each dtype of what is kept and lands somewhere by itself."""
    runs: dict[str, _Runs] = {}
    kept = release.runs()
    moves = zip([run for _, kind in release.modules for run in kept[kind]], places, landed, strict=True)
    for (dtype, count), here, there in moves:
        if count and there is not None:
            run = runs.get(dtype)
            if run is None:
                run = runs[dtype] = _Runs([], [], [])
            run.here.append(here)
            run.there.append(there)
            run.ends.append(count + (run.ends[-1] if run.ends else 0))
    return tuple([(PUBLISHED, each.transfer(dtype)) for dtype, each in sorted(runs.items())])


class Given(NamedTuple):
    """Both sides' tensors, told which are encoded with published scales, and the transfers that move these, with their units."""

    sources: tuple[PlannedTensor, ...]
    targets: tuple[PlannedTensor, ...]
    transfers: tuple[tuple[str, Transfer], ...]


def give_back(
    published: Published, sources: Sequence[PlannedTensor], targets: Sequence[PlannedTensor], output: Output, way_back: bool
) -> Given:
    """A plan's tensors and transfers where published scales go along: each is carried, or is what a target's weight is encoded with.

    With `way_back` the source's weights are told where their scales went: from there they are computed again.
    """
    first, release = len(targets) - len(output.beside), published.release
    numbers = {each.name: first + at for at, each in enumerate(targets[first:])}
    made = (*sources, *published.tensors)
    if any(file == SCALES for file, _ in output.beside):
        landed = _landed(release, {dtype: numbers[f"scales.{dtype}"] for dtype in _lengths(release)})
        return Given(
            _with_own(made, published.weights if way_back else (), landed), tuple(targets), _moved(release, published.places, landed)
        )
    names = {each.names[0]: each.names[1:] for each in output.encoded.values()}
    places, given = published.by_name(), {name: Place(at, 0) for name, at in numbers.items()}
    alone = [given.get(name) for name, _ in release.kept()]
    told = list(targets)
    for number, tensor in enumerate(targets):
        if tensor.coded is not None and tensor.name in names:
            told[number] = _with(tensor, tuple([places[name] for name in names[tensor.name]]))
            given |= {name: Place(at, 0) for name, at in zip(names[tensor.name], tensor.coded.pieces, strict=True)}
    everywhere = [given[name] for name, _ in release.kept()]
    return Given(_with_own(made, published.weights if way_back else (), everywhere), tuple(told), _moved(release, published.places, alone))


def _with_own(tensors: Sequence[PlannedTensor], weights: Iterable[tuple[int, int]], landed: Sequence[Place]) -> tuple[PlannedTensor, ...]:
    """The tensors, of which the weights (number, pieces) are encoded with what landed, one behind the other."""
    made, at = list(tensors), 0
    for number, count in weights:
        made[number] = _with(made[number], tuple(landed[at : at + count]))
        at += count
    return tuple(made)


def _with(tensor: PlannedTensor, own: tuple[Place, ...]) -> PlannedTensor:
    file, name, dtype, shape, file_offset, size_bytes, coded = tensor
    assert coded is not None, "only what is encoded has pieces"
    return PlannedTensor(file, name, dtype, shape, file_offset, size_bytes, Coded(coded.form, coded.pieces, coded.dtype, own))
