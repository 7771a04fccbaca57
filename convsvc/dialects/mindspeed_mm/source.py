"""Reading rank files of MindSpeed-MM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from convsvc.dialects.base import Source, Wants, refuse_parts
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.iterations import TRACKER, Iteration
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.checkpoint import refuse_state
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.rank_files import layout, prefix_of
from convsvc.dialects.mcore.rows import rows_of
from convsvc.dialects.mcore.settings import Settings as Cut
from convsvc.dialects.mcore.source import tracked_iterations
from convsvc.dialects.mindspeed_mm.alike import check_alike, with_head
from convsvc.dialects.mindspeed_mm.checkpoint import Opened, is_mindspeed_mm, open_checkpoint
from convsvc.dialects.mindspeed_mm.job import MindSpeedMMSource
from convsvc.dialects.mindspeed_mm.seen import grid_of, settings_of, stored_vocab
from convsvc.dialects.mindspeed_mm.seen_facts import seen_facts
from convsvc.dialects.mindspeed_mm.settings import Grid, Settings
from convsvc.dialects.mindspeed_mm.tables import FORMAT, tables_of
from convsvc.errors import ConvsvcError
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.models.unsure import with_seen_sizes
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Options

WITHOUT = (
    "no source.config_dir says how many heads there are: that no cut falls within a head is not seen (source.architecture may state "
    "num_attention_heads, num_key_value_heads and head_dim)"
)


OR_COPY = (
    "no source.config_dir says whether the output layer is the embedding: that of the last stage is kept as the model's own (state "
    "source.config_dir for a model that is tied)"
)


def _unseen(grid: Grid, seen: Facts) -> tuple[Note, ...]:
    """What names and shapes do not tell: in several stages a tied embedding, too, is stored twice."""
    is_copy = grid.pp * grid.chunks > 1 and not seen.tied(False)
    return (Note("advice", WITHOUT), *([Note("advice", OR_COPY)] if is_copy else []))


class MindSpeedMM(Source):
    """Rank files whose layout is seen from their names and shapes, of a model that a config.json describes."""

    name = FORMAT
    certainty = 2  # rank directories and tracker are as MindSpeed-LLM's

    def recognises(self, root: RootedPath) -> bool:
        if not (root / TRACKER).is_file() and not any(name.startswith("mp_rank_") for name in root.names()):
            return False
        try:
            return is_mindspeed_mm(root)
        except ConvsvcError:
            return False

    def iterations(self, root: RootedPath) -> tuple[Iteration, ...]:
        return tracked_iterations(root)

    def words_dir(self, source: MindSpeedMMSource) -> str | None:
        return source.config_dir

    def open(self, source: MindSpeedMMSource, roots: Roots) -> Checkpoint:
        return open_checkpoint(source, roots)

    def check_training(self, source: MindSpeedMMSource, roots: Roots) -> None:
        refuse_state(RootedPath(source.path, roots), source.iteration, self.name)

    def by_family_names(self, checkpoint: Checkpoint, family: Family) -> Checkpoint:
        """The checkpoint, with a configuration: where the job gives none, what names and shapes show of one. Raises SourceError."""
        opened: Opened = checkpoint.settings
        checkpoint = with_head(checkpoint, family, opened.there, opened.source.own_head)
        if opened.source.config_dir is not None:
            return checkpoint
        grid = grid_of(checkpoint, opened.source.ep_size)
        seen = seen_facts(checkpoint, family.name, grid)
        facts = Facts({**seen.values, **checkpoint.facts.values}, seen.origin)
        return replace(checkpoint, facts=facts, notes=(*checkpoint.notes, *_unseen(grid, seen)))

    def wanted(self, options: Options, checkpoint: Checkpoint, wants: Wants) -> Wants:
        """There are no MTP layers. Rank files are converted whole."""
        refuse_parts(options)
        return wants._replace(num_mtp=0, carry_mtp=True)

    def vocab(self, options: Options, checkpoint: Checkpoint, spoken: Callable[[], int | None]) -> int | None:
        """As many rows as are stored: an embedding that was resized for training is larger than its configuration says."""
        if options.vocab_size is not None:
            return options.vocab_size
        opened: Opened = checkpoint.settings
        return stored_vocab(checkpoint, grid_of(checkpoint, opened.source.ep_size), opened.source)

    def seen(self, checkpoint: Checkpoint, model: Model) -> Model:
        """By the names in rank files; what is cut over ranks is not looked at."""
        tables = tables_of(model.family.name, False)
        shapes = {name.partition("/")[2]: found.tensor.shape for (_, name), found in checkpoint.found.items()}

        def rows(scope: Scope) -> tuple[Rows, str]:
            own = tables.of(scope.module)
            cut = Settings(Cut(Parallel(), padded_vocab=0))
            whole = tuple(row for row in rows_of(scope, model, cut.cut, tables) if row.tp is None)
            return whole, prefix_of(scope, 0, own)

        return with_seen_sizes(model, lambda: shapes, rows)

    def settings(self, source: MindSpeedMMSource, checkpoint: Checkpoint, model: Model) -> Settings:
        opened: Opened = checkpoint.settings
        if opened.there is not None:
            check_alike(checkpoint, model, opened.there, str(source.like_dir))
        return settings_of(source, checkpoint, model)

    def remarks(self, model: Model, settings: Settings) -> tuple[Note, ...]:
        """What is stored and has no effect: a bias of keys adds the same to all scores of a query."""
        tables = tables_of(model.family.name, settings.canonical)
        idle = {scope.module for scope in model.scopes for row in rows_of(scope, model, settings.cut, tables) if row.hole is not None}
        return tuple(
            Note("ignored", f"the bias of keys in the {module}: the model has none, and it has no effect") for module in sorted(idle)
        )

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings.cut, tables_of(model.family.name, settings.canonical))


SOURCE = MindSpeedMM()
