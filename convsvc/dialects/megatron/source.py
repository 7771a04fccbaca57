"""Reading a distributed checkpoint of Megatron-LM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from convsvc.dialects.base import Detected, Wants, refuse_parts, without_state
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.huggingface.config import check_words
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.checkpoint import refuse_state
from convsvc.dialects.mcore.saved_layout import check_own_words
from convsvc.dialects.mcore.seen_sizes import check_padding
from convsvc.dialects.mcore.source import RankFiles
from convsvc.dialects.mcore.whose import whose
from convsvc.dialects.megatron.checkpoint import WORDS, Opened, open_checkpoint, place_of
from convsvc.dialects.megatron.fsdp_state import HALF, WRAPPED
from convsvc.dialects.megatron.job import MegatronSource
from convsvc.dialects.megatron.layout import CARRIED, LAYERS, Keys, check_decoder, lay_source
from convsvc.dialects.megatron.norms import check_norms, read_norms
from convsvc.dialects.megatron.rank_tables import RANK_FILES
from convsvc.dialects.megatron.state import by_old_name, is_halved, is_single
from convsvc.dialects.mindspeed_llm.tables import TABLES as MINDSPEED
from convsvc.errors import SourceError
from convsvc.models.facts import Facts, shown
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Options

# Sizes that the saved args and a configuration both say, by what `Facts.number` calls them.
SIZES = ("layers", "hidden", "heads", "experts", "expert_ffn", "ffn")
ALSO = (
    "these rank files are read as Megatron-LM's: names are Transformer Engine's, and the args have none of MindSpeed-LLM's own; "
    f"source.format {MINDSPEED.format} says that they are its"
)


class Megatron(RankFiles):
    """Global keys in chunks, wherever training cut them, or rank files; the saved args or a configuration say the model."""

    name, tables = "megatron", RANK_FILES
    own_names = True
    certainty = 2  # its tracker is that of rank files, too; what lies in the iteration's directory is not

    def recognises(self, root: RootedPath) -> bool:
        """Distributed ones, and rank files that are not MindSpeed-LLM's."""
        if place_of(root) is not None:
            return True
        found = whose(root, RANK_FILES, MINDSPEED) if super().recognises(root) else None
        return found is not None and found.megatron

    def detected(self, root: RootedPath) -> Detected:
        if place_of(root) is not None:
            return Detected()
        found = whose(root, RANK_FILES, MINDSPEED)
        notes = (Note("advice", ALSO),) if found is not None and found.reason is None else ()
        return Detected({"storage": "torch"}, notes)

    def words_dir(self, source: MegatronSource) -> str | None:
        """None where it may be that of a model of several modules, whose words are not those of its text decoder alone."""
        return None if source.modules else source.config_dir

    def open(self, source: Any, roots: Roots) -> Checkpoint:
        if source.storage != "torch":
            return open_checkpoint(source, roots)
        opened = super().open(source, roots)
        found, changed = read_norms({(file, by_old_name(name)): each for (file, name), each in opened.found.items()})
        return replace(opened, found=found, notes=(*opened.notes, *changed))

    def check_training(self, source: Any, roots: Roots) -> None:
        if source.storage == "torch":
            refuse_state(RootedPath(source.path, roots), source.iteration, f"{self.name} with storage torch")

    def open_training(self, source: Any, roots: Roots) -> Checkpoint:
        if source.storage == "torch":
            raise without_state("source", f"megatron with storage {source.storage}")
        return open_checkpoint(source, roots, training=True)

    def vocab(self, options: Options, checkpoint: Checkpoint, spoken: Callable[[], int | None]) -> int | None:
        """Where training goes on, all rows that are stored unless the job says otherwise: it has trained those beyond its words, too."""
        if options.state == "training":
            return options.vocab_size or self.stored_rows(checkpoint)
        return super().vocab(options, checkpoint, spoken)

    def wanted(self, options: Options, checkpoint: Checkpoint, wants: Wants) -> Wants:
        """The MTP layers that are there: Megatron numbers them in their keys. It is converted whole."""
        opened = checkpoint.settings
        if not isinstance(opened, Opened):
            return super().wanted(options, checkpoint, wants)
        refuse_parts(options)
        return Wants(len({name.split(".")[2] for name in opened.shapes if name.startswith("mtp.layers.")}))

    def stored_rows(self, checkpoint: Checkpoint) -> int | None:
        opened = checkpoint.settings
        if not isinstance(opened, Opened):
            return super().stored_rows(checkpoint)
        shape = opened.shapes.get(WORDS)
        return shape[0] if shape else None

    def shapes(self, checkpoint: Checkpoint) -> Mapping[str, tuple[int, ...]]:
        """Of what is carried along, by its own names: all other keys are Megatron's."""
        opened = checkpoint.settings
        if not isinstance(opened, Opened):
            return super().shapes(checkpoint)
        return {name.removeprefix(CARRIED): shape for name, shape in opened.shapes.items() if name.startswith(CARRIED)}

    def settings(self, source: Any, checkpoint: Checkpoint, model: Model) -> Any:
        """Where the chunks are, and whether layers are stacked. Raises JobError where the saved args contradict the configuration."""
        opened = checkpoint.settings
        if not isinstance(opened, Opened):
            check_norms(model, checkpoint.facts)
            return super().settings(source, checkpoint, model)
        check_decoder(model)
        stored = opened.shapes.get(WORDS, (model.sizes["vocab"],))[0]
        check_own_words(opened.args)
        check_norms(model, opened.args)
        if source.config_dir is not None and opened.args.values:
            _check_sizes(checkpoint.facts, opened.args, model)
            check_words(checkpoint.facts, opened.args, model)
        tp = opened.args.get("tensor_model_parallel_size", default=1)
        check_padding(_of_rows(opened.args), model.sizes["vocab"], stored, tp if type(tp) is int and tp > 0 else 1)
        if opened.fsdp or is_single(opened.shapes):
            fsdp, halved = opened.fsdp, is_halved(opened.shapes)
            return Keys(
                stored,
                stacked=False,
                cuts=opened.cuts,
                shapes=opened.shapes,
                fsdp=fsdp,
                single=not fsdp,
                halved=halved,
                kinds=opened.kinds,
                wrappers=opened.wrappers or _wrappers(opened.args, checkpoint),
            )
        stacked = any(name.startswith(LAYERS) and not name[len(LAYERS) :].split(".")[0].isdigit() for name in opened.shapes)
        return Keys(
            stored, stacked, opened.cuts, opened.shapes, kinds=opened.kinds, wrappers=opened.wrappers or _wrappers(opened.args, checkpoint)
        )

    def assumed(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        return () if isinstance(checkpoint.settings, Opened) else super().assumed(checkpoint)

    def layout(self, model: Model, settings: Any) -> Layout:
        return lay_source(model, settings) if isinstance(settings, Keys) else super().layout(model, settings)


def _of_rows(args: Facts) -> Facts:
    """The args less the number of rows that one layout wanted: keys are of any, and Megatron reads what has others."""
    return replace(args, values={name: value for name, value in args.values.items() if name != "padded_vocab_size"})


def _wrappers(args: Facts, checkpoint: Checkpoint) -> str:
    """How training wraps the model, which it does once more in bf16 and fp16: as the args say, or else the weights themselves."""
    said = [args.get(name) for name in ("bf16", "fp16")]
    if None in said and True not in said:
        said = [next((each.tensor.dtype for (_, name), each in checkpoint.found.items() if name == WORDS), "") in ("BF16", "F16")]
    return HALF if True in said else WRAPPED


def _check_sizes(config: Facts, args: Facts, model: Model) -> None:
    """Raises SourceError where both say a size and not the same."""
    faults = []
    for what in SIZES:
        one, other = (_size(facts, what, model) for facts in (config, args))
        if one is not None and other is not None and one != other:
            faults.append(f"{what}: {config.origin} says {shown(one)}, {args.origin} say {shown(other)}")
    if faults:
        raise SourceError(
            "the configuration is not that of this checkpoint", facts=faults, do="give the config_dir of the model that was trained"
        )


def _size(facts: Facts, what: str, model: Model) -> int | None:
    facts = model.family.flat(facts)
    if what == "layers":
        return facts.num_layers if facts.get("num_layers", "num_hidden_layers", "n_layer") is not None else None
    # Megatron's default for a width that nobody set stands beside the experts' own.
    if what == "ffn" and model.num_experts:
        return None
    return facts.number(what, default=0) or None


SOURCE = Megatron()
