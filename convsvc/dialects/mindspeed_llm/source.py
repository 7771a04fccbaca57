"""Reading a checkpoint of MindSpeed-LLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsvc.dialects.base import Detected
from convsvc.dialects.checkpoint import AdapterFacts, Found
from convsvc.dialects.mcore.source import RankFiles
from convsvc.dialects.mcore.whose import whose
from convsvc.dialects.megatron.rank_tables import RANK_FILES
from convsvc.dialects.mindspeed_llm.corrections import see_value_dim
from convsvc.dialects.mindspeed_llm.own_args import saved_lora
from convsvc.dialects.mindspeed_llm.tables import FORMAT, TABLES
from convsvc.models.facts import Facts
from convsvc.notes import Note
from convsvc.roots import RootedPath


class MindSpeedLlm(RankFiles):
    name, tables = FORMAT, TABLES

    def detected(self, root: RootedPath) -> Detected:
        found = whose(root, RANK_FILES, TABLES)
        if found is None or found.reason is not None:
            return Detected()
        text = (
            "these rank files are read as MindSpeed-LLM's: names and args are as Megatron-LM has them, too; "
            f'source.format {RANK_FILES.format} with source.storage "torch" says that they are its own'
        )
        return Detected(notes=(Note("advice", text),))

    def correct_args(self, args: Mapping[str, Any], found: Mapping[tuple[str, str], Found]) -> tuple[Mapping[str, Any], tuple[Note, ...]]:
        return see_value_dim(args, found)

    def saved_lora(self, facts: Facts) -> AdapterFacts:
        return saved_lora(facts)


SOURCE = MindSpeedLlm()
