"""Gated delta nets in Megatron core's global keys, against slices made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convsvc.conversion import convert
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.megatron.extra_states import extra_states
from convsvc.dialects.megatron.layout import Keys
from convsvc.errors import LayoutError, SourceError, VerifyError
from convsvc.families import FAMILIES, Facts, Wanted
from tests.dialects.dcp.made import in_safetensors, same
from tests.dialects.megatron.test_megatron import back, keys_of, written

CONFIG: dict[str, Any] = {
    "model_type": "qwen3_next", "hidden_size": 8, "vocab_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 12, "moe_intermediate_size": 4, "num_experts": 2,
    "num_experts_per_tok": 2, "shared_expert_intermediate_size": 4, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 3, "linear_value_head_dim": 5,
    "layer_types": ["linear_attention", "full_attention"], "partial_rotary_factor": 0.25,
}  # fmt: skip
NORM = "model.layers.0.linear_attn.norm.weight"


def directory(path: Path, dtype: torch.dtype = torch.bfloat16, norms: torch.Tensor | None = None) -> Path:
    """A model of two layers, one of either kind; the delta net's output norm is what is given, else near 1."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    model = FAMILIES["qwen3-next"].build(Facts(CONFIG, "config.json"), Wanted())
    tensors = {laid.name: torch.randn(laid.shape).to(dtype) for laid in lay_model(model).kinds if laid.written}
    tensors[NORM] = torch.linspace(0.5, 2, 5).to(dtype) if norms is None else norms
    save_file(tensors, path / "model.safetensors")
    return path


def test_projections_have_a_key_for_each_part_and_a_groups_queries_come_before_their_gates(tmp_path: Path) -> None:
    hf = directory(tmp_path / "hf")
    tensors, keys = in_safetensors(hf), keys_of(written(hf, tmp_path / "megatron", chunk_size="0.05KB"))
    of = "decoder.layers.0.self_attention."
    # transformers, Qwen3NextGatedDeltaNet.fix_query_key_value_ordering: by key heads.
    qkvz = tensors["model.layers.0.linear_attn.in_proj_qkvz.weight"].view(2, 2 * 3 + 4 * 5, 8)
    for name, first, last in (("query", 0, 3), ("key", 3, 6), ("value", 6, 16), ("z", 16, 26)):
        assert torch.equal(keys[f"{of}in_proj.weight.{name}"], qkvz[:, first:last].reshape(-1, 8))
    ba = tensors["model.layers.0.linear_attn.in_proj_ba.weight"].view(2, 4, 8)
    assert torch.equal(keys[f"{of}in_proj.weight.beta"], ba[:, :2].reshape(-1, 8))
    assert torch.equal(keys[f"{of}in_proj.weight.alpha"], ba[:, 2:].reshape(-1, 8))
    parts = tensors["model.layers.0.linear_attn.conv1d.weight"].split((6, 6, 20))
    for name, each in zip(("query", "key", "value"), parts, strict=True):
        assert torch.equal(keys[f"{of}conv1d.weight.{name}"], each)
    assert torch.equal(keys[f"{of}in_proj.layer_norm_weight"], tensors["model.layers.0.input_layernorm.weight"])
    attention = {name: tensors[f"model.layers.1.self_attn.{name}_proj.weight"] for name in "qkv"}
    gated = attention["q"].view(2, 2, 2, 4, 8)  # group, query, query or gate
    groups = [[gated[at, :, 0], gated[at, :, 1], attention["k"][4 * at : 4 * at + 4], attention["v"][4 * at : 4 * at + 4]] for at in (0, 1)]
    packed = torch.cat([each.reshape(-1, 8) for group in groups for each in group])
    assert torch.equal(keys["decoder.layers.1.self_attention.linear_qkv.weight"], packed)


def test_the_outputs_norm_is_stored_less_1_and_near_1_nothing_is_lost(tmp_path: Path) -> None:
    hf = directory(tmp_path / "hf")
    tensors, folder = in_safetensors(hf), written(hf, tmp_path / "megatron")
    assert torch.equal(keys_of(folder)["decoder.layers.0.self_attention.out_norm.weight"], tensors[NORM] - 1)
    assert torch.equal(keys_of(folder)["decoder.final_layernorm.weight"], tensors["model.norm.weight"])
    assert same(tensors, back(folder, tmp_path / "back"))


def test_the_plan_says_that_this_is_not_exact_and_the_way_back_finds_it(tmp_path: Path) -> None:
    hf = directory(tmp_path / "hf", norms=torch.tensor([0.1001, 1, 1, 1, 1]).to(torch.bfloat16))
    job: dict[str, Any] = {
        "source": {"format": "huggingface", "path": str(hf)},
        "target": {"format": "megatron", "path": str(tmp_path / "out")},
    }
    said = [note.text for note in convert(job, engine="inline").notes if note.kind == "changed"]
    assert ["less 1" in text and "in bf16 that is exact for weights of at least 0.5" in text for text in said] == [True]
    job["target"]["path"] = str(tmp_path / "proven")
    with pytest.raises(VerifyError, match="norm"):
        convert(job | {"options": {"verify": "roundtrip"}}, engine="inline")


def test_what_was_trained_without_centred_norms_is_refused(tmp_path: Path) -> None:
    folder = written(directory(tmp_path / "hf"), tmp_path / "megatron")
    common = torch.load(folder / "common.pt", weights_only=False)
    common["args"].apply_layernorm_1p = False
    torch.save(common, folder / "common.pt")
    with pytest.raises(SourceError, match="apply_layernorm_1p False"):
        back(folder, tmp_path / "back")


def test_megatrons_own_words_say_which_layers_are_linear(tmp_path: Path) -> None:
    hf = directory(tmp_path / "hf")
    folder = written(hf, tmp_path / "megatron")
    common = torch.load(folder / "common.pt", weights_only=False)
    args = common["args"]
    said = (args.linear_attention_freq, args.attention_output_gate, args.rotary_percent, args.moe_shared_expert_gate)
    assert said == ([1, 0], True, 0.25, True)
    for name in ("layer_types", "model_type"):
        delattr(args, name)
    torch.save(common, folder / "common.pt")
    assert same(in_safetensors(hf), back(folder, tmp_path / "back"))


def test_a_convolution_and_what_is_no_module_have_no_extra_state() -> None:
    model = FAMILIES["qwen3-next"].build(Facts(CONFIG, "config.json"), Wanted())
    names = {name.rpartition("._extra_state")[0] for name in extra_states(model, Keys(12, stacked=False))}
    of = {name.removeprefix("decoder.layers.0.") for name in names if name.startswith("decoder.layers.0.self_attention")}
    assert of == {f"self_attention.{name}" for name in ("in_proj", "out_norm", "out_proj")}
    assert "decoder.layers.1.self_attention.core_attention" in names


def test_a_rank_has_its_key_heads_of_every_part_in_one_matrix(tmp_path: Path) -> None:
    hf = directory(tmp_path / "hf")
    target = {"format": "megatron", "path": str(tmp_path / "ranks"), "storage": "torch", "tensor_parallel_size": 2}
    convert({"source": {"format": "huggingface", "path": str(hf)}, "target": target}, engine="inline")
    keys = keys_of(written(hf, tmp_path / "megatron"))
    of = "decoder.layers.0.self_attention."
    for rank in (0, 1):
        held = torch.load(tmp_path / f"ranks/iter_0000001/mp_rank_{rank:02d}/model_optim_rng.pt", weights_only=False)["model"]
        parts = [keys[f"{of}in_proj.weight.{name}"].chunk(2)[rank] for name in ("query", "key", "value", "z", "beta", "alpha")]
        assert torch.equal(held[f"{of}in_proj.weight"], torch.cat(parts))
        assert torch.equal(held[f"{of}out_norm.weight"], keys[f"{of}out_norm.weight"])
        qkv = keys["decoder.layers.1.self_attention.linear_qkv.weight"]
        assert torch.equal(held["decoder.layers.1.self_attention.linear_qkv.weight"], qkv.chunk(2)[rank])
    assert same(in_safetensors(hf), back(tmp_path / "ranks", tmp_path / "back", storage="torch"))


def test_megatrons_own_modules_have_no_delta_net(tmp_path: Path) -> None:
    target = {"format": "megatron", "path": str(tmp_path / "ranks"), "storage": "torch", "transformer_impl": "local"}
    with pytest.raises(LayoutError, match="no modules of its own"):
        convert({"source": {"format": "huggingface", "path": str(directory(tmp_path / "hf"))}, "target": target}, engine="inline")
