"""Writing a PEFT adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from convsvc.dialects.base import Adapted, Target
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.json_files import read_json
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.dialects.peft.adapter_files import CONFIG, Adapter, adapter_output
from convsvc.dialects.peft.adapter_source import facts_of
from convsvc.dialects.peft.job import PeftTarget
from convsvc.dialects.peft.layout import PREFIX, A, lay_sides, module_of, target_modules
from convsvc.errors import VerifyError
from convsvc.models.model import Model
from convsvc.roots import RootedPath


class Peft(Target):
    """adapter_model.safetensors and adapter_config.json."""

    name = "peft"
    adapters = True

    def layout(self, model: Model, settings: Adapted) -> Layout:
        """An A and a B for every module whose weight has adapters. Raises PlanError where the source's do not fit a module."""
        whole = lay_model(model)
        return Layout.of(
            (entry.file, side, entry.unit)
            for entry in whole.entries
            for side in lay_sides(whole.kinds[entry.kind], settings.sides, settings.r)
        )

    def output(self, draft: Draft[PeftTarget, Adapted]) -> tuple[Layout, Output]:
        settings = draft.settings
        linear = [module_of(laid) for laid in lay_model(draft.model).kinds if len(laid.shape) == 2]
        adapted = {laid.name.removeprefix(PREFIX).partition(f".{A}.")[0] for laid in draft.layout.kinds if f".{A}." in laid.name}
        adapter = Adapter(settings.r, settings.alpha, settings.use_rslora, target_modules(linear, adapted))
        return adapter_output(draft.layout, draft.specs(), adapter, draft.target.config_dir)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> None:
        """None: it is loaded beside its base."""

    def check_words(self, root: RootedPath, side_files: Iterable[SideFile]) -> None:
        """The configuration is read back as PEFT's, and says of rank and scale what was planned."""
        for side in side_files:
            if side.path == CONFIG and side.text is not None:
                origin = str(root / side.path)
                planned, read = (facts_of(config, origin) for config in (json.loads(side.text), read_json(root / side.path)))
                if planned != read:
                    raise VerifyError(f"{origin} says something else than was written", facts=[f"planned {planned}", f"read {read}"])


TARGET = Peft()
