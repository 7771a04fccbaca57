"""Reading a distributed checkpoint of Megatron-LM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from convsvc.dialects.base import Checkpoint, Layout, Source, Wants, refuse_parts
from convsvc.dialects.huggingface.config import check_words
from convsvc.dialects.iterations import Iteration
from convsvc.dialects.mcore.saved_layout import check_own_words
from convsvc.dialects.mcore.seen_sizes import check_padding
from convsvc.dialects.mcore.source import tracked_iterations
from convsvc.dialects.megatron.checkpoint import WORDS, Opened, open_checkpoint, place_of
from convsvc.dialects.megatron.job import MegatronSource
from convsvc.dialects.megatron.layout import LAYERS, Keys, lay_source
from convsvc.errors import JobError, SourceError
from convsvc.models.facts import Facts, shown
from convsvc.models.model import Model
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Options

# Sizes that the saved args and a configuration both say, by what `Facts.number` calls them.
SIZES = ("layers", "hidden", "heads", "experts", "expert_ffn", "ffn")


class Megatron(Source):
    """Global keys in chunks, wherever training cut them; the saved args or a configuration say the model."""

    name = "megatron"
    certainty = 2  # its tracker is that of rank files, too; what lies in the iteration's directory is not

    def recognises(self, root: RootedPath) -> bool:
        return place_of(root) is not None

    def iterations(self, root: RootedPath) -> tuple[Iteration, ...]:
        return tracked_iterations(root)

    def words_dir(self, source: MegatronSource) -> str | None:
        return source.config_dir

    def open(self, source: MegatronSource, roots: Roots) -> Checkpoint:
        return open_checkpoint(source, roots)

    def wanted(self, options: Options, checkpoint: Checkpoint, wants: Wants) -> Wants:
        """The MTP layers that are there: Megatron numbers them in their keys. It is converted whole."""
        refuse_parts(options)
        opened: Opened = checkpoint.settings
        return Wants(len({name.split(".")[2] for name in opened.shapes if name.startswith("mtp.layers.")}))

    def vocab(self, options: Options, checkpoint: Checkpoint, spoken: Callable[[], int | None]) -> int | None:
        """The job's; else what the configuration says; else what the target's own speaks of, if as many rows are stored; else all."""
        opened: Opened = checkpoint.settings
        said, stored = checkpoint.facts.get("vocab_size"), opened.shapes.get(WORDS, (None,))[0]
        if options.vocab_size is not None:
            if said is not None and said != options.vocab_size:
                raise JobError(
                    f"options.vocab_size is {options.vocab_size}; {checkpoint.facts.origin} say vocab_size {said}",
                    do="leave it out: it is read from the checkpoint",
                )
            return options.vocab_size
        others = spoken()
        if others is not None and stored is not None and (said or 0) < others <= stored:
            return others
        return stored if said is None else None

    def shapes(self, checkpoint: Checkpoint) -> Mapping[str, tuple[int, ...]]:
        opened: Opened = checkpoint.settings
        return opened.shapes

    def settings(self, source: MegatronSource, checkpoint: Checkpoint, model: Model) -> Keys:
        """Where the chunks are, and whether layers are stacked. Raises JobError where the saved args contradict the configuration."""
        opened: Opened = checkpoint.settings
        stored = opened.shapes.get(WORDS, (model.sizes["vocab"],))[0]
        check_own_words(opened.args)
        if source.config_dir is not None and opened.args.values:
            _check_sizes(checkpoint.facts, opened.args, model)
            check_words(checkpoint.facts, opened.args, model)
        tp = opened.args.get("tensor_model_parallel_size", default=1)
        check_padding(_of_rows(opened.args), model.sizes["vocab"], stored, tp if type(tp) is int and tp > 0 else 1)
        stacked = any(name.startswith(LAYERS) and not name[len(LAYERS) :].split(".")[0].isdigit() for name in opened.shapes)
        return Keys(stored, stacked, opened.cuts, opened.shapes)

    def layout(self, model: Model, settings: Keys) -> Layout:
        return lay_source(model, settings)


def _of_rows(args: Facts) -> Facts:
    """The args less the number of rows that one layout wanted: keys are of any, and Megatron reads what has others."""
    return replace(args, values={name: value for name, value in args.values.items() if name != "padded_vocab_size"})


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
