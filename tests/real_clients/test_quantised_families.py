"""Families with names and fusings of their own: what target.quantization makes of them is what transformers and compressed-tensors load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import JobError
from convsvc.plan.planner import make_plan
from tests.real_clients.test_quantised_weights import BF16, Tensors, compressors, config_of, scheme_of, tensors_of
from tests.real_clients.tiny_models import Tiny, foreign, load, logits, save_random, transformers

pytestmark = pytest.mark.real_client

ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# Whole blocks of 128 rows and columns.
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, **ENDS}
FUSED = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
MIXERS = {
    "layers_block_type": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 32, "mamba_n_groups": 2, "mamba_d_state": 16,
    "mamba_expand": 2, "num_local_experts": 0, "shared_intermediate_size": 256,
}  # fmt: skip
CONVOLUTION = {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]}
# The configuration's class, what it says beyond WIDE, and the modules of a layer that are quantised.
FAMILIES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "gpt-neox": ("GPTNeoXConfig", {}, FUSED),
    "falcon": ("FalconConfig", {"new_decoder_architecture": True, "num_kv_heads": 2}, FUSED),
    "falcon with one key": ("FalconConfig", {"hidden_size": 256, "num_attention_heads": 2, "multi_query": True}, FUSED),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4}, FUSED),
    "granite4": ("GraniteMoeHybridConfig", MIXERS, {"q_proj", "k_proj", "v_proj", "o_proj", "input_linear", "output_linear"}),
    "opt": (
        "OPTConfig",
        {"ffn_dim": 256, "max_position_embeddings": 20},
        {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    ),
    "mpt": ("MptConfig", {"d_model": 128, "n_layers": 2, "n_heads": 4}, {"Wqkv", "out_proj", "up_proj", "down_proj"}),
    "phi": ("PhiConfig", {}, {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
    "gptj": ("GPTJConfig", {"rotary_dim": 8}, {"q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"}),
    "nemotron": ("NemotronConfig", {}, {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}),
    "lfm2": ("Lfm2Config", CONVOLUTION, {"q_proj", "k_proj", "v_proj", "out_proj", "w1", "w2", "w3"}),
}
DBRX = {
    "d_model": 128, "n_layers": 2, "n_heads": 4, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "max_seq_len": 16,
    "intermediate_size": 128, "num_key_value_heads": 2, **ENDS,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
}  # fmt: skip


def tiny_of(family: str) -> Tiny:
    config, said, _ = FAMILIES[family]
    return Tiny(family, config, {**WIDE, **said})


def quantised(tiny: Tiny, quantization: str, root: Path) -> tuple[Path, Path]:
    """A random model of transformers quantised; and that dequantised again, both by a job."""
    hf, there, plain = root / "bf16", root / quantization, root / "plain"
    save_random(tiny, hf, dtype=BF16, tied=False)
    target = {"format": "huggingface", "path": str(there), "config_dir": str(hf), "quantization": quantization}
    convert({"source": {"format": "huggingface", "path": str(hf)}, "target": target}, engine="inline")
    back = {"format": "huggingface", "path": str(plain)}
    convert({"source": {"format": "huggingface", "path": str(there)}, "target": back}, engine="inline")
    return there, plain


def modules_of(stored: Tensors, sign: str) -> set[str]:
    return {name.removesuffix(sign) for name in stored if name.endswith(sign)}


def taken_for_float8(there: Path) -> set[str]:
    """The modules that transformers exchanges for float8 ones, as config.json says."""
    library = transformers()
    config = library.AutoConfig.from_pretrained(there)
    with torch.device("meta"):
        model = foreign(library.AutoModelForCausalLM.from_config, config)
    words = library.FineGrainedFP8Config.from_dict(config_of(there)["quantization_config"])
    quantizer = library.quantizers.AutoHfQuantizer.from_config(words, pre_quantized=True)
    foreign(quantizer._process_model_before_weight_loading, model)
    return {name for name, module in model.named_modules() if type(module).__name__.startswith("FP8")}


def assert_loaded(there: Path, plain: Path, config: Any) -> None:
    """transformers finds every tensor, dequantises it to the same bits, and computes the same."""
    library = transformers()
    model, info = foreign(
        library.AutoModelForCausalLM.from_pretrained,
        there,
        dtype=BF16,
        quantization_config=config(dequantize=True),
        output_loading_info=True,
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    want, _ = load(plain)
    have = dict(model.named_parameters())
    for name, parameter in want.named_parameters():
        assert torch.equal(have[name].view(torch.int16), parameter.to(have[name].dtype).view(torch.int16)), name
    assert torch.equal(logits(model.eval()), logits(want))


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_dequantises_the_float8_of_every_linear_layer(family: str, tmp_path: Path) -> None:
    there, plain = quantised(tiny_of(family), "fp8-block", tmp_path)
    modules = modules_of(tensors_of(there), ".weight_scale_inv")
    assert {module.rpartition(".")[2] for module in modules} == FAMILIES[family][2]
    # It exchanges what is exactly a torch.nn.Linear: Falcon's own class it loads dequantised only.
    assert taken_for_float8(there) == (set() if "falcon" in family else modules)
    assert_loaded(there, plain, transformers().FineGrainedFP8Config)


# transformers 5.23 gives weights to FalconLinear that compressed-tensors has taken away: it loads such a Falcon from nobody.
NOT_LOADED = [pytest.mark.not_for_transformers]


@pytest.mark.parametrize("family", [pytest.param(family, marks=NOT_LOADED if "falcon" in family else []) for family in FAMILIES])
def test_compressed_tensors_finds_the_linear_layers_of_four_bits(family: str, tmp_path: Path) -> None:
    compressors()
    from compressed_tensors.utils import match_named_modules

    there, plain = quantised(tiny_of(family), "int4", tmp_path)
    modules = modules_of(tensors_of(there), ".weight_packed")
    assert {module.rpartition(".")[2] for module in modules} == FAMILIES[family][2]
    config, scheme = scheme_of(config_of(there)["quantization_config"])
    model = transformers().AutoModelForCausalLM.from_config(transformers().AutoConfig.from_pretrained(plain))
    assert {name for name, _ in match_named_modules(model, scheme.targets, config.ignore)} == modules
    if "falcon" not in family:
        assert_loaded(there, plain, transformers().CompressedTensorsConfig)


def test_of_dbrx_attention_is_quantised_and_not_the_experts_in_one_tensor(tmp_path: Path) -> None:
    there, plain = quantised(Tiny("dbrx", "DbrxConfig", DBRX), "fp8-block", tmp_path)
    modules = modules_of(tensors_of(there), ".weight_scale_inv")
    assert {module.rpartition(".")[2] for module in modules} == {"Wqkv", "out_proj"}
    assert taken_for_float8(there) == modules
    assert_loaded(there, plain, transformers().FineGrainedFP8Config)


@pytest.mark.parametrize(
    "tiny",
    [
        Tiny("gpt2", "GPT2Config", {**WIDE, "n_inner": 256}),
        Tiny("mamba2", "Mamba2Config", {**WIDE, "num_heads": 8, "head_dim": 32, "state_size": 16, "n_groups": 2, "expand": 2}),
    ],
    ids=lambda tiny: tiny.family,
)
def test_a_model_without_linear_layers_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """GPT-2's matrices lie the other way round (Conv1D), and of a mixer nothing is quantised."""
    with pytest.raises(JobError, match="none of the model's weights can be stored so"):
        quantised(tiny, "fp8-block", tmp_path)


def test_four_bits_are_refused_where_the_experts_lie_in_one_tensor(tmp_path: Path) -> None:
    """They are for a model's experts alone, and not for its attention in their place."""
    with pytest.raises(JobError, match="none of the model's weights can be stored so") as caught:
        quantised(Tiny("dbrx", "DbrxConfig", DBRX), "mxfp4", tmp_path)
    assert "per-expert" in str(caught.value.do)


def test_what_serving_fuses_of_several_tensors_has_no_scale_of_its_own(tmp_path: Path) -> None:
    """Qwen3.5's gated queries, its keys and its values: a server takes the largest scale for all three."""
    delta = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32}
    sizes = {**WIDE, **delta, "head_dim": 32, "layer_types": ["linear_attention", "full_attention"]}
    there, _ = quantised(Tiny("qwen3.5", "Qwen3_5TextConfig", sizes), "nvfp4", tmp_path)
    leaves = {name.rpartition(".")[2] for name in modules_of(tensors_of(there), ".weight_scale_2")}
    assert leaves == {"o_proj", "gate_proj", "up_proj", "down_proj", "out_proj", "in_proj_qkv", "in_proj_z"}
    ignored = json.loads((there / "config.json").read_text())["quantization_config"]["ignore"]
    assert {name.rpartition(".")[2] for name in ignored if ".self_attn." in name} == {"q_proj", "k_proj", "v_proj"}


@pytest.mark.not_for_transformers
@pytest.mark.parametrize(("width", "blocks"), [(192, 96), (272, None)])
def test_of_short_blocks_transformers_takes_others_or_refuses_and_the_plan_says_so(width: int, blocks: int | None, tmp_path: Path) -> None:
    """It divides rows and columns by the number of scales (5.23, Fp8Dequantize); the last block is short for us, as for vLLM."""
    tiny = Tiny("llama2", "LlamaConfig", {**WIDE, "intermediate_size": width})
    there, plain = quantised(tiny, "fp8-block", tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    stored, want = tensors_of(there), tensors_of(plain)[name]
    scales = stored[f"{name}_scale_inv"].repeat_interleave(128, 0)[:width]
    assert torch.equal((stored[name].float() * scales).to(BF16), want)
    read = {"format": "huggingface", "path": str(tmp_path / "bf16")}
    said = make_plan({"source": read, "target": {**read, "path": str(tmp_path / "other"), "quantization": "fp8-block"}}).notes
    assert any("transformers takes other blocks then, or refuses" in note.text for note in said)
    library = transformers()
    how = {"dtype": BF16, "quantization_config": library.FineGrainedFP8Config(dequantize=True)}
    if blocks is None:
        with pytest.raises(Exception, match=r"not divisible by scale grid|[Cc]onversion|materializ"):
            foreign(library.AutoModelForCausalLM.from_pretrained, there, **how)
        return
    have = dict(foreign(library.AutoModelForCausalLM.from_pretrained, there, **how).named_parameters())[name]
    others = stored[f"{name}_scale_inv"].repeat_interleave(blocks, 0)
    assert torch.equal(have, (stored[name].float() * others).to(BF16))
    assert not torch.equal(have, want)
