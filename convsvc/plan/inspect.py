"""What lies at a path: format, family, sizes, tensors, and what is missing. Reads headers only."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from convsvc.dialects import source_of, sources
from convsvc.dialects.base import Detected
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.recognise import refuse
from convsvc.errors import ConvsvcError, PlanError, SourceError
from convsvc.families import find_family
from convsvc.formats import FORMATS, describe_file, format_of
from convsvc.notes import Note
from convsvc.plan.adapter_names import set_aside
from convsvc.plan.match import check_floats
from convsvc.plan.quantised import describe_encodings, join_pieces
from convsvc.plan.source import Asked, build_model, match_layout
from convsvc.roots import ANYWHERE, RootedPath, Roots
from convsvc.spec import SourceSpec, parse_source
from convsvc.spec.formats import sides


def inspect_checkpoint(path: str, model_type: str | None = None, roots: Roots = ANYWHERE) -> dict[str, Any]:
    """A description in JSON.

    `complete` is whether every tensor of the family is there; if not, `problem` says why, and `missing`, `misshapen` and `left_over`
    name tensors. A single weight file is described by its tensors alone.

    Raises SourceError if there is no checkpoint at all, PathRefused if it is not in the roots.
    """
    root = RootedPath(path, roots)
    if root.is_file():
        return _describe_file(root)
    asked = ask_for(root, model_type)
    reader = source_of(asked.source.format)
    try:
        checkpoint = reader.open(asked.source, roots)
    except SourceError as error:
        alone = reader.alone(asked.source, roots)
        if alone is None:
            raise
        return _contents(asked.source, alone) | _adapters(alone, set_aside(alone)[1]) | {"complete": False, "problem": str(error)}
    checkpoint = replace(checkpoint, notes=(*asked.detected.notes, *checkpoint.notes))
    about = _contents(reader.settled(asked.source, roots), checkpoint) | dict(asked.detected.stated)
    try:
        checkpoint = join_pieces(checkpoint)
        about |= _quantisation(checkpoint)
        checkpoint, adapters = set_aside(checkpoint)
        about |= _adapters(checkpoint, adapters)
        about |= _structure(asked, checkpoint)
    except PlanError as error:
        about |= {"complete": False, "problem": error.message, **error.details}
    except ConvsvcError as error:
        about |= {"complete": False, "problem": str(error)}
    return about


def ask_for(root: RootedPath, model_type: str | None = None, **stated: Any) -> Asked:
    """The source that lies at `root`, in whatever format. `stated` (an iteration) is said where the format knows such a field.

    Raises SourceError for what is no checkpoint, JobError for a statement that is wrong.
    """
    name, detected = _detect(root)
    return Asked(parse_source({"format": name, "path": str(root), **detected.stated, **stated}), model_type, detected=detected)


def with_format(job: dict[str, Any], roots: Roots = ANYWHERE) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """The job with the format of what lies at its source's path, where it does not say it, and notes on that; else the job as it is.

    Raises SourceError for a directory that is no checkpoint, PathRefused.
    """
    source = job.get("source")
    if not isinstance(source, dict) or "format" in source or not isinstance(source.get("path"), str):
        return job, ()
    root = RootedPath(source["path"], roots)
    if not root.is_dir():
        return job, ()
    name, detected = _detect(root)
    said = ", ".join(f"source.{field} {value}" for field, value in {"format": name, **detected.stated}.items())
    note = Note("advice", f"detected: {said}")
    return {**job, "source": {"format": name, **detected.stated, **source}}, (note, *detected.notes)


def _detect(root: RootedPath) -> tuple[str, Detected]:
    """Of the formats that recognise a directory that which is most certainly meant, and what else is to be said of it."""
    if not root.is_dir():
        raise SourceError(f"{root} does not exist")
    found = [source for source in sources() if source.recognises(root)]
    if not found:
        refuse(root, "a checkpoint that is read")
        raise SourceError(f"{root} is no checkpoint of a format that is read: {', '.join(sides('SOURCE'))}")
    meant = max(found, key=lambda source: source.certainty)
    return meant.name, meant.detected(root)


def _contents(source: SourceSpec, checkpoint: Checkpoint) -> dict[str, Any]:
    beside = {name: path for name, path in source.model_dump().items() if name.endswith("_path") and path is not None}
    tensors = [found.tensor for found in checkpoint.found.values()]
    dtypes = Counter[str]()
    for tensor in tensors:
        dtypes[tensor.dtype] += tensor.size_bytes
    return {
        "format": source.format,
        "path": source.path,
        **beside,
        "files": len(checkpoint.files),
        "size_bytes": sum(file.size_bytes for file in checkpoint.files),
        "tensors": len(tensors),
        "bytes_by_dtype": dict(dtypes.most_common()),
        "notes": [note.as_dict() for note in checkpoint.notes],
    }


def _quantisation(checkpoint: Checkpoint) -> dict[str, Any]:
    """How many tensors are quantised, and what shares a scale; nothing where none is."""
    quantised = describe_encodings(checkpoint.found.values())
    if not quantised:
        return {}
    return {
        "quantised": quantised,
        "notes": [note.as_dict() for note in checkpoint.notes],
    }


def _adapters(checkpoint: Checkpoint, count: int) -> dict[str, Any]:
    """How many LoRA adapters there are, and the r and alpha that are saved with them; nothing where there are none."""
    said = checkpoint.lora
    return {"lora": {"adapters": count, "r": said and said.r, "alpha": said and said.alpha}} if count else {}


def _structure(asked: Asked, checkpoint: Checkpoint) -> dict[str, Any]:
    reader = source_of(asked.source.format)
    checkpoint = reader.by_family_names(checkpoint, find_family(asked.model_type, checkpoint.facts))
    model = build_model(asked, checkpoint)
    settings, _, inventory, notes = match_layout(asked.source, checkpoint, model)
    check_floats(inventory, checkpoint, model.integers)
    about: dict[str, Any] = {
        "model_type": model.family.name,
        "layers": model.num_layers,
        "experts": model.num_experts,
        "tied_embeddings": model.tied,
        "sizes": dict(model.sizes),
    }
    if settings is not None:
        described = settings.described() if hasattr(settings, "described") else asdict(settings)
        about |= {"parallel": described.pop("parallel")} if "parallel" in described else {}
        about["layout"] = described
    return about | {"complete": True, "notes": [note.as_dict() for note in (*checkpoint.notes, *model.notes, *notes)]}


def _describe_file(path: RootedPath) -> dict[str, Any]:
    kind = format_of(path)
    if kind is None:
        what, do = describe_file(path)
        raise SourceError(f"{path} is {what}", facts=[f"it is of no format that is read: {', '.join(FORMATS)}"], do=do)
    index = FORMATS[kind].read_index(path)
    tensors = [{"name": each.name, "dtype": each.dtype, "shape": list(each.shape)} for each in index.tensors]
    return {"format": kind, "path": str(path), "files": 1, "size_bytes": index.size_bytes, "tensors": len(tensors), "contents": tensors}
