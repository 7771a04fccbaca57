"""Reading a checkpoint of MindSpeed-LLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsvc.dialects.checkpoint import AdapterFacts, Found
from convsvc.dialects.mcore.source import RankFiles
from convsvc.dialects.mindspeed_llm.corrections import see_value_dim
from convsvc.dialects.mindspeed_llm.own_args import saved_lora
from convsvc.dialects.mindspeed_llm.tables import FORMAT, TABLES
from convsvc.models.facts import Facts
from convsvc.notes import Note


class MindSpeedLlm(RankFiles):
    name, tables = FORMAT, TABLES

    def correct_args(self, args: Mapping[str, Any], found: Mapping[tuple[str, str], Found]) -> tuple[Mapping[str, Any], tuple[Note, ...]]:
        return see_value_dim(args, found)

    def saved_lora(self, facts: Facts) -> AdapterFacts:
        return saved_lora(facts)


SOURCE = MindSpeedLlm()
