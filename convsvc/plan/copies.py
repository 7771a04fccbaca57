"""Which copies of a tensor are compared with the one that is read, and what to do where one differs. Pure.

A source holds many tensors more than once: norms and routers on every tensor rank, experts too where they are not cut, a tied head
beside its embedding, the embedding again on the last stage. Only one copy goes into the target, so all of them must be it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING
from convsvc.errors import SourceError
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.plan.records import PlannedTensor, Transfer, View
from convsvc.plan.transfers import Gathered
from convsvc.tensors.dtypes import common_dtype, size_of

SMALL_BYTES = 16 << 20
UNCHECKED = {
    "small": f"copies of more than {SMALL_BYTES >> 20} MiB that other ranks hold are not compared (options.check_copies is small)",
    "none": "copies that other ranks hold are not compared (options.check_copies is none)",
}
TIED = (
    "the configuration says that the output layer is the embedding. If it is a head of its own, state tie_word_embeddings false in "
    "config.json (untie_embeddings_and_output_weights true in saved args); if it is a stale copy, remove it from the checkpoint"
)
COPY = "the target keeps one of the two: convert to a target that stores both, or remove the one that is stale from the checkpoint"


def left_out_copies(sources: Mapping[str, Gathered], wanted: Collection[str], model: Model) -> dict[str, list[Gathered]]:
    """Logical tensor -> what the source holds under a name that is a copy of it (`Model.same_as`) and that the target does not hold."""
    copies: dict[str, list[Gathered]] = {}
    for name, original in model.same_as.items():
        if name in sources and name not in wanted:
            copies.setdefault(original, []).append(sources[name])
    return copies


def choose_checks(
    transfers: Sequence[tuple[str, Transfer]], sources: Sequence[PlannedTensor], level: str, tied: bool
) -> tuple[list[tuple[str, Transfer]], tuple[Note, ...]]:
    """The transfers with the checks that the job asks for (`level`: "all", "small", "none"), and a note where those are not all.

    What lies under another name than what is read is compared whatever the level: that it is the same is the configuration's word.
    Raises SourceError for copies whose values cannot be compared.
    """
    _check_comparable(transfers, sources)
    chosen = [(unit, _chosen(transfer, sources, level, tied)) for unit, transfer in transfers]
    return chosen, tuple(Note("ignored", text) for text in dict.fromkeys(each.unchecked for _, each in chosen) if text)


def _chosen(transfer: Transfer, sources: Sequence[PlannedTensor], level: str, tied: bool) -> Transfer:
    operands = transfer.transform.operands if transfer.transform else ()
    if not transfer.checks and not any(each.checks for each in operands):
        return transfer
    remedy = TIED if tied and transfer.name == EMBEDDING.name else COPY
    if level == "all":
        return replace(transfer, remedy=remedy)
    checks = _kept(transfer.reads, transfer.checks, sources, level)
    kept = tuple(replace(each, checks=_kept(each.views, each.checks, sources, level)) for each in operands)
    is_whole = checks == transfer.checks and kept == operands
    transform = replace(transfer.transform, operands=kept) if transfer.transform else None
    return replace(transfer, checks=checks, transform=transform, remedy=remedy, unchecked="" if is_whole else UNCHECKED[level])


def _kept(reads: Sequence[View], checks: Sequence[View], sources: Sequence[PlannedTensor], level: str) -> tuple[View, ...]:
    names = {sources[place.tensor].name for view in reads for place in view.places}

    def is_kept(view: View, tensor: PlannedTensor) -> bool:
        return tensor.name not in names or (level == "small" and view.volume * size_of(tensor.dtype) <= SMALL_BYTES)

    kept = [view._replace(places=tuple(place for place in view.places if is_kept(view, sources[place.tensor]))) for view in checks]
    return tuple(view for view in kept if view.places)


def _check_comparable(transfers: Sequence[tuple[str, Transfer]], sources: Sequence[PlannedTensor]) -> None:
    dtypes = [tensor.value_dtype for tensor in sources]
    if len(set(dtypes)) <= 1:
        return
    faults = [fault for _, transfer in transfers if transfer.checks for fault in _incomparable(transfer, sources, dtypes)]
    if faults:
        raise SourceError(
            f"{len(faults)} tensors are held more than once, as types whose values cannot be compared",
            facts=faults[:12],
            do="store all copies alike, or remove the wrong ones",
        )


def _incomparable(transfer: Transfer, sources: Sequence[PlannedTensor], dtypes: Sequence[str]) -> list[str]:
    read, other = ({dtypes[tensor]: tensor for view in views for tensor, _ in view.places} for views in (transfer.reads, transfer.checks))
    return [
        f"{transfer.name}: {sources[one].name} is {a}, {sources[two].name} {b}"
        for a, one in read.items()
        for b, two in other.items()
        if common_dtype(a, b) is None
    ]
