"""The flags of training that decide how matrices lie: what is taken for them, and what a user is told of it. Pure."""

from __future__ import annotations

from convsvc.dialects.mindformers.job import SourceFlags
from convsvc.dialects.mindformers.tables import Flags
from convsvc.errors import JobError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note

MLP, ATTENTION = "use_interleaved_weight_layout_mlp", "use_contiguous_weight_layout_attention"
DEFAULTS = Flags()
FC1 = ("mlp.linear_fc1.weight", "mlp.shared_experts.linear_fc1.weight")
QKV = "self_attention.linear_qkv.weight"
READ = "it is read as trained with {}; no file of it says so"
WRITTEN = "it is written for training with {}, which no file says: training must be told"


def flags_of(source: SourceFlags, facts: Facts, stacked_experts: bool) -> Flags:
    """As the job says, else as a configuration does, else training's defaults. Raises JobError where two of them contradict each other."""
    interleaved, contiguous = (_flag_of(name, getattr(source, name), facts) for name in (MLP, ATTENTION))
    return Flags(
        DEFAULTS.interleaved_mlp if interleaved is None else interleaved,
        DEFAULTS.contiguous_attention if contiguous is None else contiguous,
        stacked_experts,
    )


def _flag_of(name: str, stated: bool | None, facts: Facts) -> bool | None:
    configured = facts.get(name)
    if not isinstance(configured, bool) or stated == configured:
        return stated
    if stated is not None:
        raise JobError(f"source.{name} is {stated}, {facts.origin} says {configured}", do="leave it out if the configuration is right")
    return configured


def flag_notes(model: Model, flags: Flags, text: str) -> tuple[Note, ...]:
    """A note that says the flags on which this model's layout depends; none where it depends on none."""
    names = frozenset().union(*(scope.logicals for scope in model.scopes))
    said = [f"{MLP} {flags.interleaved_mlp}"] if names.intersection(FC1) else []
    said += [f"{ATTENTION} {flags.contiguous_attention}"] if QKV in names else []
    return (Note("advice", text.format(" and ".join(said))),) if said else ()
