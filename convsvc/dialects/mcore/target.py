"""Writing rank files for a framework on Megatron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from convsvc.dialects.base import Adapted, Read, Target, Wants
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.new_files import output
from convsvc.dialects.mcore.progress import at_iteration
from convsvc.dialects.mcore.rank_files import layout, prefix_of
from convsvc.dialects.mcore.rows import rows_of
from convsvc.dialects.mcore.settings import Settings, settings_for
from convsvc.dialects.mcore.sizes import RankFilesTarget
from convsvc.dialects.mcore.tables import Tables
from convsvc.dialects.output import Draft, Output
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.notes import Note
from convsvc.roots import Roots
from convsvc.spec import Job


class RankFiles(Target):
    """Rank files as training resumes from them: args, tracker, the iteration that it has come to, or 1.

    A framework has its own `tables`, and may have its own words.
    """

    tables: Tables
    carries = True

    def own_args(self, model: Model, settings: Settings, facts: Facts) -> Mapping[str, Any]:
        """What its args say of the layout beside Megatron's; `facts` are the source's."""
        return {}

    def advice(self, model: Model, settings: Settings) -> tuple[Note, ...]:
        """What a user should know of how it loads this."""
        return ()

    def wants(self, target: RankFilesTarget) -> Wants:
        """Not asked for is not dropped: MTP layers lie beside the ranks then, for the way back. Who asks for 0 does not want them."""
        return Wants(target.mtp_num_layers or 0, target.mtp_num_layers is None)

    def settings(self, target: RankFilesTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        return settings_for(target, model)

    def as_found(self, job: Job, settings: Settings, model: Model, read: Read, roots: Roots) -> Settings:
        """In the directory of the job's iteration, or of that which the source's training has come to."""
        return at_iteration(settings, cast(RankFilesTarget, job.target).iteration, read.iteration)

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings, self.tables)

    def rows(self, scope: Scope, model: Model, settings: Settings) -> Rows:
        return rows_of(scope, model, settings, self.tables)

    def prefix(self, scope: Scope, model: Model) -> str:
        return prefix_of(scope, scope.number, self.tables.of(scope.module))

    def output(self, draft: Draft[RankFilesTarget, Settings]) -> tuple[Layout, Output]:
        own, advice = self.own_args(draft.model, draft.settings, draft.facts), self.advice(draft.model, draft.settings)
        return output(draft, own, advice)
