"""New rank files of MindSpeed-MM, and their tracker."""

from __future__ import annotations

from convsvc.dialects.iterations import TRACKER
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.grid import ranks
from convsvc.dialects.mcore.planned_files import plan_rank_files
from convsvc.dialects.mcore.progress import RELEASE, tracked_as
from convsvc.dialects.mcore.rank_files import chunk_name, rank_file
from convsvc.dialects.mindspeed_mm.job import MindSpeedMMTarget
from convsvc.dialects.mindspeed_mm.settings import Settings
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.notes import Note


def output(draft: Draft[MindSpeedMMTarget, Settings]) -> tuple[Layout, Output]:
    """One file a rank, with a dict for each of its chunks, and one for what is carried; the tracker last."""
    cut, layout, specs = draft.settings.cut, draft.layout, draft.specs()
    chunks = cut.parallel.virtual_stages
    names = [chunk_name(chunk) for chunk in ([None] if chunks is None else range(chunks))]
    paths = [rank_file(rank, cut) for rank in ranks(cut.parallel)]
    tracked = tracked_as(cut.folder)
    top = {"checkpoint_version": 3.0} | ({} if tracked == RELEASE else {"iteration": int(tracked)})
    files, skeletons, carried = plan_rank_files(paths, layout, specs, names, lambda held: {**top, **held})
    notes = (*(Note("advice", said) for said in draft.model.advice), *carried)
    return layout, Output(files, skeletons, (SideFile(TRACKER, text=tracked, last=True),), notes)
