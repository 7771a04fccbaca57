"""Opening a source: its headers, its model, and where each tensor of its layout lies. Reads headers only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from convsvc.dialects import source_of, target_of
from convsvc.dialects.base import Detected, Wants
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.layout import Layout
from convsvc.errors import JobError, LayoutError, PlanError
from convsvc.families import find_family, text_facts
from convsvc.models.family import Wanted
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.plan.absent import find_absent
from convsvc.plan.adapter_names import Adapters, leave_out, split_adapters
from convsvc.plan.match import Inventory, check_floats, match_source
from convsvc.plan.quantised import join_pieces, product_dtype
from convsvc.plan.transfers import check_tiled, check_unique
from convsvc.roots import ANYWHERE, Roots
from convsvc.spec import Job, Options, SourceSpec


def _silent() -> int | None:
    return None


ALL = Wants()
SILENT = Detected()


@dataclass(frozen=True, slots=True)
class Asked:
    """A source as somebody wants it: what a job says of it, the MTP layers that are wanted, the vocabulary that its target speaks of.

    `detected` is what was found out of it, where nobody stated its format.
    """

    source: SourceSpec
    model_type: str | None = None
    options: Options = field(default_factory=Options)
    wants: Wants = ALL
    spoken: Callable[[], int | None] = _silent
    detected: Detected = SILENT


def asked_of(job: Job, roots: Roots = ANYWHERE) -> Asked:
    """The job's source as its target wants it."""
    target = target_of(job.target.format)
    return Asked(job.source, job.model_type, job.options, target.wants(job.target), lambda: target.spoken_vocab(job.target, roots))


@dataclass(frozen=True, slots=True)
class OpenSource:
    """What is known of a source: its headers, its model, what it holds of its layout, and what its family lets it do without.

    `settings` are the dialect's own.
    """

    checkpoint: Checkpoint
    model: Model
    settings: Any
    inventory: Inventory
    absent: frozenset[str]
    adapters: Adapters | None
    notes: tuple[Note, ...]


def open_source(asked: Asked, roots: Roots = ANYWHERE) -> OpenSource:
    """Opens the source and matches it with its own layout. Reads headers.

    Raises JobError, SourceError, LayoutError, PlanError where it is not a whole checkpoint; PathRefused.
    """
    reader = source_of(asked.source.format)
    opened = reader.open_training if asked.options.state == "training" else reader.open
    checkpoint = of_modules(asked, opened(asked.source, roots))
    # Before anything that can be mended: a model that is not known is of no use dequantised.
    family = find_family(asked.model_type, checkpoint.facts)
    lora, adapters = reader.lora(asked.source), None
    if not family.as_stored:
        checkpoint = join_pieces(checkpoint, product_dtype(asked.options.dtype))
    if not family.as_stored or lora is not None:
        checkpoint, adapters = split_adapters(checkpoint, lora)
    if not family.as_stored:
        checkpoint = reader.by_family_names(replace(checkpoint, facts=family.flat(checkpoint.facts)), family)
    model = build_model(asked, checkpoint)
    settings, layout, inventory, notes = match_layout(asked.source, checkpoint, model)
    check_floats(inventory, checkpoint, model.integers)
    check_unique("source", [each.key for each in inventory.entries])
    check_tiled(inventory.held())
    absent, missed = find_absent(layout, inventory, model)
    if adapters is not None:
        claimed = {each.key for each in inventory.entries}
        adapters, unused = leave_out(adapters, lambda key: None if key in claimed else reader.ignores(key, model))
        notes += unused
    if asked.wants.modules is not None:
        model, inventory, left_out = only(asked.wants.modules, model, inventory)
        notes += left_out
    model = reader.storing(model, inventory.tensors())
    return OpenSource(checkpoint, model, settings, inventory, absent, adapters, (*checkpoint.notes, *model.notes, *notes, *missed))


def only(modules: tuple[str, ...], model: Model, inventory: Inventory) -> tuple[Model, Inventory, tuple[Note, ...]]:
    """Of a model and what is held of it these modules, and a note for each other one, which was found whole. Raises JobError."""
    unknown = [name for name in modules if name not in {module.name for module in model.modules}]
    if unknown:
        known = ", ".join(module.name for module in model.modules)
        raise JobError(f"{model.family.name} has no {', '.join(unknown)}", facts=[f"its modules are {known}"])
    part = model.only(modules)
    wanted = {scope.logical + each.name for scope in part.scopes for row in scope.rows for each in row.logicals}
    kept = tuple(each for each in inventory.entries if any(block.tensor.name in wanted for block in inventory.kinds[each.kind].blocks))
    count = len(inventory.entries) - len(kept)
    note = Note("ignored", f"{count} tensor(s) of {', '.join(part.left_out)} are left out: {', '.join(modules)} alone is asked for")
    return part, Inventory(inventory.kinds, kept), (note,) if count else ()


def of_modules(asked: Asked, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as its text decoder's, where the job asks for that of a model of several modules. Raises JobError."""
    if not getattr(asked.source, "modules", None):
        return checkpoint
    reader = source_of(asked.source.format)
    if reader.own_names and getattr(asked.source, "config_dir", None) is None:
        return checkpoint  # saved args are the decoder's
    names = None if reader.own_names else {name for _, name in checkpoint.found}
    return replace(checkpoint, facts=text_facts(asked.model_type, checkpoint.facts, names))


def match_layout(source: SourceSpec, checkpoint: Checkpoint, model: Model) -> tuple[Any, Layout, Inventory, tuple[Note, ...]]:
    """The dialect's settings for the source, its layout, what it holds of that, and notes.

    Raises JobError, SourceError; LayoutError and PlanError that begin with the layout that was assumed.
    """
    reader = source_of(source.format)
    try:
        settings = reader.settings(source, checkpoint, model)
        layout = reader.layout(model, settings)
        inventory, notes = match_source(layout, checkpoint, lambda key: reader.ignores(key, model), model.family.name)
    except (LayoutError, PlanError) as error:
        raise error.beginning(*reader.assumed(checkpoint)) from None
    return settings, layout, inventory, (*notes, *reader.remarks(model, settings))


def build_model(asked: Asked, checkpoint: Checkpoint) -> Model:
    """The model that the checkpoint holds, or the part of it that is asked for. Raises JobError, SourceError."""
    reader, options = source_of(asked.source.format), asked.options
    names = frozenset(name for _, name in checkpoint.found)
    mtp = reader.wanted(options, checkpoint, asked.wants)
    wanted = Wanted(
        options.num_layers,
        options.first_k_dense_replace,
        mtp.num_mtp,
        reader.vocab(options, checkpoint, asked.spoken),
        mtp.carry_mtp,
        len(checkpoint.found),
        names,
        lambda: reader.shapes(checkpoint),
        reader.experts(asked.source),
    )
    model = find_family(asked.model_type, checkpoint.facts).build(checkpoint.facts, wanted).carrying(names)
    return reader.seen(checkpoint, model)
