"""Writing a distributed checkpoint of Megatron-LM."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from convsvc.dialects.base import Adapted, Read, Wants, without_state
from convsvc.dialects.huggingface.new_files import parse_size
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.seen_sizes import pad_vocab
from convsvc.dialects.mcore.settings import Settings, settings_for
from convsvc.dialects.mcore.target import RankFiles
from convsvc.dialects.mcore.whose import OF_MEGATRON, OF_MINDSPEED
from convsvc.dialects.megatron.fsdp_state import MAIN, check_kinds_of_fsdp
from convsvc.dialects.megatron.fsdp_tables import PREFIX, is_halved
from convsvc.dialects.megatron.job import MegatronSource, MegatronTarget
from convsvc.dialects.megatron.layout import FSDP, Keys, check_decoder, is_usually_stacked, lay_target
from convsvc.dialects.megatron.moments import State, logical_states
from convsvc.dialects.megatron.new_files import output
from convsvc.dialects.megatron.norms import write_norms
from convsvc.dialects.megatron.own_args import own_args
from convsvc.dialects.megatron.rank_tables import HYBRID, RANK_FILES
from convsvc.dialects.megatron.tables import key_rows
from convsvc.dialects.megatron.told_args import untold
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.errors import JobError, LayoutError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.roots import Roots
from convsvc.spec import Job, SourceSpec

# Of the values that chunk_size counts in: bf16, which most weights are.
VALUE_BYTES = 2
CHUNK_SIZE = "256MiB"


class Megatron(RankFiles):
    """Global keys in `.distcp` files, which training loads at any layout; or rank files in Transformer Engine's names."""

    name, tables = "megatron", RANK_FILES
    title = "Megatron-LM, torch_dist"

    def wants(self, target: Any) -> Wants:
        """All MTP layers, or as many as are asked for; others are not kept. In rank files, as every framework on Megatron has them."""
        if target.storage == "torch":
            return super().wants(target)
        return Wants(target.mtp_num_layers, target.mtp_num_layers is None)

    def settings(self, target: Any, model: Model, adapted: Adapted | None = None) -> Any:
        check_decoder(model)
        if target.storage == "torch":
            return _of_ranks(target, model)
        if target.storage == FSDP:
            return _of_fsdp(target, model)
        stacked = is_usually_stacked(model) if target.layer_keys == "auto" else target.layer_keys == "stacked"
        padded = pad_vocab(model.sizes["vocab"], target.make_vocab_size_divisible_by, 1)
        return Keys(padded, stacked, chunk_elements=_chunk_elements(target), hashed=target.verify_integrity)

    def check_training(self, target: Any) -> None:
        if target.storage == "torch":
            raise without_state("target", f"megatron with storage {target.storage}")
        if target.iteration == "release":
            raise JobError("target.iteration is release, which training begins at 0 with", do="leave it out to go on where the source is")

    def with_state(self, settings: Keys, names: Collection[str]) -> Keys:
        state = logical_states(names)
        if settings.fsdp:
            check_kinds_of_fsdp(state)
        return replace(settings, kinds=tuple(state), state=state)

    def stand_ins(self, settings: Keys, names: Collection[str]) -> Mapping[str, str]:
        """Weights are what Megatron rounds main weights to, which are all that Megatron-FSDP keeps."""
        if settings.fsdp:
            return {}
        return {of: State(MAIN, of).logical for of in settings.state.get(MAIN, ()) if of not in names}

    def as_found(self, job: Job, settings: Any, model: Model, read: Read, roots: Roots) -> Any:
        """From rank files at the iteration that training has come to. From a distributed one a job for weights alone begins anew."""
        if not isinstance(settings, Keys):
            return super().as_found(job, settings, model, read, roots)
        if isinstance(read.settings, Keys):
            return replace(settings, wrappers=read.settings.wrappers)
        return replace(settings, iteration=read.iteration)

    def layout(self, model: Model, settings: Any) -> Layout:
        return lay_target(model, settings) if isinstance(settings, Keys) else super().layout(model, settings)

    def rows(self, scope: Scope, model: Model, settings: Any) -> Rows:
        return key_rows(scope, model)

    def prefix(self, scope: Scope, model: Model) -> str:
        return scope.logical if scope.kind in ("layer", "mtp_block") else ""

    def output(self, draft: Draft[Any, Any]) -> tuple[Layout, Output]:
        if isinstance(draft.settings, Keys):
            return output(draft)
        layout, made = super().output(replace(draft, facts=_less_mindspeed(draft.facts)))
        encoded, changed = write_norms(draft.layout, draft.dtypes)
        return layout, replace(made, encoded=encoded, notes=(*changed, *untold(draft.model, draft.facts), *made.notes))

    def own_args(self, model: Model, settings: Settings, facts: Facts) -> Mapping[str, Any]:
        return {OF_MEGATRON: "torch", **own_args(model, facts)}

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        return MegatronSource(format="megatron", path=path, storage=target.storage, architecture=architecture)


def _less_mindspeed(facts: Facts) -> Facts:
    """The source's words without those that MindSpeed-LLM alone has: they would say that these rank files are its."""
    return replace(facts, values={name: value for name, value in facts.values.items() if name not in OF_MINDSPEED})


def _chunk_elements(target: MegatronTarget) -> int:
    return max(1, parse_size(target.chunk_size or CHUNK_SIZE) // VALUE_BYTES)


def _of_fsdp(target: MegatronTarget, model: Model) -> Keys:
    return Keys(
        pad_vocab(model.sizes["vocab"], target.make_vocab_size_divisible_by, 1),
        stacked=False,
        chunk_elements=_chunk_elements(target),
        fsdp=True,
        halved=is_halved(model),
        sequential=target.moe_grouped_gemm is False,
        prefix=PREFIX,
    )


def _of_ranks(target: MegatronTarget, model: Model) -> Settings:
    """As every framework on Megatron has them, but for Transformer Engine's names where nothing else is said: with MTP layers, too."""
    own = target.transformer_impl == "local"
    if own and (hybrid := [name for name in HYBRID if any(name in scope.logicals for scope in model.layers())]):
        raise LayoutError(
            f"Megatron core has no modules of its own for {', '.join(hybrid)}: layers of {model.family.name} are Transformer Engine's",
            do='leave transformer_impl out, or state "transformer_engine"',
        )
    return replace(settings_for(target.model_copy(update={"transformer_impl": None}), model), transformer_engine=not own)


TARGET = Megatron()
