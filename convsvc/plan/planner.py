"""From a job to its plan: open the source's headers, build the model, lay out both sides, match, prove, cut into tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from convsvc.dialects import source_of, target_of, targets
from convsvc.dialects.base import Adapted, Read, Target
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import Draft, Output
from convsvc.errors import JobError, LayoutError, PlanError
from convsvc.models.diffusion import Diffusion
from convsvc.models.model import Model
from convsvc.models.scope import DECODER
from convsvc.notes import Note, sort_notes
from convsvc.plan.adapters import Merging, attach, locate_adapters
from convsvc.plan.allocation import without_collection
from convsvc.plan.casts import describe_casts
from convsvc.plan.copies import choose_checks, left_out_copies
from convsvc.plan.dtypes import kept_notes, lossy_casts, target_dtypes
from convsvc.plan.fingerprint import fingerprint
from convsvc.plan.job_paths import check_job_paths
from convsvc.plan.lora_export import export_adapters
from convsvc.plan.match import Inventory
from convsvc.plan.plan import Plan
from convsvc.plan.published import Published, as_encoded, carry, find_published, give_back, is_published
from convsvc.plan.quantised import plan_sources
from convsvc.plan.records import Coded, Place, PlannedFile, PlannedTensor
from convsvc.plan.source import OpenSource, asked_of, open_source
from convsvc.plan.tasks import cut_tasks
from convsvc.plan.transfers import Gathered, check_tiled, check_unique, gather, make_transfers, stand_in
from convsvc.roots import ANYWHERE, RootedPath, Roots
from convsvc.spec import Job, Options, dump_job, parse_job
from convsvc.tensors.quick import quick

# Ways to verify that compute the source again.
BACK = ("roundtrip", "full")


@without_collection()
def make_plan(job: Job | dict[str, Any], roots: Roots = ANYWHERE) -> Plan:
    """The plan of a job. Reads headers, writes nothing; the same inputs give the same plan.

    What the job reads and writes must lie in `roots`. Raises JobError, LayoutError, SourceError or PlanError; PathRefused.
    """
    job = parse_job(job)
    if job.mode != "convert":
        raise JobError(f"this job is to {job.mode}, not to convert", do="submit it, use `convsvc verify`, or leave its mode out")
    check_job_paths(job, roots)
    job = settled(job, roots)
    if job.options.state == "training":
        source_of(job.source.format).check_training(job.source, roots)
        target_of(job.target.format).check_training(job.target)
    source = open_source(asked_of(job, roots), roots)
    model, adapted = source.model, None
    if not target_of(job.target.format).adapters:
        model = model.without(source.absent)
    else:
        have = source_of(job.source.format).adapters
        adapted, sides = export_adapters(job.target.format, have, source.inventory, source.adapters, model.same_as)
        source = replace(source, inventory=sides, adapters=None)
    held = _held(job, model, source, roots)
    del source  # of half a million tensors it has some 200 MB
    return _assemble(job, model, held, roots, adapted)


def settled(job: Job, roots: Roots = ANYWHERE) -> Job:
    """The job with what follows from it and from the source: the paths that are read, whose configuration goes with the weights."""
    reader, writer = source_of(job.source.format), target_of(job.target.format)
    source = reader.settled(job.source, roots)
    return job.model_copy(update={"source": source, "target": writer.settled(job.target, reader.words_dir(source))})


@dataclass(frozen=True, slots=True)
class _Held:
    """What planning needs of a source that was opened: its tensors as the plan numbers them, and where each logical tensor lies in them.

    `tensors` are the names of the logical tensors, `checkpoint` is without what it found; `merging` is what is merged into weights.
    """

    checkpoint: Checkpoint
    settings: Any
    notes: tuple[Note, ...]
    tensors: frozenset[str]
    sources: tuple[PlannedTensor, ...]
    gathered: dict[str, Gathered]
    merging: Mapping[Place, Merging]
    published: Published | None


def _held(job: Job, model: Model, source: OpenSource, roots: Roots) -> _Held:
    weights = source.inventory
    placed = locate_adapters(weights, source.adapters, model.same_as) if source.adapters else None
    inventory = weights.joined(placed.sides) if placed else weights
    sources = plan_sources(inventory.entries)
    published = _published(job, source, inventory, sources, roots)
    checkpoint = replace(source.checkpoint, found={})
    merging = placed.merging if placed else {}
    names = frozenset(weights.tensors())
    return _Held(checkpoint, source.settings, source.notes, names, sources, gather(inventory), merging, published)


def _assemble(job: Job, model: Model, source: _Held, roots: Roots, adapted: Adapted | None = None) -> Plan:
    writer = target_of(job.target.format)
    checkpoint, sources, gathered, published, options = source.checkpoint, source.sources, source.gathered, source.published, job.options
    # Of merged weights there is no training that goes on.
    read, model = Read(source.settings, model, None if source.merging else checkpoint.iteration), model.renumbered()
    _check_kind(model, writer)
    settings = writer.as_found(job, writer.settings(job.target, model, adapted), model, read, roots)
    if checkpoint.training is not None:
        settings = writer.with_state(settings, source.tensors)
        model = replace(model, same_as={**model.same_as, **writer.stand_ins(settings, source.tensors)})
    layout = writer.layout(model, settings)
    dtypes = target_dtypes(layout.kinds, gathered, sources, model, options)
    kept = kept_notes(layout.kinds, dtypes, model, options)
    check_unique("target", [(entry.file, layout.kinds[entry.kind].name) for entry in layout.entries])
    check_tiled(layout.kinds)
    release = published.release if published else None
    draft = Draft(job.target, model, settings, checkpoint.facts, layout, dtypes, options, roots, release, checkpoint.training)
    layout, output = writer.output(draft)
    carries = published is not None and writer.carries and options.carry_scales and not adapted
    if published is not None and carries:
        output = carry(published, output)
    _check_card(job)
    if writer.likens(job.target):
        # As they lie: a cast would round what the published scales are compared with.
        uncast = [laid if laid.name in output.encoded else laid._replace(blocks=()) for laid in layout.kinds]
        own = target_dtypes(uncast, gathered, sources, model, options.model_copy(update={"dtype": None}))
        dtypes = tuple([one if laid.name in output.encoded else dtype for one, dtype, laid in zip(own, dtypes, layout.kinds, strict=True)])
    layout = replace(layout, kinds=as_encoded(layout.kinds, output))
    files, targets = _planned_targets(layout, output, dtypes)
    wanted = gather(layout)
    left_out = _left_out(source.tensors - output.instead, wanted, model)
    transfers = make_transfers(stand_in(gathered, wanted, model.same_as), wanted, left_out_copies(gathered, wanted, model))
    if source.merging and output.encoded:
        raise JobError(
            "adapters cannot be merged into weights that are quantised on the way", do="merge them first, then quantise what that gives"
        )
    if source.merging:
        transfers = attach(transfers, gathered, source.merging)
    axes, padded = {name: each.tensor.axes for name, each in (gathered | wanted).items()}, _vocab_notes(gathered, wanted)
    # All that is needed of them is in the transfers.
    gathered.clear()
    wanted.clear()
    transfers, unchecked = choose_checks(transfers, sources, options.check_copies, model.tied)
    casts = describe_casts(transfers, sources, targets) if options.dtype else ()
    if published is not None and (carries or writer.likens(job.target)):
        sources, targets, moved = give_back(published, sources, targets, output, options.verify in BACK)
        transfers = [*transfers, *moved]
        checkpoint = replace(checkpoint, files=(*checkpoint.files, *published.files))
    tasks = cut_tasks(transfers, sources, targets, by_file=output.hashed)
    source_files = tuple(PlannedFile(file.path, file.size_bytes, file.format, file.mtime_ns) for file in checkpoint.files)
    return Plan(
        job=dump_job(job),
        model_type=model.family.name,
        fingerprint=fingerprint(job, model.family.name, (source_files, sources), output, targets, tasks),
        source_files=source_files,
        source_tensors=sources,
        target_files=files,
        target_tensors=targets,
        skeletons=output.skeletons,
        skeleton_of=tuple([file.skeleton for file in output.files]),
        side_files=output.side_files,
        tasks=tasks,
        facts=describe_model(model) | describe_layouts(source.settings, None if adapted else settings),
        roots=roots,
        source_digests=tuple([file.digest for file in checkpoint.files]),
        axes=axes | {each.name: ("item",) for _, each in transfers if is_published(each)},
        notes=check_loss((*source.notes, *left_out, *casts, *kept, *unchecked, *padded, *output.notes), options),
    )


def _published(job: Job, source: OpenSource, inventory: Inventory, sources: Sequence[PlannedTensor], roots: Roots) -> Published | None:
    """The scales that the source was published with, where the target has a use for them."""
    writer = target_of(job.target.format)
    if not writer.likens(job.target) and not (writer.carries and job.options.carry_scales):
        return None
    return find_published(source.checkpoint, inventory, sources, RootedPath(job.source.path, roots))


def _check_kind(model: Model, writer: Target) -> None:
    """Raises LayoutError for a diffusion model, which has no decoder's sizes, in a format of language models."""
    if isinstance(model.family, Diffusion) and not writer.diffusion:
        others = ", ".join(sorted(each.name for each in targets() if each.diffusion))
        raise LayoutError(
            f'{model.family.title} is a diffusion model, and target.format "{writer.name}" holds none', do=f"convert it to one of {others}"
        )


def _check_card(job: Job) -> None:
    """Raises JobError for a card that was asked for and has no place in the target."""
    if job.options.card == "both" and not target_of(job.target.format).has_card:
        raise JobError(f"options.card: a target of format {job.target.format} has no model card", do="leave it out")


def _left_out(held: Set[str], wanted: Mapping[str, Gathered], model: Model) -> list[Note]:
    """A note for each logical tensor that the target does not hold because it is a copy of another.

    Raises PlanError if there is one that is not.
    """
    unwanted = sorted(held - set(wanted))
    dropped = [name for name in unwanted if name not in model.same_as]
    if dropped:
        raise PlanError(f"{len(dropped)} logical tensors of the source have no place in the target", facts=dropped[:12])
    return [
        Note("ignored", f"{name} is left out: the target keeps one copy, {model.same_as[name]}, and it must be equal") for name in unwanted
    ]


def _planned_targets(layout: Layout, output: Output, dtypes: Sequence[str]) -> tuple[tuple[PlannedFile, ...], tuple[PlannedTensor, ...]]:
    files = tuple([PlannedFile(file.path, output.skeletons[file.skeleton].size_bytes, file.format) for file in output.files])
    tensors = [{each.name: (*each, each.size_bytes, None) for each in skeleton.tensors} for skeleton in output.skeletons]
    places = {file.path: (number, tensors[file.skeleton]) for number, file in enumerate(output.files)}
    names = [laid.name for laid in layout.kinds]
    targets: list[PlannedTensor] = []
    further: list[PlannedTensor] = []
    for entry in layout.entries:
        (number, found), name = places[entry.file], names[entry.kind]
        written = output.encoded.get(name)
        if written is None:
            targets.append(quick(PlannedTensor, (number, *found[name])))
            continue
        first, (codes, *rest) = len(layout.entries) + len(further), written.names
        further += [quick(PlannedTensor, (number, *found[each])) for each in rest]
        coded = Coded(written.form, tuple(range(first, first + len(rest))), dtypes[entry.kind])
        targets.append(quick(PlannedTensor, (number, *found[codes][:-1], coded)))
    beside = [quick(PlannedTensor, (places[file][0], *places[file][1][name])) for file, name in output.beside]
    return files, (*targets, *further, *beside)


def describe_model(model: Model) -> dict[str, Any]:
    """What a model is, in JSON: a plan's `facts`."""
    return {
        "family": model.family.name,
        "layers": model.num_layers,
        "experts": model.num_experts,
        "tied_embeddings": model.tied,
        "sizes": dict(model.sizes),
        **({"modules": [DECODER]} if model.family.others and not model.family.instead else {}),
    }


def describe_layouts(source: Any, target: Any) -> dict[str, Any]:
    """How both sides are cut, in JSON: what is not as it is by default of their dialects' settings; nothing where there are none. Pure."""
    return {name: found for name, each in (("source_layout", source), ("target_layout", target)) if (found := _described(each))}


def _described(settings: Any) -> dict[str, Any]:
    if hasattr(settings, "described"):
        return dict(settings.described())
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
        Note(
            "filled",
            f"{name}: padded with zero rows beyond the vocabulary of {each.tensor.sizes[0]}"
            if each.tensor.axes[:1] == ("vocab",)
            else f"{name}: zeros for what the format has room for and the model has not",
        )
        for name, each in targets.items()
        if each.fills
    ]
    notes += [
        Note("lost", f"{name}: rows {held} to {there - 1} are left out: the target has room for {held}")
        for name, each in targets.items()
        if each.tensor.axes[:1] == ("vocab",) and name in sources
        for held, there in [(_rows(each), _rows(sources[name]))]
        if held < there
    ]
    return notes + [
        Note(
            "ignored",
            f"{name}: the source's padding rows beyond the vocabulary of {each.tensor.sizes[0]} are left out"
            if each.tensor.axes[:1] == ("vocab",)
            else f"{name}: the source's zeros for what the model has not are left out",
        )
        for name, each in sources.items()
        if each.fills
    ]


def _rows(gathered: Gathered) -> int:
    """How many items of its first axis are held."""
    return max((stops[0] for _, stops, _ in gathered.places), default=0)


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
