"""Families whose published form is not what transformers itself saves, or only for some configurations: compared one by one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from tests.real_clients.tiny_models import foreign, load, logits, transformers

pytestmark = pytest.mark.real_client

COMMON = {"hidden_size": 32, "vocab_size": 64, "num_attention_heads": 8, "q_lora_rank": 24, "n_routed_experts": 4, "hc_mult": 2}
KINDS = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention", "compressed_sparse_attention"]
DEEPSEEK4 = {
    **COMMON, "moe_intermediate_size": 16, "num_hidden_layers": 4, "head_dim": 16, "num_experts_per_tok": 2, "o_groups": 4,
    "o_lora_rank": 8, "index_n_heads": 4, "index_head_dim": 8, "index_topk": 4,
    "num_nextn_predict_layers": 0, "sliding_window": 16, "qk_rope_head_dim": 4,
    "max_position_embeddings": 256, "layer_types": KINDS, "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
}  # fmt: skip
# transformers 5.23 sizes its fused experts by routed and zero experts together; without zero experts it loads the published form.
LONGCAT = {
    **COMMON, "num_layers": 4, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "zero_expert_num": 0, "moe_topk": 2,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12, "head_dim": 4,
}  # fmt: skip
LAYOUT = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True}


def save_random(config: Any, directory: Path, **how: Any) -> None:
    torch.manual_seed(0)
    model = foreign(transformers().AutoModelForCausalLM.from_config, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    foreign(model.save_pretrained, directory, **how)


def publish_deepseek4(directory: Path) -> None:
    """From what transformers saves to DeepSeek's own names and fields, in which the model is published."""

    def published(name: str) -> str:
        name = name.removeprefix("model.").replace("embed_tokens", "embed").replace(".attn.norm.", ".attn.kv_norm.")
        return re.sub(r"^hc_head\.hc_(\w+)$", r"hc_head_\1", name)

    file = directory / "model.safetensors"
    save_file({published(name): tensor.clone() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "compress_ratios": [0, 4, 128, 4], "num_hash_layers": 1}))


def there_and_back(directory: Path, **options: Any) -> Path:
    mcore, back = directory.with_name("mcore"), directory.with_name("back")
    source = {"format": "huggingface", "path": str(directory)}
    convert({"source": source, "target": {"format": "mindspeed-llm", "path": str(mcore), **LAYOUT}, "options": options}, engine="inline")
    target = {"format": "huggingface", "path": str(back), "config_dir": str(directory)}
    convert({"source": {"format": "mindspeed-llm", "path": str(mcore)}, "target": target}, engine="inline")
    return back


@pytest.mark.parametrize(("config", "sizes"), [("DeepseekV4Config", DEEPSEEK4), ("LongcatFlashConfig", LONGCAT)])
def test_the_published_form_gives_the_same_logits_after_a_round_trip(config: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    save_random(getattr(transformers(), config)(**sizes), tmp_path / "hf")
    if config == "DeepseekV4Config":
        publish_deepseek4(tmp_path / "hf")
    before, _ = load(tmp_path / "hf")
    after, info = load(there_and_back(tmp_path / "hf"))
    assert not any(info.values()), info
    assert logits(before).abs().max() > 0
    assert torch.equal(logits(before), logits(after))


@pytest.mark.parametrize("original", [True, False])
def test_deepseek4_as_transformers_saves_it_gives_the_same_logits_under_deepseek_s_own_names(original: bool, tmp_path: Path) -> None:
    """Both of its spellings, and its own words for what differs from layer to layer."""
    save_random(transformers().DeepseekV4Config(**DEEPSEEK4), tmp_path / "hf", save_original_format=original)
    stored = load_file(tmp_path / "hf" / "model.safetensors")
    assert ("model.layers.1.self_attn.compressor.indexer.scorer.weights_proj.weight" in stored) is not original
    assert "compress_ratios" not in json.loads((tmp_path / "hf" / "config.json").read_text())
    before, _ = load(tmp_path / "hf")
    direct = {"format": "huggingface", "path": str(tmp_path / "direct")}
    convert({"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": direct}, engine="inline")
    for directory in (tmp_path / "direct", there_and_back(tmp_path / "hf")):
        names = {name for file in directory.glob("*.safetensors") for name in load_file(file)}
        assert "layers.1.attn.indexer.weights_proj.weight" in names
        after, info = load(directory)
        assert not any(info.values()), info
        assert torch.equal(logits(before), logits(after))


def test_a_reduced_deepseek4_from_transformers_has_the_lists_of_its_layers(tmp_path: Path) -> None:
    save_random(transformers().DeepseekV4Config(**DEEPSEEK4), tmp_path / "hf", save_original_format=False)
    _, info = load(there_and_back(tmp_path / "hf", num_layers=2))
    assert not any(info.values()), info
    assert json.loads((tmp_path / "back" / "config.json").read_text())["layer_types"] == KINDS[:2]
