"""New rank files of a diffusion model, and their tracker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convsvc.dialects.alike import plan_alike
from convsvc.dialects.base import Draft, Layout, NewFile, Output, SideFile
from convsvc.dialects.iterations import TRACKER
from convsvc.dialects.mindspeed_mm_sora.job import SoraTarget
from convsvc.dialects.mindspeed_mm_sora.layout import Settings
from convsvc.formats import torch_zip
from convsvc.formats.base import TensorSpec


def output(draft: Draft[SoraTarget, Settings]) -> tuple[Layout, Output]:
    """One file a rank with a dict for each of its chunks; the tracker last. A version is saved only beside numbered chunks, as the source
    tool does (checkpoint/sora_model/convert_utils/save_load_utils.py, save_as_mm)."""
    settings, layout, specs = draft.settings, draft.layout, draft.specs()
    keys = [settings.chunk_key(chunk) for chunk in range(settings.chunks)]
    top: dict[str, Any] = {"checkpoint_version": 3.0} if settings.numbered else {}
    held: dict[str, list[int]] = {settings.file(rank, stage): [] for stage in range(settings.stages) for rank in range(settings.tp)}
    for entry in layout.entries:
        held[entry.file].append(entry.kind)

    def skeleton(kinds: list[TensorSpec]) -> Any:
        return torch_zip.plan_skeleton({**_tree(kinds, keys), **top}, archive="model_optim_rng")

    skeletons, chosen = plan_alike(held.values(), specs, skeleton)
    files = tuple(NewFile(path, "torch_zip", number) for path, number in zip(held, chosen, strict=True))
    return layout, Output(files, skeletons, (SideFile(TRACKER, text=settings.folder, last=True),))


def _tree(specs: Iterable[TensorSpec], keys: Iterable[str]) -> dict[str, dict[str, TensorSpec]]:
    held: dict[str, dict[str, TensorSpec]] = {key: {} for key in keys}
    for spec in specs:
        key, _, stored = spec.name.partition("/")
        held[key][stored] = spec
    return held
