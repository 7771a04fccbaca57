"""How a checkpoint names and keeps what a model has, where a job must say it: beginnings of names, forms of experts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Strict, Text

Beginning = Annotated[Text, Field(max_length=200)]
Form = Literal["separate", "output_first", "input_first", "input_first_flat"]


class Naming(Strict):
    """Part of a format's own class."""

    names: Annotated[dict[Beginning, Beginning], Field(max_length=100)] | None = Field(
        None,
        description="What the model's names begin with, and what stands there in this checkpoint instead; of several the longest counts. "
        '{"": "model."} puts it before all, {"thinker.": ""} takes it away, {"visual.": "visual."} keeps what another entry would change. '
        "Said of a source, it is read the other way round.",
    )
    adapter_name: Annotated[Text, Field(max_length=100, pattern=r"^\w+$")] | None = Field(
        None, description='What stands in the names of LoRA factors here (lora_A.NAME.weight), e.g. "default". For model_type "tensors".'
    )
    experts: Annotated[dict[Beginning, Form], Field(max_length=100)] | None = Field(
        None,
        description='For model_type "tensors": how a layer\'s experts are kept here, by what their names begin with ("" for all others). '
        "separate: one by one (experts.0.gate_proj.weight). In one tensor (experts.gate_up_proj): output_first [expert, 2 ffn, hidden], "
        "input_first [expert, hidden, 2 ffn], input_first_flat [expert x hidden, 2 ffn]. Without it they are any tensors.",
    )
