"""What a job may say of a checkpoint of MindSpeed-LLM."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from convsvc.dialects.mcore.sizes import RankFilesSource, RankFilesTarget


class MindSpeedSource(RankFilesSource):
    """A checkpoint of MindSpeed-LLM: Megatron-mcore rank files. Sizes are read from its saved args; what is stated must agree."""

    format: Literal["mindspeed-llm"]


class MindSpeedTarget(RankFilesTarget):
    """Rank files of Megatron-mcore, as MindSpeed-LLM resumes training from them."""

    format: Literal["mindspeed-llm"]
    adapter_only: Literal[False] = Field(False, description="For Hugging Face targets only: into rank files, adapters are merged.")

    @field_validator("adapter_only", mode="before")
    @classmethod
    def _merged_only(cls, value: Any) -> Any:
        if value:
            raise ValueError(
                "adapters are not cut into rank files for themselves: q, k and v have an A each, Megatron's fused layer has one; "
                "leave it out to merge them into the base"
            )
        return value


SOURCE, TARGET = MindSpeedSource, MindSpeedTarget
