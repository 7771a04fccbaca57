"""What can be done with a family, as the declarations say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convsvc.cli.main import main
from convsvc.dialects.family_example import example_model
from convsvc.dialects.family_matrix import matrix
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.encodings.known import ENCODINGS
from convsvc.errors import JobError
from convsvc.families import FAMILIES, Facts
from convsvc.plan.planner import make_plan

SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32,
    "intermediate_size": 96, "tie_word_embeddings": False,
}  # fmt: skip
MIXER = {"layer_types": ["mamba"] * 2, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama2": {**SIZES, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": True, "mlp_bias": True},
    "bloom": {**SIZES, "model_type": "bloom", "architectures": ["BloomForCausalLM"]},
    "mixtral": {**SIZES, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4},
    "granite4": {
        **SIZES, **MIXER, "model_type": "granitemoehybrid", "architectures": ["GraniteMoeHybridForCausalLM"], "num_local_experts": 4,
        "shared_intermediate_size": 32,
    },
    "gpt2": {**SIZES, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": 16},
}  # fmt: skip
README = Path(__file__).parents[2] / "docs" / "families" / "README.md"


@pytest.fixture(scope="module")
def records() -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in matrix()}


def test_every_family_has_a_record_and_a_row(records: dict[str, dict[str, Any]]) -> None:
    assert set(records) == set(FAMILIES)
    text = README.read_text()
    assert [name for name in FAMILIES if f"]({name}.md): `{name}` |" not in text] == []


def test_places_are_those_that_plans_find(records: dict[str, dict[str, Any]]) -> None:
    have = {name: {each for each, ways in record["formats"].items() if ways} for name, record in records.items()}
    assert have["llama2"] >= {"huggingface", "mindspeed-llm", "megatron", "mindformers", "dcp"}
    assert "mindspeed-mm" not in have["llama2"]
    assert not have["bloom"] & {"mindspeed-llm", "megatron", "mindformers", "mindspeed-mm"}
    assert not any(have[name] & {"mindspeed-llm", "megatron"} for name in ("lfm2", "lfm2-moe", "kimi-linear", "jamba", "minimax_m3"))
    assert "mindspeed-mm" in have["qwen2-vl"]
    assert "mindspeed-llm" in have["gemma2"]
    assert "megatron" not in have["gemma2"]
    assert records["bloom"]["formats"]["huggingface"] == ["in", "out"]
    assert have["wan"] >= {"diffusers"}
    assert "huggingface" not in have["wan"]


def test_a_place_for_some_of_a_familys_models_is_said_to_be_one_for_some(records: dict[str, dict[str, Any]]) -> None:
    frameworks = {"mindspeed-llm", "megatron", "mindformers"}
    assert set(records["granite4"]["some"]) == frameworks  # without mixers
    assert set(records["gpt-neox"]["some"]) == frameworks  # where norms are in turn
    assert records["llama2"]["some"] == records["minimax_m3"]["some"] == []
    line = next(line for line in README.read_text().splitlines() if ": `granite4` |" in line)
    assert line.count("in, out (some)") == len(frameworks)


@pytest.mark.parametrize("family", ["llama2", "bloom", "mixtral", "granite4", "gpt2"])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS.writers))
def test_an_encoding_is_written_where_a_plan_finds_weights_for_it(
    family: str, encoding: str, records: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    model = example_model(FAMILIES[family])
    config = CONFIGS[family]
    built = FAMILIES[family].build(Facts(config, "config.json"))
    assert {row.linear for scope in built.scopes for row in scope.rows} == {row.linear for scope in model.scopes for row in scope.rows}
    shapes = {laid.name: laid.shape for laid in lay_model(built).kinds if laid.written}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    job = {
        "source": {"format": "huggingface", "path": str(tmp_path)},
        "target": {"format": "huggingface", "path": str(tmp_path / "to"), "quantization": encoding},
    }
    if encoding in records[family]["writes"]:
        assert make_plan(job).tasks
    else:
        with pytest.raises(JobError, match="none of the model's weights can be stored so"):
            make_plan(job)


def test_what_has_no_matrix_of_a_linear_layer_takes_no_adapters_and_no_encodings(records: dict[str, dict[str, Any]]) -> None:
    assert records["deepseek3"]["mtp"]
    assert not records["llama2"]["mtp"]
    assert records["llama2"]["lora"]
    assert "nvfp4" in records["llama2"]["reads"]
    assert (records["wan"]["lora"], records["wan"]["reads"], records["wan"]["writes"]) == (False, [], [])


def test_families_are_listed_with_their_places(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bloom "))
    assert "huggingface" in line
    assert "dcp" in line
    assert "mindspeed-llm" not in line
    assert main(["families", "--json"]) == 0
    assert {"formats", "reads", "writes", "lora", "judged_by"} <= set(json.loads(capsys.readouterr().out)[0])
