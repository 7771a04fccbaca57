"""Families that transformers 5.23 has no class for: what lies in rank files is what the sibling with the same mathematics has there.

Each has a tiny checkpoint under its own names. By torch, and not by this package's tables, it is written a second time as the sibling,
as its published code computes: the rank files of both must be equal. And it comes back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convsvc.dialects.huggingface.layout import lay_model as layout
from convsvc.families import FAMILIES, Facts
from convsvc.plan.planner import make_plan
from tests.families.latent_models import differences, to_huggingface, to_megatron
from tests.golden.outputs import load_rank_file

Tensors = dict[str, torch.Tensor]
HEADS, GROUPS, HEAD_DIM, HIDDEN, FFN = 4, 2, 6, 24, 20
COMMON = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS, "vocab_size": 32, "tie_word_embeddings": False}
LLAMA = {**COMMON, "num_key_value_heads": GROUPS, "intermediate_size": FFN, "rms_norm_eps": 1e-6}
CONFIGS: dict[str, dict[str, Any]] = {
    "internlm": {**COMMON, "architectures": ["InternLMForCausalLM"], "model_type": "internlm", "intermediate_size": FFN, "bias": True},
    "internlm2": {**LLAMA, "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False},
    "pangu-embedded": {**LLAMA, "architectures": ["PanguEmbeddedForCausalLM"], "model_type": "PanguEmbedded", "bias": True},
    "qwen": {
        **COMMON, "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "intermediate_size": 2 * FFN, "kv_channels": HEAD_DIM,
        "no_bias": True, "layer_norm_epsilon": 1e-6,
    },
    "baichuan": {**COMMON, "architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "intermediate_size": FFN},
    "chatglm": {
        "hidden_size": HIDDEN, "num_layers": 2, "num_attention_heads": HEADS, "padded_vocab_size": 32, "tie_word_embeddings": False,
        "architectures": ["ChatGLMModel"], "model_type": "chatglm", "ffn_hidden_size": FFN, "kv_channels": HEAD_DIM,
        "multi_query_attention": True, "multi_query_group_num": GROUPS, "add_qkv_bias": True, "add_bias_linear": False,
    },
    "deepseek": {
        **LLAMA, "architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", "n_routed_experts": 4, "n_shared_experts": 2,
        "moe_intermediate_size": 10, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    },
    "minicpm": {**LLAMA, "architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4},
    "exaone": {
        **COMMON, "architectures": ["ExaoneForCausalLM"], "model_type": "exaone", "num_key_value_heads": GROUPS, "intermediate_size": FFN,
        "layer_norm_epsilon": 1e-5, "num_layers": 2,
    },
    "molmo": {
        **COMMON, "architectures": ["MolmoForCausalLM"], "model_type": "molmo", "num_key_value_heads": GROUPS, "intermediate_size": 2 * FFN,
        "qkv_bias": True, "norm_after": False, "attention_layer_norm": False, "layer_norm_eps": 1e-6,
    },
    "yi": {**LLAMA, "architectures": ["YiForCausalLM"], "model_type": "Yi"},
    "orion": {**LLAMA, "architectures": ["OrionForCausalLM"], "model_type": "orion"},
    "telechat2": {
        "hidden_size": HIDDEN, "n_layer": 2, "n_head": HEADS, "num_key_value_heads": GROUPS, "ffn_hidden_size": FFN, "vocab_size": 32,
        "tie_word_embeddings": False, "architectures": ["TelechatForCausalLM"], "model_type": "telechat", "layer_norm_epsilon": 1e-5,
        "training_seqlen": 8192,
    },
    "mimo": {
        **LLAMA, "architectures": ["MiMoForCausalLM"], "model_type": "mimo", "attention_bias": True, "head_dim": HEAD_DIM,
        "num_nextn_predict_layers": 1,
    },
}  # fmt: skip
LAYOUT = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
MANY_HEADS = {"num_key_value_heads": HEADS}


def write(directory: Path, config: dict[str, Any], tensors: Tensors) -> None:
    directory.mkdir()
    save_file({name: each.contiguous() for name, each in tensors.items()}, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config))


def random_model(family: str) -> Tensors:
    """Random tensors under the family's own names, the carried ones too."""
    made = FAMILIES[family].build(Facts(CONFIGS[family], "config.json"))
    shapes = {laid.name: laid.shape for laid in layout(made).kinds if laid.written}
    shapes |= {laid.name: laid.shape for laid, _ in made.carriable}
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    return {reduce(lambda name, pair: name.replace(*pair), names.items(), name): each for name, each in tensors.items()}


def split_rows(tensors: Tensors, ending: str, sizes: dict[str, int]) -> Tensors:
    """Every tensor whose name contains `ending`, cut into the named parts along its rows."""
    out: Tensors = {}
    for name, each in tensors.items():
        if ending in name:
            for (part, _), piece in zip(sizes.items(), each.split(list(sizes.values())), strict=True):
                out[name.replace(ending, part)] = piece
        else:
            out[name] = each
    return out


def as_llama(tensors: Tensors) -> Tensors:
    return tensors


def internlm2_as_llama(tensors: Tensors) -> Tensors:
    out = renamed(
        tensors,
        {
            "attention_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "attention.wo": "self_attn.o_proj",
            "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w2": "mlp.down_proj",
            "feed_forward.w3": "mlp.up_proj",
            "model.tok_embeddings": "model.embed_tokens",
            "output.weight": "lm_head.weight",
        },
    )
    for name in [name for name in out if "wqkv" in name]:
        grouped = out.pop(name).reshape(GROUPS, HEADS // GROUPS + 2, HEAD_DIM, HIDDEN)
        for part, piece in (("q", grouped[:, :-2]), ("k", grouped[:, -2]), ("v", grouped[:, -1])):
            out[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = piece.reshape(-1, HIDDEN)
    return out


def qwen_as_qwen2(tensors: Tensors) -> Tensors:
    out = renamed(
        tensors,
        {
            "transformer.h.": "model.layers.",
            "transformer.wte": "model.embed_tokens",
            "transformer.ln_f": "model.norm",
            "ln_1": "input_layernorm",
            "ln_2": "post_attention_layernorm",
            "attn.c_proj": "self_attn.o_proj",
            "mlp.c_proj": "mlp.down_proj",
            "mlp.w1": "mlp.up_proj",
            "mlp.w2": "mlp.gate_proj",
        },
    )
    return split_rows(out, "attn.c_attn", {f"self_attn.{part}_proj": HIDDEN for part in "qkv"})


def baichuan_as_llama(tensors: Tensors) -> Tensors:
    return split_rows(tensors, "W_pack", {f"{part}_proj": HIDDEN for part in "qkv"})


def chatglm_as_glm(tensors: Tensors) -> Tensors:
    out = renamed(
        tensors,
        {
            "transformer.encoder.final_layernorm": "model.norm",
            "transformer.encoder.": "model.",
            "transformer.embedding.word_embeddings": "model.embed_tokens",
            "transformer.output_layer": "lm_head",
            "self_attention.dense": "self_attn.o_proj",
            "self_attention.": "self_attn.",
            "dense_h_to_4h": "gate_up_proj",
            "dense_4h_to_h": "down_proj",
        },
    )
    return split_rows(out, "query_key_value", {"q_proj": HEADS * HEAD_DIM, "k_proj": GROUPS * HEAD_DIM, "v_proj": GROUPS * HEAD_DIM})


def telechat_as_llama(tensors: Tensors) -> Tensors:
    """Llama with biases on every projection, all 0 but those that TeleChat has."""
    out = renamed(
        tensors,
        {
            "transformer.h.": "model.layers.",
            "transformer.word_embeddings": "model.embed_tokens",
            "transformer.ln_f": "model.norm",
            "self_attention.query": "self_attn.q_proj",
            "self_attention.dense": "self_attn.o_proj",
        },
    )
    for name in [name for name in out if "self_attention.key_value" in name]:
        key_value = out.pop(name).reshape(GROUPS, 2, HEAD_DIM, HIDDEN)
        for at, part in enumerate("kv"):
            out[name.replace("self_attention.key_value", f"self_attn.{part}_proj")] = key_value[:, at].reshape(-1, HIDDEN)
    return out


def exaone_as_llama(tensors: Tensors) -> Tensors:
    """Llama under GPT-2's names: c_fc_0 is the gate, c_fc_1 up (vLLM models/exaone.py, stacked_params_mapping)."""
    return renamed(
        tensors,
        {
            "transformer.h.": "model.layers.",
            "transformer.wte": "model.embed_tokens",
            "transformer.ln_f": "model.norm",
            "ln_1": "input_layernorm",
            "ln_2": "post_attention_layernorm",
            "attn.attention.out_proj": "self_attn.o_proj",
            "attn.attention.": "self_attn.",
            "mlp.c_fc_0": "mlp.gate_proj",
            "mlp.c_fc_1": "mlp.up_proj",
            "mlp.c_proj": "mlp.down_proj",
        },
    )


def molmo_as_qwen2(tensors: Tensors) -> Tensors:
    """Qwen 2, whose rows of gate and up lie the other way round in `ff_proj` (modeling_molmo.py, SwiGLU: x, gate = x.chunk(2))."""
    out = renamed(
        tensors,
        {
            "model.transformer.ff_out": "lm_head",
            "model.transformer.blocks.": "model.layers.",
            "model.transformer.wte.embedding": "model.embed_tokens.weight",
            "model.transformer.ln_f": "model.norm",
            "attn_norm": "input_layernorm",
            "ff_norm": "post_attention_layernorm",
            "attn_out": "self_attn.o_proj",
            "ff_out": "mlp.down_proj",
        },
    )
    out = split_rows(
        out, "att_proj", {"self_attn.q_proj": HEADS * HEAD_DIM} | {f"self_attn.{part}_proj": GROUPS * HEAD_DIM for part in "kv"}
    )
    return split_rows(out, "ff_proj", {"mlp.up_proj": FFN, "mlp.gate_proj": FFN})


def yi_as_llama(tensors: Tensors) -> Tensors:
    return renamed(tensors, {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"})


# A family, the sibling, its configuration, and how the tensors are the sibling's.
SIBLINGS: tuple[tuple[str, str, dict[str, Any], Callable[[Tensors], Tensors]], ...] = (
    ("internlm", "llama2", {**LLAMA, **MANY_HEADS, "model_type": "llama", "attention_bias": True}, as_llama),
    ("internlm2", "llama2", {**LLAMA, "model_type": "llama"}, internlm2_as_llama),
    ("pangu-embedded", "llama2", {**LLAMA, "model_type": "llama", "attention_bias": True}, as_llama),
    ("qwen", "qwen25", {**LLAMA, **MANY_HEADS, "model_type": "qwen2"}, qwen_as_qwen2),
    ("baichuan", "llama2", {**LLAMA, **MANY_HEADS, "model_type": "llama"}, baichuan_as_llama),
    ("chatglm", "glm", {**LLAMA, "model_type": "glm", "attention_bias": True}, chatglm_as_glm),
    ("minicpm", "llama2", {**LLAMA, "model_type": "llama"}, as_llama),
    ("exaone", "llama2", {**LLAMA, "model_type": "llama"}, exaone_as_llama),
    ("molmo", "qwen25", {**LLAMA, "model_type": "qwen2"}, molmo_as_qwen2),
    ("yi", "llama2", {**LLAMA, "model_type": "llama"}, yi_as_llama),
    ("orion", "stablelm", {**LLAMA, "model_type": "stablelm"}, as_llama),
)


def rank_tensors(directory: Path) -> Tensors:
    """Every tensor of every rank file, by file and name."""
    files = sorted(directory.glob("iter_*/mp_rank_*/model_optim_rng.pt"))
    return {f"{file.parent.name}/{name}": each for file in files for name, each in load_rank_file(file)["model"].items()}


@pytest.mark.parametrize(("family", "sibling", "config", "convert"), [pytest.param(*each, id=each[0]) for each in SIBLINGS])
def test_its_rank_files_are_those_of_the_sibling_with_the_same_mathematics(
    family: str, sibling: str, config: dict[str, Any], convert: Callable[[Tensors], Tensors], tmp_path: Path
) -> None:
    tensors = random_model(family)
    write(tmp_path / "own", CONFIGS[family], tensors)
    write(tmp_path / "sibling", config, convert(tensors))
    to_megatron(tmp_path / "own", "huggingface", tmp_path / "a", **LAYOUT)
    to_megatron(tmp_path / "sibling", "huggingface", tmp_path / "b", **LAYOUT)
    assert make_plan(job(tmp_path / "own")).model_type == family
    assert make_plan(job(tmp_path / "sibling")).model_type == sibling
    assert not differences(rank_tensors(tmp_path / "b"), rank_tensors(tmp_path / "a"))


def test_telechats_rank_files_are_those_of_a_model_with_a_bias_behind_attention_and_its_own_behind_the_feed_forward(tmp_path: Path) -> None:
    tensors = random_model("telechat2")
    biases = {name: each for name, each in tensors.items() if name.endswith("mlp.down_proj.bias")}
    sibling = {
        **LLAMA,
        "model_type": "seed_oss",
        "attention_bias": False,
        "attention_out_bias": True,
        "mlp_bias": False,
        "head_dim": HEAD_DIM,
    }
    write(tmp_path / "own", CONFIGS["telechat2"], tensors)
    write(tmp_path / "sibling", sibling, telechat_as_llama({name: each for name, each in tensors.items() if name not in biases}))
    to_megatron(tmp_path / "own", "huggingface", tmp_path / "a", **LAYOUT)
    to_megatron(tmp_path / "sibling", "huggingface", tmp_path / "b", **LAYOUT)
    plan = make_plan(job(tmp_path / "own"))
    assert plan.model_type == "telechat2"
    assert any("training_seqlen 8192: the rotary base is 10000 x 3 **" in note.text for note in plan.notes)
    have = rank_tensors(tmp_path / "a")
    own = {name: have.pop(name) for name in list(have) if name.endswith("linear_fc2.bias")}
    assert not differences(rank_tensors(tmp_path / "b"), have)
    assert all(torch.equal(each, biases[f"transformer.h.{int(name[11:14])}.mlp.down_proj.bias"]) for name, each in own.items())
    assert len(own) == 4


def test_the_first_telechats_names_lack_their_beginning(tmp_path: Path) -> None:
    tensors = random_model("telechat2")
    short = {name.removeprefix("transformer."): each for name, each in tensors.items()}
    write(tmp_path / "hf", CONFIGS["telechat2"], short)
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", **LAYOUT)
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))


def job(source: Path) -> dict[str, Any]:
    return {
        "source": {"format": "huggingface", "path": str(source)},
        "target": {"format": "mindspeed-llm", "path": str(source.parent / "planned")},
        "options": {},
    }


@pytest.mark.parametrize("family", CONFIGS)
def test_there_and_back_is_the_identity(family: str, tmp_path: Path) -> None:
    tensors = random_model(family)
    write(tmp_path / "hf", CONFIGS[family], tensors)
    layout = {**LAYOUT, "expert_parallel_size": 2} if "n_routed_experts" in CONFIGS[family] else LAYOUT
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", **layout, options={"verify": "roundtrip"})
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))


def test_mimos_mtp_layer_is_carried_as_it_is(tmp_path: Path) -> None:
    tensors = random_model("mimo")
    write(tmp_path / "hf", CONFIGS["mimo"], tensors)
    carried = [name for name in tensors if name.startswith("model.mtp_layers.0.")]
    assert len(carried) == 16
    said = [note.text for note in make_plan(job(tmp_path / "hf")).notes if note.kind == "carried"]
    assert len(said) == 1
    assert said[0].startswith("16 tensor(s)")


@pytest.mark.parametrize(("family", "words"), [("minicpm", "scale_emb 12"), ("baichuan", None), ("internlm", None)])
def test_what_training_must_be_told_is_said(family: str, words: str | None, tmp_path: Path) -> None:
    write(tmp_path / "hf", CONFIGS[family], random_model(family))
    said = [note.text for note in make_plan(job(tmp_path / "hf")).notes if "training must be told" in note.text]
    assert [words in text for text in said if words] == ([True] if words else [])
    assert bool(said) is bool(words)


def test_a_head_that_chatglm_stores_twice_is_one(tmp_path: Path) -> None:
    tensors = random_model("chatglm")
    write(tmp_path / "hf", CONFIGS["chatglm"], tensors | {"lm_head.weight": tensors["transformer.output_layer.weight"].clone()})
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", tensor_parallel_size=2)
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))
