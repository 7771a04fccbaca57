"""A draft of a family file is runnable: it builds the very tensors that it was drafted from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from convsvc.cli.main import main
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.errors import SourceError
from convsvc.families import FAMILIES, Facts, Family, find_family
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.plan import drafting
from convsvc.plan.drafting import draft_of
from tests.roundtrip.any_family import CONFIGS

SIZES = {"hidden_size": 32, "vocab_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 12, "rms_norm_eps": 1e-6}
Shapes = dict[str, tuple[int, ...]]


def unknown(layers: int = 4) -> Shapes:
    """Attention that is Llama's with a gate and an indexer of its own, experts in all layers but the first, fused gate and up."""
    shapes: Shapes = {"model.embed_tokens.weight": (64, 32), "model.norm.weight": (32,), "lm_head.weight": (64, 32)}
    for layer in range(layers):
        attention = {"q_proj": (96, 32), "k_proj": (48, 32), "v_proj": (48, 32), "o_proj": (32, 96), "new_gate": (8, 32)}
        names: Shapes = {f"self_attn.{name}.weight": shape for name, shape in attention.items()}
        names |= {"input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,)}
        if layer == 0:
            names |= {
                "mlp.gate_up_proj.weight": (112, 32),
                "mlp.down_proj.weight": (32, 56),
                "self_attn.square.weight": (12, 12),
                "odd.weight": (113, 112),
            }
        else:
            names |= {"mlp.gate.weight": (6, 32)}
            for expert in range(6):
                block = {"gate_proj": (20, 32), "up_proj": (20, 32), "down_proj": (32, 20)}
                names |= {f"mlp.experts.{expert}.{name}.weight": shape for name, shape in block.items()}
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in names.items()}
    return shapes


CONFIG = {
    **SIZES, "model_type": "made_up", "architectures": ["MadeUpForCausalLM"], "num_hidden_layers": 4, "intermediate_size": 56,
    "num_experts": 6, "moe_intermediate_size": 20, "num_experts_per_tok": 2, "eos_token_id": 12,
}  # fmt: skip


def write(root: Path, config: Mapping[str, Any], shapes: Shapes) -> Path:
    root.mkdir()
    (root / "config.json").write_text(json.dumps(config))
    skeleton = safetensors.plan_skeleton([TensorSpec(name, "BF16", shape) for name, shape in shapes.items()])
    with open(root / "model.safetensors", "wb") as file:
        file.write(skeleton.segments[0][1])
        file.truncate(skeleton.size_bytes)
    return root


def family_of(text: str) -> Family:
    """The family of a file with this text."""
    names: dict[str, Any] = {}
    exec(compile(text, "draft.py", "exec"), names)
    family = names["FAMILY"]
    assert isinstance(family, Family)
    return family


def built(family: Family, config: Mapping[str, Any]) -> Shapes:
    return {laid.name: laid.shape for laid in lay_model(family.build(Facts(config, "config.json"))).kinds}


def test_a_draft_builds_the_tensors_that_it_was_drafted_from(tmp_path: Path) -> None:
    text = draft_of(str(write(tmp_path / "hf", CONFIG, unknown())))
    family = family_of(text)
    assert (family.name, family.model_types, family.architectures) == ("made-up", ("made_up",), ("MadeUpForCausalLM",))
    assert built(family, CONFIG) == unknown()


def test_a_draft_takes_what_fits_from_known_tables_and_gives_a_reason_for_what_is_new(tmp_path: Path) -> None:
    text = draft_of(str(write(tmp_path / "hf", CONFIG, unknown())))
    assert "*gqa.GQA," in text
    assert "*moe.MOE," in text
    assert "own('self_attn.new_gate.weight', 'own_num_attention_heads hidden'),  # [8, 32]: 8 = num_attention_heads" in text
    assert "112 = 2 * intermediate_size" in text
    assert "113: no field of the configuration says so" in text
    assert "eos_token_id" not in text


def test_layers_are_told_apart_by_the_field_that_lists_their_kinds(tmp_path: Path) -> None:
    kinds = {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
    text = draft_of(str(write(tmp_path / "hf", CONFIG | kinds, unknown())))
    assert "BY_MLP_LAYER_TYPES = {'dense': 0, 'sparse': 1}" in text
    more = {"num_hidden_layers": 3, "mlp_layer_types": ["sparse", "dense", "sparse"]}
    assert sum(".mlp.gate_up_proj." in name for name in built(family_of(text), CONFIG | more)) == 1


def test_layers_are_told_apart_by_how_many_dense_ones_come_first(tmp_path: Path) -> None:
    text = draft_of(str(write(tmp_path / "hf", CONFIG | {"first_k_dense_replace": 1}, unknown())))
    assert 'int(layer >= facts.number("first_k_dense_replace"))' in text
    assert built(family_of(text), CONFIG | {"first_k_dense_replace": 1}) == unknown()


def test_of_a_model_of_more_modules_the_text_decoder_is_drafted(tmp_path: Path) -> None:
    inside = {"model.language_model." + name.removeprefix("model."): shape for name, shape in unknown().items() if name != "lm_head.weight"}
    shapes = {**inside, "lm_head.weight": (64, 32), "model.visual.blocks.0.attn.qkv.weight": (24, 8)}
    config = {"model_type": "made_up_vl", "text_config": CONFIG, "vision_config": {"depth": 1}}
    text = draft_of(str(write(tmp_path / "hf", config, shapes)))
    assert built(family_of(text), CONFIG) == unknown()


@pytest.mark.parametrize("name", ["llama2", "deepseek3", "qwen3-next", "gpt-oss", "mixtral", "glm4"])
def test_a_known_family_is_drafted_to_what_it_is(name: str, tmp_path: Path) -> None:
    drawn = {field: value[0] if isinstance(value, tuple) else value for field, value in CONFIGS[name].items()} if name in CONFIGS else {}
    config: dict[str, Any] = {**CONFIG, **SIZES, **drawn, "num_nextn_predict_layers": 0, "num_local_experts": 6, "n_routed_experts": 6}
    family = FAMILIES[name]
    config |= {"model_type": family.model_types[0], "architectures": list(family.architectures[:1]), "num_attention_heads": 8}
    assert find_family(None, Facts(config, "config.json")).name == name
    shapes = built(family, config)
    text = draft_of(str(write(tmp_path / "hf", config, shapes)))
    assert built(family_of(text), config) == shapes


MOLMO = {
    "model_type": "molmo", "architectures": ["MolmoForCausalLM"], "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1,
    "intermediate_size": 80, "vocab_size": 66, "num_hidden_layers": 2, "qkv_bias": True, "norm_after": False,
}  # fmt: skip


def molmo() -> Shapes:
    """The text decoder's names of reubzdubz/Molmo7B-D-NF4Quant (model.safetensors.index.json, without its pieces of 4 bits), small."""
    shapes: Shapes = {"wte.embedding": (66, 32), "wte.new_embedding": (3, 32), "ln_f.weight": (32,), "ff_out.weight": (66, 32)}
    for layer in range(2):
        block: Shapes = {"att_proj.weight": (48, 32), "att_proj.bias": (48,), "attn_out.weight": (32, 32), "attn_norm.weight": (32,)}
        block |= {"ff_norm.weight": (32,), "ff_proj.weight": (80, 32), "ff_out.weight": (32, 40)}
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return {f"model.transformer.{name}": shape for name, shape in shapes.items()}


def test_a_published_model_that_fuses_and_halves_is_drafted_with_the_reasons_of_its_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was before the family was there."""
    others = [module for module in drafting._modules() if not module.__name__.endswith(".molmo")]
    monkeypatch.setattr(drafting, "_modules", lambda: iter(others))
    monkeypatch.setattr(drafting, "FAMILIES", {name: family for name, family in FAMILIES.items() if name != "molmo"})
    text = draft_of(str(write(tmp_path / "hf", MOLMO, molmo())))
    assert built(family_of(text), MOLMO) == molmo()
    assert "48 = all queries, keys and values" in text
    assert "40 = intermediate_size / 2" in text


def test_the_family_that_a_draft_became_has_the_same_tensors() -> None:
    carried = "model.transformer.wte.new_embedding"
    assert built(FAMILIES["molmo"], MOLMO) == {name: shape for name, shape in molmo().items() if name != carried}


def test_what_has_no_layers_is_no_model_to_draft(tmp_path: Path) -> None:
    root = write(tmp_path / "hf", CONFIG, {"model.embed_tokens.weight": (64, 32)})
    with pytest.raises(SourceError, match="no tensor's name has a layer's number in it"):
        draft_of(str(root))


def test_inspect_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "hf", CONFIG, unknown())
    assert main(["inspect", str(root), "--draft-family"]) == 0
    assert "FAMILY = replace(" in capsys.readouterr().out
    assert main(["inspect", str(root), "--draft-family", "--json"]) != 0
