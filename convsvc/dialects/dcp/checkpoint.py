"""Opening a torch distributed checkpoint: what of each tensor lies where, from `.metadata` and the items' headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.dialects.dcp.alike import as_there
from convsvc.dialects.dcp.job import DcpSource
from convsvc.dialects.dcp.names import first_parts, is_training_state, with_dot
from convsvc.dialects.dcp.opened import Opened
from convsvc.dialects.dcp.pieces import Pieces, find_pieces
from convsvc.dialects.dcp.sharded import find_sharded, is_sharded
from convsvc.dialects.files import check_directory
from convsvc.dialects.huggingface.names import change_names, find_change
from convsvc.dialects.iterations import TRACKER, tracked
from convsvc.dialects.json_files import read_json
from convsvc.dialects.overlaps import MOST_CELLS, Seams, count_cells, find_seams
from convsvc.dialects.recognise import refuse
from convsvc.errors import JobError, SourceError
from convsvc.formats.dcp.metadata import read_metadata
from convsvc.formats.dcp.records import METADATA, Chunked, Metadata
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.spelling import Spelling
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import stated_sizes
from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import first_gap, first_overlap

CONFIG = "config.json"
# Directories in which frameworks put what a job names by their parent: MindSpeed-MM, accelerate's FSDP, torch's consolidating writer.
WITHIN = ("release", "pytorch_model_fsdp_0", "sharded")
SHOWN = 12


def place_of(root: RootedPath) -> RootedPath | None:
    """The directory that is one, this or one within it; None for none. One that Megatron wrote is another format's."""
    for place in (root, *(root / name for name in _within(root))):
        if place.is_dir():
            names = place.names()
            if (METADATA in names and "metadata.json" not in names) or is_sharded(names):
                return place
    return None


def _refuse_unfinished(place: RootedPath) -> None:
    """Raises SourceError for a directory with parts of a checkpoint, and no word of which."""
    names = place.names() if place.is_dir() else []
    if any(name.endswith(".distcp") for name in names) and METADATA not in names and "metadata.json" not in names:
        raise SourceError(
            f"{place} has .distcp files and no {METADATA}, which is written last: it was not saved to its end",
            do=f"fetch {METADATA}, or give a checkpoint that was saved whole",
        )


def _within(root: RootedPath) -> tuple[str, ...]:
    """The directories that may hold what a job names by their parent: where training says how far it has come, that iteration's alone."""
    if not (root / TRACKER).is_file():
        return WITHIN
    number = tracked(root)
    return ("release",) if number in (None, -1) else (f"iter_{number:07d}",)


def open_checkpoint(source: DcpSource, roots: Roots) -> Checkpoint:
    """The checkpoint at `source.path`. Raises SourceError, FormatError, JobError; PathRefused."""
    given = RootedPath(source.path, roots)
    check_directory(given)
    root = place_of(given)
    if root is None:
        for place in (given, *(given / name for name in _within(given))):
            _refuse_unfinished(place)
        if (given / TRACKER).is_file() and not (given / _within(given)[0]).is_dir():
            raise SourceError(
                f"{given / _within(given)[0]} does not exist, which {given / TRACKER} speaks of",
                do="fetch it, or give the iteration's own directory",
            )
        refuse(given, "a torch distributed checkpoint", but=("dcp",))
        raise SourceError(f"{given} has no {METADATA}", do="give the directory that torch.distributed.checkpoint wrote")
    notes: list[Note] = []
    if METADATA in root.names():
        metadata = read_metadata(root / METADATA)
        wanted, notes = _wanted(source, root, metadata)
        pieces = find_pieces(root, wanted)
    else:
        pieces = find_sharded(root, lambda metadata: _wanted(source, root, metadata)[0])
    pieces = whole_pieces(root, pieces)
    prefix = with_dot(source.prefix or "")
    names = {name: name.removeprefix(prefix) for name in pieces.tensors}
    spelling = Spelling(source.names or {}, source.adapter_name)
    if spelling:
        names = {stored: spelling.named(name) for stored, name in names.items()}
        _check_apart(root, names)
    opened = Opened({name: each.shape for name, each in pieces.tensors.items()}, pieces.cuts)
    checkpoint = Checkpoint(str(root), pieces.files, pieces.found, _facts(source, (root, given), roots), opened, tuple(notes))
    checkpoint = renamed(checkpoint, names) if prefix or spelling else checkpoint
    return (
        checkpoint
        if source.like_dir is None
        else as_there(checkpoint, RootedPath(source.like_dir, roots), source.fill_beginning, as_kept=not source.experts)
    )


def _check_apart(root: RootedPath, names: Mapping[str, str]) -> None:
    by_name: dict[str, list[str]] = {}
    for stored, name in names.items():
        by_name.setdefault(name, []).append(stored)
    twice = [f"{' and '.join(stored)} would be {name}" for name, stored in by_name.items() if len(stored) > 1]
    if twice:
        raise JobError(f"source.names: {root} has tensors that would have one name", facts=twice[:SHOWN])


def _wanted(source: DcpSource, root: RootedPath, metadata: Metadata) -> tuple[dict[str, Chunked], list[Note]]:
    """The tensors that are read, and notes on what is left out."""
    tensors, notes = metadata.tensors, []
    if source.prefix:
        prefix = with_dot(source.prefix)
        outside = [name for name in tensors if not name.startswith(prefix)]
        if len(outside) == len(tensors):
            raise JobError(
                f"source.prefix: no tensor of {root} has a name that begins with {prefix!r}",
                facts=[f"they begin with {', '.join(map(repr, first_parts(outside)[:SHOWN]))}"],
            )
        notes += _left_out(outside, f"not under the prefix {prefix!r}")
        tensors = {name: each for name, each in tensors.items() if name.startswith(prefix)}
    if not source.with_training_state:
        state = [name for name in tensors if is_training_state(name)]
        notes += _left_out(state, "what training keeps beside the weights, by its name")
        tensors = {name: each for name, each in tensors.items() if not is_training_state(name)} if state else tensors
    notes += _left_out(list(metadata.objects), "objects, no tensors")
    if not tensors:
        raise SourceError(f"{root} holds no weights", facts=[note.text for note in notes], do="give the directory the model was saved to")
    return tensors, notes


def _left_out(names: list[str], why: str) -> list[Note]:
    return [Note("ignored", f"{len(names)} entries of {METADATA}, e.g. {names[0][:200]}: {why}")] if names else []


def _facts(source: DcpSource, places: tuple[RootedPath, ...], roots: Roots) -> Facts:
    """What config.json says: of config_dir, or beside the files, or above them."""
    root = places[0]
    beside = next((place for place in places if (place / CONFIG).is_file()), root)
    folder = beside if source.config_dir is None else RootedPath(source.config_dir, roots)
    if (folder / CONFIG).is_file():
        return Facts(read_json(folder / CONFIG), str(folder / CONFIG)).stating(stated_sizes(source.architecture))
    if source.config_dir is not None:
        raise JobError(f"source.config_dir: {folder} has no {CONFIG}")
    return Facts({}, f"{root}, which has no {CONFIG} (state source.config_dir)").stating(stated_sizes(source.architecture))


def whole_pieces(root: RootedPath, pieces: Pieces) -> Pieces:
    """The pieces, of which every tensor's are all of it and all lie somewhere; where some overlap, they know all borders.

    Raises SourceError naming tensors and boxes.
    """
    seams: dict[str, Seams] = {}
    faults: list[str] = []
    sound: set[object] = set()  # layers and experts are cut alike: what is said once of half a million chunks
    for name, each in pieces.tensors.items():
        alike = each.shape, tuple([box for box, _ in each.chunks])
        if alike not in sound or any(item is None for _, item in each.chunks):
            fault = _fault(name, each, seams)
            if fault is not None:
                faults.append(fault)
            elif name not in seams:
                sound.add(alike)
    if faults:
        raise SourceError(
            f"{root}: {len(faults)} tensors are not whole",
            facts=[*faults[:SHOWN], *([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])],
            do="save or fetch the checkpoint again; nothing can stand in for what is missing",
        )
    cuts = {name: tuple([cut._replace(seams=found) for cut in pieces.cuts[name]]) for name, found in seams.items()}
    return pieces._replace(cuts=pieces.cuts | cuts) if cuts else pieces


def _fault(name: str, chunked: Chunked, seams: dict[str, Seams]) -> str | None:
    """What is wrong with a tensor's chunks; `seams` has those of it afterwards if some overlap."""
    lost = next((box for box, item in chunked.chunks if item is None), None)
    if lost is not None:
        return f"{name} {_shown(lost)} of {list(chunked.shape)}: {METADATA} has the chunk and does not say where it lies"
    boxes = list(dict.fromkeys(box for box, _ in chunked.chunks if box.volume))
    whole = Box((0,) * len(chunked.shape), chunked.shape)
    if boxes == [whole] or (_is_cut_once(boxes, whole)):
        return None
    twice = first_overlap(boxes) if boxes else None
    if twice:
        found = find_seams(boxes)
        if count_cells(boxes, found) > MOST_CELLS:
            return f"{name}: its chunks {_shown(twice[0])} and {_shown(twice[1])} overlap, and so many others that they are not compared"
        seams[name] = found
    gap = first_gap(whole, boxes) if twice or sum(box.volume for box in boxes) != whole.volume else None
    return None if gap is None else f"{name} {_shown(gap)} of {list(chunked.shape)}: no chunk holds it"


def _is_cut_once(boxes: list[Box], whole: Box) -> bool:
    """Whether boxes follow each other along the first dimension and are whole in the others: nearly all are."""
    if not boxes or not whole.stops or boxes[0].starts[0] != 0 or boxes[-1].stops[0] != whole.stops[0]:
        return False
    rest = whole.starts[1:], whole.stops[1:]
    return all((box.starts[1:], box.stops[1:]) == rest for box in boxes) and all(a.stops[0] == b.starts[0] for a, b in pairwise(boxes))


def _shown(box: Box) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in zip(*box, strict=True)) + "]"


def by_family_names(checkpoint: Checkpoint, family: Family) -> Checkpoint:
    """The checkpoint by the family's names, where one prefix stands before them; each tensor still knows its own."""
    opened: Opened = checkpoint.settings
    change = find_change(opened.shapes, family)
    if change is None:
        return checkpoint
    names = change_names(opened.shapes, change, family)
    count = sum(name != new for name, new in names.items())
    if len(set(names.values())) < len(names):
        return checkpoint
    text = f"{count} of {len(names)} tensors are stored {change}: they are read by the usual names of {family.name}"
    return renamed(replace(checkpoint, notes=(*checkpoint.notes, Note("changed", text))), names)


def renamed(checkpoint: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    """The checkpoint by other names; `names` has every name."""
    opened: Opened = checkpoint.settings
    found: dict[tuple[str, str], Found] = {(file, names[name]): each for (file, name), each in checkpoint.found.items()}
    shapes = {names[name]: shape for name, shape in opened.shapes.items()}
    return replace(checkpoint, found=found, settings=Opened(shapes, {names[name]: cuts for name, cuts in opened.cuts.items()}))
