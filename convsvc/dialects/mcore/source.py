"""Reading rank files, whatever framework on Megatron has written them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from convsvc.dialects.base import Source, Wants, refuse_parts
from convsvc.dialects.checkpoint import AdapterFacts, Checkpoint, Found
from convsvc.dialects.iterations import TRACKER, Iteration, numbered_folders, tracked
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.carried import is_carried
from convsvc.dialects.mcore.checkpoint import assumed, open_rank_files, refuse_state, settings_of, stored_rows
from convsvc.dialects.mcore.rank_files import layout
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.sizes import RankFilesSource
from convsvc.dialects.mcore.tables import Tables
from convsvc.errors import JobError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Options

FOLDER = re.compile(r"iter_(\d{7,12})")  # megatron/training/checkpointing.py get_checkpoint_name


def tracked_iterations(root: RootedPath) -> tuple[Iteration, ...]:
    """The `iter_...` directories. They are whole as far as the tracker goes: until there is one, none is."""
    last = tracked(root)
    return tuple(
        Iteration(number, name, {"path": root.path, "iteration": str(number)}, number <= (-1 if last is None else last))
        for number, name in sorted(numbered_folders(root, FOLDER).items())
    )


class RankFiles(Source):
    """Rank files: their saved args say the model and the layout. A framework has its own `tables`, and may have its own words."""

    tables: Tables

    def correct_args(self, args: Mapping[str, Any], found: Mapping[tuple[str, str], Found]) -> tuple[Mapping[str, Any], tuple[Note, ...]]:
        """The saved args, but for what a tool of the framework is known to save wrongly, and words about that."""
        return args, ()

    def saved_lora(self, facts: Facts) -> AdapterFacts:
        """What saved args say of adapters; Megatron's say nothing."""
        return AdapterFacts(facts.origin)

    def recognises(self, root: RootedPath) -> bool:
        return (root / TRACKER).is_file() or any(name.startswith("mp_rank_") for name in root.names())

    def iterations(self, root: RootedPath) -> tuple[Iteration, ...]:
        return tracked_iterations(root)

    def open(self, source: RankFilesSource, roots: Roots) -> Checkpoint:
        return open_rank_files(source, roots, self.correct_args, self.saved_lora)

    def check_training(self, source: RankFilesSource, roots: Roots) -> None:
        """Each rank has optimizer state of its own parameters' buckets, which no other layout cuts alike: it is named, and not kept."""
        refuse_state(RootedPath(source.path, roots), source.iteration, self.name)

    def wanted(self, options: Options, checkpoint: Checkpoint, wants: Wants) -> Wants:
        """The MTP layers that the args count. Rank files are converted whole: the args of a part would contradict it."""
        refuse_parts(options)
        return Wants(checkpoint.facts.first_number(("mtp_num_layers",)))

    def vocab(self, options: Options, checkpoint: Checkpoint, spoken: Callable[[], int | None]) -> int | None:
        """The job's; else what the target's own configuration speaks of, if as many rows are stored: saved args often do not say it, or
        count the tokenizer's tokens where the published model has rows to spare. All stored rows where nobody says it.
        """
        said, stored = checkpoint.facts.get("vocab_size"), self.stored_rows(checkpoint)
        _check_vocab(options.vocab_size, said, checkpoint)
        if options.vocab_size is not None:
            return options.vocab_size
        others = spoken()
        if others is not None and stored is not None and (said or 0) < others <= stored:
            return others
        return stored if said is None else None

    def stored_rows(self, checkpoint: Checkpoint) -> int | None:
        """Rows of the word embedding, padding included."""
        return stored_rows(checkpoint)

    def shapes(self, checkpoint: Checkpoint) -> Mapping[str, tuple[int, ...]]:
        """Of what is carried along: tensors in rank files are parts, and under names of Megatron's."""
        found = checkpoint.found.items()
        return {name: each.tensor.shape for (file, name), each in found if is_carried(file)}

    def settings(self, source: RankFilesSource, checkpoint: Checkpoint, model: Model) -> Settings:
        return settings_of(source, checkpoint, model)

    def assumed(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        return assumed(checkpoint)

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings, self.tables)

    def ignores(self, key: tuple[str, str], model: Model) -> str | None:
        """Buffers that are no weights: Transformer Engine's `_extra_state`, rotary frequencies."""
        if key[1].endswith("._extra_state"):
            return "Transformer Engine's extra state, not a weight"
        if re.search(r"(^|\.)(rotary_pos_emb|rotary_emb)\.inv_freq$", key[1]):
            return "a buffer that is computed, not a weight"
        return None


def _check_vocab(stated: int | None, said: Any, checkpoint: Checkpoint) -> None:
    if stated is not None and said is not None and stated != said:
        raise JobError(
            f"options.vocab_size is {stated}; {checkpoint.facts.origin} say vocab_size {said}",
            do="leave it out: it is read from the checkpoint",
        )
