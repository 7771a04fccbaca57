"""Names that are the family's but for one prefix, and experts that are stacked, are read as what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import PlanError, SourceError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]
EXPERTS, EXPERT_FFN, HIDDEN = 4, 24, 16


def job(source: Path, target: Path, **more: Any) -> dict[str, Any]:
    place = {"format": "mindspeed-llm", "path": str(target), "tensor_parallel_size": 2, **more}
    return {"source": {"format": "huggingface", "path": str(source)}, "target": place}


def ranks(root: Path) -> dict[str, Tensors]:
    return {path.parent.name: torch.load(path, weights_only=False)["model"] for path in sorted(root.rglob("*.pt"))}


def same(one: Path, other: Path) -> bool:
    a, b = ranks(one), ranks(other)
    return a.keys() == b.keys() and all(
        a[rank].keys() == b[rank].keys() and all(torch.equal(tensor, b[rank][name]) for name, tensor in a[rank].items()) for rank in a
    )


def change_names(checkpoint: Path, change: Callable[[str], str]) -> Tensors:
    file = checkpoint / "model.safetensors"
    held = {change(name): tensor.clone() for name, tensor in load_file(file).items()}
    save_file(held, file)
    return held


CHANGES: dict[str, Callable[[str], str]] = {
    "without model.": lambda name: name.removeprefix("model."),
    "compiled": lambda name: "_orig_mod." + name,
    "wrapped": lambda name: "module." + name,
    "wrapped and compiled": lambda name: "module._orig_mod." + name,
    "in a model that sees": lambda name: "language_model." + name,
    "in a model that sees, since transformers 5": lambda name: re.sub("^model[.]", "model.language_model.", name),
    "in a wrapper, without model.": lambda name: name.replace("model.", "transformer.", 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_names_under_one_other_prefix_give_the_same_ranks_with_a_note(what: str, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "hf")
    convert(job(source, tmp_path / "want"), engine="inline")
    held = change_names(source, CHANGES[what])
    plan = make_plan(job(source, tmp_path / "have"))
    assert {tensor.name for tensor in plan.source_tensors} == set(held), "a plan names what is stored"
    assert [note.text for note in plan.notes if note.kind == "changed" and "read by the usual names of llama2" in note.text]
    convert(job(source, tmp_path / "have"), engine="inline")
    assert same(tmp_path / "have", tmp_path / "want")
    assert inspect_checkpoint(str(source))["complete"] is True


def test_what_else_lies_under_the_prefix_is_not_dropped(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "hf")
    held = change_names(source, CHANGES["in a model that sees"])
    save_file({**held, "vision_tower.patch.weight": torch.ones(2)}, source / "model.safetensors")
    with pytest.raises(PlanError) as caught:
        make_plan(job(source, tmp_path / "t"))
    assert caught.value.message.endswith("holds more than a llama2 checkpoint: 1 left over (1 vision_tower.patch.weight)")


def test_a_prefix_that_only_some_names_have_is_refused(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "hf")
    change_names(source, lambda name: "module." + name if "layers.1." in name else name)
    with pytest.raises(PlanError, match=r"is not a complete llama2 checkpoint: 9 missing, 9 left over"):
        make_plan(job(source, tmp_path / "t"))


def test_two_models_under_two_prefixes_are_refused(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "hf")
    held = change_names(source, lambda name: "a." + name)
    save_file({**held, **{"b" + name[1:]: tensor.clone() for name, tensor in held.items()}}, source / "model.safetensors")
    with pytest.raises(PlanError, match=r"holds more than a llama2 checkpoint: 21 left over"):
        make_plan(job(source, tmp_path / "t"))


def write_moe(path: Path, family: str) -> Path:
    """A model of experts with random weights, one stored tensor for each expert."""
    path.mkdir()
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 64}
    config: dict[str, Any] = {"num_hidden_layers": 2, "tie_word_embeddings": False, "num_experts_per_tok": 2, **sizes}
    block, gate, up, down = "mlp", "gate_proj", "up_proj", "down_proj"
    if family == "mixtral":
        config |= {"architectures": ["MixtralForCausalLM"], "num_local_experts": EXPERTS, "intermediate_size": EXPERT_FFN}
        block, gate, up, down = "block_sparse_moe", "w1", "w3", "w2"
    else:
        config |= {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": EXPERTS, "moe_intermediate_size": EXPERT_FFN}
        config |= {"intermediate_size": 32}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (64, HIDDEN), "lm_head": (64, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}self_attn.{name}_proj": (8 if name in "kv" else 16, HIDDEN) for name in "qkvo"}
        shapes |= {f"{at}{name}_layernorm": (HIDDEN,) for name in ("input", "post_attention")}
        shapes |= {f"{at}self_attn.{name}_norm": (4,) for name in "qk" if family != "mixtral"}
        shapes[f"{at}{block}.gate"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            one = f"{at}{block}.experts.{expert}."
            shapes |= {one + gate: (EXPERT_FFN, HIDDEN), one + up: (EXPERT_FFN, HIDDEN), one + down: (HIDDEN, EXPERT_FFN)}
    torch.manual_seed(1)
    save_file({f"{name}.weight": torch.randn(shape).bfloat16() for name, shape in shapes.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


def stack(held: Tensors) -> Tensors:
    """As transformers 5 stacks experts (conversion_mapping.py, "qwen2_moe" and "mixtral")."""
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    renamed = {}
    for name, each in held.items():
        usual = name.replace("block_sparse_moe", "mlp")
        renamed[re.sub(r"experts\.(\d+)\.(w\d)", lambda found: f"experts.{found[1]}.{names[found[2]]}", usual)] = each
    made = {name: each for name, each in renamed.items() if ".experts." not in name}
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts."
        single = {what: [renamed[f"{at}{number}.{what}_proj.weight"] for number in range(EXPERTS)] for what in ("gate", "up", "down")}
        gate, up, down = map(torch.stack, single.values())
        made |= {at + "gate_up_proj": torch.cat([gate, up], 1), at + "down_proj": down}
    return made


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral"])
def test_stacked_experts_give_the_ranks_that_single_ones_give(family: str, tmp_path: Path) -> None:
    source = write_moe(tmp_path / "hf", family)
    layout = {"moe_grouped_gemm": True, "expert_parallel_size": 2}
    convert(job(source, tmp_path / "want", **layout), engine="inline")
    save_file(stack(load_file(source / "model.safetensors")), source / "model.safetensors")
    convert(job(source, tmp_path / "have", **layout), engine="inline")
    assert same(tmp_path / "have", tmp_path / "want")
    assert "model.layers.1.mlp.experts.down_proj" in inspect_checkpoint(str(source))["layout"]["packed"]


def test_stacked_experts_become_single_ones_where_hugging_face_is_written(tmp_path: Path) -> None:
    source = write_moe(tmp_path / "hf", "qwen3-moe")
    single = load_file(source / "model.safetensors")
    save_file(stack(single), source / "model.safetensors")
    target = {"format": "huggingface", "path": str(tmp_path / "back"), "experts": "per-expert"}
    convert({"source": {"format": "huggingface", "path": str(source)}, "target": target}, engine="inline")
    have = {name: tensor for file in (tmp_path / "back").glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert have.keys() == single.keys()
    assert all(torch.equal(have[name], tensor) for name, tensor in single.items())


def test_stacked_experts_that_lie_the_other_way_round_are_refused(tmp_path: Path) -> None:
    """As Llama 4 and gpt-oss keep theirs, input before output."""
    source = write_moe(tmp_path / "hf", "qwen3-moe")
    held = stack(load_file(source / "model.safetensors"))
    turned = {name: each.mT.contiguous() if each.dim() == 3 else each for name, each in held.items()}
    save_file(turned, source / "model.safetensors")
    with pytest.raises(PlanError, match="with axes exchanged"):
        make_plan(job(source, tmp_path / "t"))


def test_a_square_alone_does_not_show_which_way_round_it_lies(tmp_path: Path) -> None:
    source = write_moe(tmp_path / "hf", "qwen3-moe")
    single = load_file(source / "model.safetensors")
    stacked = stack(single)
    held = {name: each for name, each in stacked.items() if not name.endswith("gate_up_proj")}
    held |= {name: each for name, each in single.items() if re.search(r"experts\.\d+\.(gate|up)_proj", name)}
    held |= {name: torch.zeros(EXPERTS, HIDDEN, HIDDEN) for name in held if name.endswith("experts.down_proj")}
    save_file({name: each.clone() for name, each in held.items()}, source / "model.safetensors")
    with pytest.raises(SourceError, match="which way round"):
        make_plan(job(source, tmp_path / "t"))


def test_single_and_stacked_experts_together_are_refused(tmp_path: Path) -> None:
    source = write_moe(tmp_path / "hf", "qwen3-moe")
    single = load_file(source / "model.safetensors")
    save_file({**single, **stack(single)}, source / "model.safetensors")
    with pytest.raises(PlanError, match="24 left over"):
        make_plan(job(source, tmp_path / "t"))
