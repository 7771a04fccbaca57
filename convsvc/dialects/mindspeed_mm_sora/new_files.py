"""New rank files of a diffusion model, and their tracker."""

from __future__ import annotations

from typing import Any

from convsvc.dialects.iterations import TRACKER
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.planned_files import plan_rank_files
from convsvc.dialects.mcore.progress import RELEASE, tracked_as
from convsvc.dialects.mindspeed_mm_sora.job import SoraTarget
from convsvc.dialects.mindspeed_mm_sora.layout import Settings
from convsvc.dialects.output import Draft, Output, SideFile


def output(draft: Draft[SoraTarget, Settings]) -> tuple[Layout, Output]:
    """One file a rank with a dict for each of its chunks; the tracker last. A version is saved only beside numbered chunks, as the source
    tool does (checkpoint/sora_model/convert_utils/save_load_utils.py, save_as_mm)."""
    settings, layout, specs = draft.settings, draft.layout, draft.specs()
    keys = [settings.chunk_key(chunk) for chunk in range(settings.chunks)]
    top: dict[str, Any] = {"checkpoint_version": 3.0} if settings.numbered else {}
    tracked = tracked_as(settings.folder)
    top |= {} if tracked == RELEASE else {"iteration": int(tracked)}
    paths = [settings.file(rank, stage) for stage in range(settings.stages) for rank in range(settings.tp)]
    files, skeletons, notes = plan_rank_files(paths, layout, specs, keys, lambda held: {**held, **top})
    return layout, Output(files, skeletons, (SideFile(TRACKER, text=tracked, last=True),), notes)
