"""From a job to its plan: open the source's headers, build the model, lay out both sides, match, prove, cut into tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from convsvc.dialects import DIALECTS
from convsvc.dialects.base import Checkpoint, Dialect, Entry, NewFile, Output
from convsvc.dialects.huggingface.config_files import spoken_vocab
from convsvc.errors import JobError, LayoutError, PlanError
from convsvc.families import find_family
from convsvc.formats.base import Skeleton
from convsvc.models.model import Model, Wanted
from convsvc.notes import Note, sort_notes
from convsvc.plan.absent import find_absent
from convsvc.plan.adapter_names import Adapters, leave_out, split_adapters
from convsvc.plan.adapters import Placed, attach, locate_adapters
from convsvc.plan.allocation import without_collection
from convsvc.plan.casts import describe_casts
from convsvc.plan.copies import choose_checks, left_out_copies
from convsvc.plan.dtypes import kept_notes, lossy_casts, target_dtypes
from convsvc.plan.fingerprint import fingerprint
from convsvc.plan.job_paths import check_job_paths
from convsvc.plan.lora_export import AdapterWriter, export_adapters
from convsvc.plan.match import Located, check_floats, match_source
from convsvc.plan.plan import Plan
from convsvc.plan.quantised import join_scales, plan_sources, product_dtype
from convsvc.plan.records import PlannedFile, PlannedTensor
from convsvc.plan.tasks import cut_tasks
from convsvc.plan.transfers import Gathered, check_tiled, check_unique, gather, make_transfers, stand_in
from convsvc.roots import ANYWHERE, Roots
from convsvc.spec import HuggingFaceSource, HuggingFaceTarget, Job, Options, dump_job, parse_job


@without_collection()
def make_plan(job: Job | dict[str, Any], roots: Roots = ANYWHERE) -> Plan:
    """The plan of a job. Reads headers, writes nothing; the same inputs give the same plan.

    What the job reads and writes must lie in `roots`. Raises JobError, LayoutError, SourceError or PlanError; PathRefused.
    """
    job = with_own_config(parse_job(job))
    check_job_paths(job, roots)
    source = open_source(job, roots)
    writer = DIALECTS[job.target.format]
    if isinstance(job.target, HuggingFaceTarget) and job.target.adapter_only:
        exporter, sides = export_adapters(writer, job, source.located, source.adapters, source.model.same_as)
        return _assemble(job, source.model, replace(source, located=sides, adapters=None), exporter, roots)
    return _assemble(job, source.model.without(source.absent), source, writer, roots)


def with_own_config(job: Job) -> Job:
    """The job, whose target has the source's own configuration and tokenizer where both are Hugging Face's and nothing else is said."""
    if isinstance(job.source, HuggingFaceSource) and isinstance(job.target, HuggingFaceTarget) and job.target.config_dir is None:
        return job.model_copy(update={"target": job.target.model_copy(update={"config_dir": job.source.path})})
    return job


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a source: its headers, its model, where each tensor of its layout lies, and what its family lets it do without.

    `settings` are the dialect's own.
    """

    checkpoint: Checkpoint
    model: Model
    settings: Any
    located: tuple[Located, ...]
    absent: frozenset[str]
    adapters: Adapters | None
    notes: tuple[Note, ...]


def open_source(job: Job, roots: Roots = ANYWHERE) -> Source:
    """Opens the job's source and matches it with its own layout. Reads headers.

    Raises JobError, SourceError, LayoutError, PlanError where it is not a whole checkpoint; PathRefused.
    """
    reader = DIALECTS[job.source.format]
    checkpoint = reader.open(job.source, roots)
    # Before anything that can be mended: a model that is not known is of no use dequantised.
    family = find_family(job.model_type, checkpoint.facts)
    checkpoint = join_scales(checkpoint, product_dtype(job.options.dtype))
    checkpoint, adapters = split_adapters(checkpoint, job.source.lora)
    checkpoint = reader.by_family_names(checkpoint, family)
    model = build_model(job, checkpoint, roots)
    settings, entries, located, notes = match_layout(job, checkpoint, model)
    check_floats(located, checkpoint, model.integers)
    check_unique("source", [each.key for each in located])
    check_tiled(each.entry.laid for each in located)
    absent, missed = find_absent(entries, located, model)
    if adapters is not None:
        claimed = {each.key for each in located}
        adapters, unused = leave_out(adapters, lambda key: None if key in claimed else reader.ignores(key, model))
        notes += unused
    if job.source.format == "huggingface":
        model = model.storing(block.tensor.name for each in located for block in each.entry.laid.blocks)
    return Source(checkpoint, model, settings, located, absent, adapters, (*checkpoint.notes, *model.notes, *notes, *missed))


def match_layout(job: Job, checkpoint: Checkpoint, model: Model) -> tuple[Any, tuple[Entry, ...], tuple[Located, ...], tuple[Note, ...]]:
    """The dialect's settings for the source, its layout's entries, those located in it, and notes.

    Raises JobError, SourceError; LayoutError and PlanError that begin with the layout that was assumed.
    """
    reader = DIALECTS[job.source.format]
    try:
        settings = reader.read_settings(job.source, checkpoint, model)
        entries = reader.layout(model, settings)
        located, notes = match_source(entries, checkpoint, lambda key: reader.ignores(key, model), model.family.name)
    except (LayoutError, PlanError) as error:
        raise error.beginning(*reader.assumed(checkpoint)) from None
    return settings, entries, located, notes


def build_model(job: Job, checkpoint: Checkpoint, roots: Roots = ANYWHERE) -> Model:
    """The model that the checkpoint holds, or the part of it that the job wants. Raises JobError, SourceError."""
    names = frozenset(name for _, name in checkpoint.found)
    model = find_family(job.model_type, checkpoint.facts).build(checkpoint.facts, _wanted(job, checkpoint, names, roots))
    return model.carrying(names)


def _wanted(job: Job, checkpoint: Checkpoint, names: frozenset[str], roots: Roots) -> Wanted:
    """The part of the model that is converted. A rank file's MTP layers are those its args count; Hugging Face's, those asked for."""
    carry_mtp = True
    if job.source.format != "huggingface":
        _check_whole(job.options)
        num_mtp: int | None = checkpoint.facts.first_number(("mtp_num_layers",))
    elif job.target.format == "huggingface":
        num_mtp = None
    else:
        # Not asked for is not dropped: the layers lie beside the ranks for the way back. Who asks for 0 does not want them.
        num_mtp, carry_mtp = job.target.mtp_num_layers or 0, job.target.mtp_num_layers is None
    options = job.options
    vocab = real_vocab(job, checkpoint, roots)
    return Wanted(options.num_layers, options.first_k_dense_replace, num_mtp, vocab, carry_mtp, len(checkpoint.found), names)


def _check_whole(options: Options) -> None:
    """Rank files are converted whole: their args say how many layers there are, and those of a part would contradict them."""
    stated = [name for name in ("num_layers", "first_k_dense_replace") if getattr(options, name) is not None]
    if stated:
        raise JobError(
            f"options.{' and options.'.join(stated)}: a part of a model can be taken from a Hugging Face source only",
            do="leave it out; or convert to Hugging Face first, and that to what you want with these options",
        )


def real_vocab(job: Job, checkpoint: Checkpoint, roots: Roots) -> int | None:
    """The vocabulary that the configuration beside the weights does not say, or says too small; None for as it says.

    The job's; else, of rank files, what the target's own configuration speaks of, if as many rows are stored: saved args often do not say
    it, or count the tokenizer's tokens where the published model has rows to spare. All stored rows where nobody says it.
    """
    if job.source.format == "huggingface":
        return job.options.vocab_size
    from convsvc.dialects.mindspeed_llm.checkpoint import stored_rows

    said, stored = checkpoint.facts.get("vocab_size"), stored_rows(checkpoint)
    _check_vocab(job.options.vocab_size, said, checkpoint)
    if job.options.vocab_size is not None:
        return job.options.vocab_size
    spoken = spoken_vocab(job.target, roots)
    if spoken is not None and stored is not None and (said or 0) < spoken <= stored:
        return spoken
    return stored if said is None else None


def _check_vocab(stated: int | None, said: Any, checkpoint: Checkpoint) -> None:
    if stated is not None and said is not None and stated != said:
        raise JobError(
            f"options.vocab_size is {stated}; {checkpoint.facts.origin} say vocab_size {said}",
            do="leave it out: it is read from the checkpoint",
        )


def _assemble(job: Job, model: Model, source: Source, writer: Dialect | AdapterWriter, roots: Roots) -> Plan:
    weights, checkpoint, options = source.located, source.checkpoint, job.options
    placed = locate_adapters(weights, source.adapters, model.same_as) if source.adapters else Placed((), {})
    located = weights + placed.located
    sources = plan_sources(located)
    gathered = gather((number, each.entry.unit, each.entry.laid) for number, each in enumerate(located))
    model = model.renumbered()
    settings = writer.write_settings(job.target, model)
    entries = writer.layout(model, settings)
    dtypes = target_dtypes(entries, gathered, sources, model, options)
    kept = kept_notes(entries, dtypes, model, options)
    check_unique("target", [(entry.file, entry.laid.name) for entry in entries])
    check_tiled(entry.laid for entry in entries)
    entries, output = writer.output(job.target, model, settings, checkpoint.facts, entries, dtypes, options, roots)
    files, targets = _planned_targets(entries, output)
    wanted = gather((number, entry.unit, entry.laid) for number, entry in enumerate(entries))
    left_out = _left_out(weights, wanted, model)
    transfers = make_transfers(stand_in(gathered, wanted, model.same_as), wanted, left_out_copies(gathered, wanted, model))
    if placed.merging:
        transfers = attach(transfers, gathered, placed.merging)
    transfers, unchecked = choose_checks(transfers, sources, options.check_copies, model.tied)
    casts = describe_casts(transfers, sources, targets) if options.dtype else ()
    tasks = cut_tasks(transfers, sources, targets)
    source_files = tuple(PlannedFile(file.path, file.size_bytes, file.format, file.mtime_ns) for file in checkpoint.files)
    return Plan(
        job=dump_job(job),
        model_type=model.family.name,
        fingerprint=fingerprint(job, model.family.name, (source_files, sources), output, targets, tasks),
        source_files=source_files,
        source_tensors=sources,
        target_files=files,
        target_tensors=targets,
        skeletons=tuple(file.skeleton for file in output.files),
        side_files=output.side_files,
        tasks=tasks,
        facts=describe_model(model) | describe_layouts(source.settings, settings),
        roots=roots,
        source_digests=tuple([file.digest for file in checkpoint.files]),
        axes={name: each.tensor.axes for name, each in (gathered | wanted).items()},
        notes=check_loss((*source.notes, *left_out, *casts, *kept, *unchecked, *_vocab_notes(gathered, wanted), *output.notes), options),
    )


def _left_out(weights: Sequence[Located], wanted: Mapping[str, Gathered], model: Model) -> list[Note]:
    """A note for each logical tensor that the target does not hold because it is a copy of another.

    Raises PlanError if there is one that is not.
    """
    unwanted = sorted({block.tensor.name for each in weights for block in each.entry.laid.blocks} - set(wanted))
    dropped = [name for name in unwanted if name not in model.same_as]
    if dropped:
        raise PlanError(f"{len(dropped)} logical tensors of the source have no place in the target", facts=dropped[:12])
    return [
        Note("ignored", f"{name} is left out: the target keeps one copy, {model.same_as[name]}, and it must be equal") for name in unwanted
    ]


def _planned_targets(entries: Sequence[Entry], output: Output) -> tuple[tuple[PlannedFile, ...], tuple[PlannedTensor, ...]]:
    files = tuple(PlannedFile(file.path, file.skeleton.size_bytes, file.format) for file in output.files)
    tensors = {
        key: {each.name: (each.name, each.dtype, each.shape, each.file_offset, each.size_bytes) for each in skeleton.tensors}
        for key, skeleton in _skeletons(output.files).items()
    }
    places = {file.path: (number, tensors[id(file.skeleton)]) for number, file in enumerate(output.files)}
    targets = []
    for entry in entries:
        number, found = places[entry.file]
        targets.append(PlannedTensor(number, *found[entry.laid.name]))
    return files, tuple(targets)


def _skeletons(files: Iterable[NewFile]) -> dict[int, Skeleton]:
    """The files' skeletons by their ids: a thousand rank files have a few dozen."""
    return {id(file.skeleton): file.skeleton for file in files}


def describe_model(model: Model) -> dict[str, Any]:
    """What a model is, in JSON: a plan's `facts`."""
    return {
        "family": model.family.name,
        "layers": model.num_layers,
        "experts": model.num_experts,
        "tied_embeddings": model.tied,
        "sizes": dict(model.sizes),
    }


def describe_layouts(source: Any, target: Any) -> dict[str, Any]:
    """How both sides are cut, in JSON: what is not as it is by default of their dialects' settings; nothing where there are none. Pure."""
    return {name: found for name, each in (("source_layout", source), ("target_layout", target)) if (found := _described(each))}


def _described(settings: Any) -> dict[str, Any]:
    if not is_dataclass(settings) or isinstance(settings, type):
        return {}
    described: dict[str, Any] = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            described |= _described(value)
        elif value not in (None, False, ()):
            described[each.name] = list(value) if isinstance(value, tuple) else value
    return described


def _vocab_notes(sources: Mapping[str, Gathered], targets: Mapping[str, Gathered]) -> list[Note]:
    notes = [
        Note("filled", f"{name}: padded with zero rows beyond the vocabulary of {each.tensor.sizes[0]}")
        for name, each in targets.items()
        if each.fills
    ]
    return notes + [
        Note("ignored", f"{name}: the source's padding rows beyond the vocabulary of {each.tensor.sizes[0]} are left out")
        for name, each in sources.items()
        if each.fills
    ]


def check_loss(notes: Iterable[Note], options: Options) -> tuple[Note, ...]:
    """The notes, by kind. Raises PlanError for what would be lost, unless the job's `on_loss` is "note"."""
    notes = sort_notes(notes)
    lost = [note.text for note in notes if note.kind == "lost"]
    if lost and options.on_loss == "error":
        raise PlanError(
            f"{len(lost)} part(s) of the source would be lost",
            facts=lost[:12],
            do='set options.on_loss to "note" to convert without them',
            details={"lost": lost},
        )
    return notes


def check_roundtrip(plan: Plan) -> None:
    """Whether `verify: roundtrip` is possible: no cast that loses bits, no transform.

    Raises JobError naming the first transfer for which it is not.
    """
    verify = plan.job.get("options", {}).get("verify", "roundtrip")
    for task in plan.tasks:
        for transfer in task.transfers:
            change = transfer.transform.kind if transfer.transform else None
            lossy = next(lossy_casts(transfer, plan.source_tensors, plan.target_tensors), None)
            change = f"{lossy[0]} to {lossy[1]}" if lossy else change
            if change:
                raise JobError(
                    f"options.verify is {verify}, but {transfer.name} changes its values on the way ({change})",
                    do="use verify: digest",
                )
