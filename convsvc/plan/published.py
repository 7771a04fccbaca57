"""The scales that a release was published with: found beside its weights, carried along where those are dequantised, given back.

Carried, they lie one behind the other in a tensor for each dtype; words beside them say whose they are. Nobody's training opens either.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from convsvc.dialects.base import Checkpoint, NewFile, Output, SideFile, SourceFile
from convsvc.dialects.files import index_file
from convsvc.dialects.json_files import read_json
from convsvc.encodings.known import ENCODINGS
from convsvc.encodings.release import BadRelease, Leaf, Release, load_release
from convsvc.errors import SourceError
from convsvc.formats import safetensors
from convsvc.formats.base import StoredTensor, TensorSpec
from convsvc.notes import Note
from convsvc.plan.match import Inventory
from convsvc.plan.records import Place, PlannedTensor, Transfer, View
from convsvc.plan.turning import turned
from convsvc.roots import RootedPath
from convsvc.tensors.blocks import Laid

WORDS, SCALES = "published.json", "published.safetensors"
# How the transfers are called that move what is published, and no weight.
PUBLISHED = "published: "
Places = Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Published:
    """How a source was published, and where each kept tensor lies, by its whole name.

    `files` and `tensors` are further ones of the source's, numbered after its own.
    """

    release: Release
    places: Places
    files: tuple[SourceFile, ...] = ()
    tensors: tuple[PlannedTensor, ...] = ()


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
    modules: dict[str, list[Leaf]] = {}
    called: dict[str, str] = {}
    places: dict[str, Place] = {}
    leaves: dict[tuple[str, str, tuple[int, ...], bool], Leaf] = {}
    names = [laid.name.rpartition(".")[0] for laid in inventory.kinds]

    def add(module: str, stored: str, tensor: StoredTensor, kept: bool) -> str:
        what = tensor.name[len(stored) :], tensor.dtype, tensor.shape, kept
        leaf = leaves.get(what) or leaves.setdefault(what, Leaf(*what))
        modules.setdefault(module, []).append(leaf)
        return module + leaf.leaf

    for number, each in enumerate(inventory.entries):
        encoded, coded = each.found.encoded, sources[number].coded
        if encoded is None or coded is None or not ENCODINGS[encoded.form.kind].SIGNS:
            continue
        module, stored = names[each.kind], encoded.pieces[0].tensor.name.rpartition(".")[0]
        called[stored] = module
        add(module, stored, encoded.pieces[0].tensor, False)
        for piece, at in zip(encoded.pieces[1:], coded.pieces, strict=True):
            places[add(module, stored, piece.tensor, True)] = Place(at, 0)
    further: list[PlannedTensor] = []
    for found in checkpoint.beside:
        tensor = found.tensor
        stored = tensor.name.rpartition(".")[0]
        name = add(called.get(stored, stored), stored, tensor, True)
        places[name] = Place(len(sources) + len(further), 0)
        further.append(PlannedTensor(found.file, tensor.name, tensor.dtype, tensor.shape, tensor.file_offset, tensor.size_bytes))
    kinds: dict[tuple[Leaf, ...], int] = {}
    named = tuple([(module, kinds.setdefault(tuple(held), len(kinds))) for module, held in modules.items()])
    return Published(Release(checkpoint.quantised, tuple(kinds), named), places, (), tuple(further))


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
    places = {name: Place(number[f"scales.{dtype}"], at) for name, dtype, at in _offsets(release)}
    return Published(release, places, (file,), planned)


def _offsets(release: Release) -> Iterator[tuple[str, str, int]]:
    """(name, dtype, first element) of everything that is kept, in the tensor of its dtype."""
    ends: dict[str, int] = {}
    for name, leaf in release.kept():
        at = ends.get(leaf.dtype, 0)
        yield name, leaf.dtype, at
        ends[leaf.dtype] = at + prod(leaf.shape)


def _lengths(release: Release) -> dict[str, int]:
    ends: dict[str, int] = {}
    for _, leaf in release.kept():
        ends[leaf.dtype] = ends.get(leaf.dtype, 0) + prod(leaf.shape)
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


def carried_places(published: Published, numbers: Mapping[str, int]) -> dict[str, Place]:
    """Where each kept tensor goes; `numbers` are the target tensors' by their stored names."""
    return {name: Place(numbers[f"scales.{dtype}"], at) for name, dtype, at in _offsets(published.release)}


def published_transfers(published: Published, landed: Places, names: Iterable[tuple[str, Leaf]]) -> Iterator[Transfer]:
    """For each dtype a transfer of these kept tensors, as runs of one long axis."""
    runs: dict[str, list[tuple[Place, Place, int]]] = {}
    for name, leaf in names:
        if (count := prod(leaf.shape)) and name in landed:
            runs.setdefault(leaf.dtype, []).append((published.places[name], landed[name], count))
    for dtype, listed in sorted(runs.items()):
        reads, writes = _joined((here, count) for here, _, count in listed), _joined((there, count) for _, there, count in listed)
        length = reads[-1].stops[0]
        yield Transfer(f"{PUBLISHED}{dtype}", (length,), (0,), tuple(reads), tuple(writes))


def _joined(runs: Iterable[tuple[Place, int]]) -> list[View]:
    """Runs that follow each other as views, where they do so in a stored tensor, too, as one."""
    views: list[tuple[int, int, Place]] = []
    at = 0
    for place, count in runs:
        if views and (views[-1][2].tensor, views[-1][2].offset + views[-1][1] - views[-1][0]) == place:
            views[-1] = (views[-1][0], at + count, views[-1][2])
        else:
            views.append((at, at + count, place))
        at += count
    return [View((start,), (stop,), (1,), (place,)) for start, stop, place in views]


class Given(NamedTuple):
    """Both sides' tensors, told which are encoded with published scales, and the transfers that move these, with their units."""

    sources: tuple[PlannedTensor, ...]
    targets: tuple[PlannedTensor, ...]
    transfers: tuple[tuple[str, Transfer], ...]


def give_back(
    published: Published, inventory: Inventory, sources: Sequence[PlannedTensor], targets: Sequence[PlannedTensor], output: Output
) -> Given:
    """A plan's tensors and transfers where published scales go along: each is carried, or is what a target's weight is encoded with.

    The way back is told, too: a quantised source is computed again with the scales where they went.
    """
    first = len(targets) - len(output.beside)
    numbers = {each.name: first + at for at, each in enumerate(targets[first:])}
    carried = any(file == SCALES for file, _ in output.beside)
    landed = carried_places(published, numbers) if carried else {name: Place(at, 0) for name, at in numbers.items()}
    pieces = {} if carried else {each.names[0]: each.names[1:] for each in output.encoded.values()}
    encoded = {number: pieces[each.name] for number, each in enumerate(targets) if each.coded is not None and each.name in pieces}
    for number, names in encoded.items():
        landed |= {name: Place(at, 0) for name, at in zip(names, _pieces(targets[number]), strict=True)}
    moved = published.release.kept() if carried else ((name, leaf) for name, leaf in published.release.kept() if name in numbers)
    transfers = tuple([(PUBLISHED, each) for each in published_transfers(published, landed, moved)])
    own = {number: names for number, names in pieces_of(inventory).items() if all(name in landed for name in names)}
    made = (*sources, *published.tensors)
    return Given(_with_own(made, own, landed), _with_own(targets, encoded, published.places), transfers)


def _pieces(tensor: PlannedTensor) -> tuple[int, ...]:
    return () if tensor.coded is None else tensor.coded.pieces


def _with_own(tensors: Sequence[PlannedTensor], names: Mapping[int, tuple[str, ...]], places: Places) -> tuple[PlannedTensor, ...]:
    """The tensors, of which those by `names` (of their pieces behind the codes) are encoded with what lies at the places of these."""
    made = list(tensors)
    for number, pieces in names.items():
        coded = made[number].coded
        assert coded is not None, "only what is encoded has pieces"
        made[number] = made[number]._replace(coded=coded._replace(own=tuple([places[piece] for piece in pieces])))
    return tuple(made)


def pieces_of(inventory: Inventory) -> dict[int, tuple[str, ...]]:
    """By their numbers, of the source's quantised weights the whole names of the pieces behind the codes."""
    names = [laid.name.rpartition(".")[0] for laid in inventory.kinds]
    found: dict[int, tuple[str, ...]] = {}
    for number, each in enumerate(inventory.entries):
        encoded = each.found.encoded
        if encoded is not None and ENCODINGS[encoded.form.kind].SIGNS:
            skipped = len(encoded.pieces[0].tensor.name.rpartition(".")[0])
            found[number] = tuple([names[each.kind] + piece.tensor.name[skipped:] for piece in encoded.pieces[1:]])
    return found
