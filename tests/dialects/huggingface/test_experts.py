"""Which form experts have in a new directory: as the job says, else as they lie where its words come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convsvc.dialects.huggingface.experts import FUSED, PER_EXPERT, form_of
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.errors import JobError, LayoutError
from convsvc.families import FAMILIES, Facts, find_family
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.plan.planner import make_plan

DENSE = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 16, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6}
QWEN3_MOE = {**DENSE, **EXPERTS, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
GPT_OSS = {**DENSE, "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 2}
BAILING = {
    **DENSE, **EXPERTS, "model_type": "bailing_moe", "architectures": ["BailingMoeV2ForCausalLM"], "num_shared_experts": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
SQUARE = {
    **DENSE, "model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "EE", "n_routed_experts": 3,
    "num_experts_per_tok": 2, "moe_intermediate_size": 8, "moe_shared_expert_intermediate_size": 6,
}  # fmt: skip
FUSED_NAMES = {f"model.layers.{layer}.mlp.experts.{matrix}" for layer in (0, 1) for matrix in ("gate_up_proj", "down_proj")}
ONE_OF_THEM = "model.layers.1.mlp.experts.2.up_proj.weight"


def publish(folder: Path, config: dict[str, Any]) -> Path:
    """A directory with the headers of a model under its family's own names; the weights are zeros."""
    facts = Facts(config, "config.json")
    specs = [TensorSpec(laid.name, "BF16", laid.shape) for laid in lay_model(find_family(None, facts).build(facts)).kinds if laid.written]
    skeleton = safetensors.plan_skeleton(specs)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(skeleton.segments[0][1].ljust(skeleton.size_bytes, b"\0"))
    return folder


def planned(source: Path, **target: Any) -> dict[str, tuple[int, ...]]:
    job = {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "huggingface", "path": "/nowhere/to", **target}}
    return {tensor.name: tensor.shape for _, skeleton in make_plan(job).new_files() for tensor in skeleton.tensors}


def fuse(source: Path) -> Path:
    """The same headers with experts in one tensor, beside the source."""
    written = planned(source, experts="fused")
    folder = source.with_name(source.name + "-fused")
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    skeleton = safetensors.plan_skeleton([TensorSpec(name, "BF16", shape) for name, shape in written.items()])
    (folder / "model.safetensors").write_bytes(skeleton.segments[0][1].ljust(skeleton.size_bytes, b"\0"))
    return folder


def test_fused_experts_are_output_before_input_and_gate_before_up(tmp_path: Path) -> None:
    written = planned(publish(tmp_path / "hf", QWEN3_MOE), experts="fused")
    assert {name for name in written if "experts" in name} == FUSED_NAMES
    assert written["model.layers.0.mlp.experts.gate_up_proj"] == (3, 12, 8)
    assert written["model.layers.0.mlp.experts.down_proj"] == (3, 8, 6)


def test_without_a_word_experts_stay_as_the_source_has_them(tmp_path: Path) -> None:
    apart = publish(tmp_path / "hf", QWEN3_MOE)
    assert ONE_OF_THEM in planned(apart)
    assert {name for name in planned(fuse(apart)) if "experts" in name} == FUSED_NAMES
    assert ONE_OF_THEM in planned(fuse(publish(tmp_path / "other", QWEN3_MOE)), experts="per-expert")


def test_without_a_word_experts_are_as_they_lie_in_config_dir(tmp_path: Path) -> None:
    apart = publish(tmp_path / "hf", QWEN3_MOE)
    fused = fuse(apart)
    assert set(planned(apart, config_dir=str(fused))) >= FUSED_NAMES
    assert ONE_OF_THEM in planned(fused, config_dir=str(apart))


def test_a_config_dir_without_weights_leaves_the_source_its_form(tmp_path: Path) -> None:
    fused = fuse(publish(tmp_path / "hf", QWEN3_MOE))
    words = tmp_path / "words"
    words.mkdir()
    (words / "config.json").write_text(json.dumps(QWEN3_MOE))
    assert set(planned(fused, config_dir=str(words))) >= FUSED_NAMES


def test_an_index_alone_shows_the_form_and_quantised_names_do(tmp_path: Path) -> None:
    apart = publish(tmp_path / "hf", QWEN3_MOE)
    words = tmp_path / "words"
    words.mkdir()
    (words / "config.json").write_text(json.dumps(QWEN3_MOE))
    index = {"weight_map": {"model.layers.0.mlp.experts.gate_up_proj_blocks": "model-00001-of-00001.safetensors"}}
    (words / "model.safetensors.index.json").write_text(json.dumps(index))
    (words / "model-00001-of-00001.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert set(planned(apart, config_dir=str(words))) >= FUSED_NAMES


def test_layers_that_are_left_out_move_the_stacked_ones_up(tmp_path: Path) -> None:
    fused = fuse(publish(tmp_path / "hf", {**QWEN3_MOE, "mlp_only_layers": [0], "num_hidden_layers": 3}))
    job = {
        "source": {"format": "huggingface", "path": str(fused)},
        "target": {"format": "huggingface", "path": "/nowhere/to"},
        "options": {"first_k_dense_replace": 0},
    }
    names = {tensor.name for _, skeleton in make_plan(job).new_files() for tensor in skeleton.tensors if "experts" in tensor.name}
    assert names == FUSED_NAMES


@pytest.mark.parametrize(
    ("config", "experts", "said"),
    [
        (GPT_OSS, "per-expert", "gpt-oss keeps experts all in one tensor; that transformers loads them one by one is not known"),
        (BAILING, "fused", "bailing_mini keeps experts one by one; that transformers loads them all in one tensor is not known"),
        (DENSE, "fused", "this model, qwen3, has no experts"),
    ],
    ids=["gpt-oss", "bailing", "dense"],
)
def test_a_form_that_is_not_known_is_refused_by_the_familys_name(config: dict[str, Any], experts: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=said):
        planned(publish(tmp_path / "hf", config), experts=experts)


def test_matrices_that_are_square_are_not_stacked_as_nobody_could_read_them_again(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="could not be seen again, as their matrices are square"):
        planned(publish(tmp_path / "hf", SQUARE), experts="fused")


def test_experts_that_are_quantised_are_written_one_by_one(tmp_path: Path) -> None:
    fused = fuse(publish(tmp_path / "hf", QWEN3_MOE))
    assert ONE_OF_THEM in planned(fused, quantization="fp8-block")
    with pytest.raises(JobError, match="experts are quantised one by one"):
        planned(fused, quantization="fp8-block", experts="fused")


def test_gpt_oss_is_fused_in_its_own_order(tmp_path: Path) -> None:
    written = planned(publish(tmp_path / "hf", GPT_OSS), experts="fused")
    assert written["model.layers.0.mlp.experts.gate_up_proj"] == (3, 8, 24)


# Families whose `packed` rows are the other form of their experts.
TWO_FORMS = {name for name, each in FAMILIES.items() if {form_of(each.experts), form_of(each.packed)} == {FUSED, PER_EXPERT}}


def test_a_familys_other_form_holds_all_its_experts() -> None:
    """A table that had one matrix of two would be found here, not by a user."""
    assert {"qwen3-moe", "mixtral", "deepseek3", "hunyuan-moe", "lfm2-moe", "mistral4"} <= TWO_FORMS
    for name in sorted(TWO_FORMS):
        need = {each.name for row in FAMILIES[name].experts for each in row.logicals if ".experts." in each.name}
        assert need <= {each.name for row in FAMILIES[name].packed for each in row.logicals}, name
