"""What a class takes where a configuration is silent, and where silence means that there is none."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.models.class_defaults import completed
from convsvc.models.facts import Facts


@pytest.mark.parametrize("said", [{"q_lora_rank": None}, {"kv_lora_rank": 64}, {"qk_head_dim": 8}])
def test_latent_attention_is_the_classs_only_where_nothing_is_said_of_it(said: dict[str, Any]) -> None:
    silent = completed(Facts({"num_hidden_layers": 2}, "config.json"), "deepseek_v3")
    assert {silent.get("q_lora_rank"), silent.get("kv_lora_rank"), silent.get("v_head_dim")} == {1536, 512, 128}
    assert completed(Facts(said, "config.json"), "deepseek_v3").values == said
