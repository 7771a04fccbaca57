"""Matrices lie as training's flags say, which no file records: by torch alone, what each flag makes of a Llama's and a Qwen's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convsvc.errors import JobError
from convsvc.plan.planner import make_plan
from tests.dialects.mindformers.made import Tensors, back, make_llama, run, same, whole_tensors
from tests.tiny_checkpoints import SIZES

HEADS, GROUPS, HEAD_DIM, FFN = 4, 2, 4, 32
MLP, ATTENTION = "use_interleaved_weight_layout_mlp", "use_contiguous_weight_layout_attention"


def grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Group after group: its queries, its key, its value."""
    rest = q.shape[1:]
    parts = [q.reshape(GROUPS, -1, *rest), k.reshape(GROUPS, HEAD_DIM, *rest), v.reshape(GROUPS, HEAD_DIM, *rest)]
    return torch.cat(parts, dim=1).reshape(-1, *rest)


def write_qwen(root: Path) -> Tensors:
    """A Qwen2.5 of one layer with grouped queries: biases on all three projections."""
    root.mkdir()
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 1, "tie_word_embeddings": False, **SIZES}
    (root / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, 16), "lm_head.weight": (64, 16), "model.norm.weight": (16,)}
    layer = {f"self_attn.{name}_proj": (8 if name in "kv" else 16, 16) for name in "qkvo"}
    layer |= {"mlp.gate_proj": (32, 16), "mlp.up_proj": (32, 16), "mlp.down_proj": (16, 32)}
    shapes |= {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {f"model.layers.0.self_attn.{name}_proj.bias": (8 if name in "kv" else 16,) for name in "qkv"}
    shapes |= {f"model.layers.0.{name}_layernorm.weight": (16,) for name in ("input", "post_attention")}
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    save_file(tensors, root / "model.safetensors")
    return tensors


@pytest.mark.parametrize("interleaved", [True, False])
def test_gate_and_up_alternate_row_by_row_or_lie_one_after_the_other(tmp_path: Path, interleaved: bool) -> None:
    folder, tensors = make_llama(tmp_path, **({} if interleaved else {MLP: False}))
    gate, up = (tensors[f"model.layers.1.mlp.{name}_proj.weight"] for name in ("gate", "up"))
    have = whole_tensors(folder)["decoder.layers.1.mlp.linear_fc1.weight"]
    if interleaved:
        assert torch.equal(have[0::2], gate)
        assert torch.equal(have[1::2], up)
    else:
        assert torch.equal(have, torch.cat([gate, up]))


@pytest.mark.parametrize("contiguous", [False, True])
def test_biases_of_grouped_queries_lie_as_their_weights_do_and_come_back(tmp_path: Path, contiguous: bool) -> None:
    tensors = write_qwen(tmp_path / "hf")
    run(
        {"format": "huggingface", "path": str(tmp_path / "hf")},
        {"format": "mindformers", "path": str(tmp_path / "mf"), ATTENTION: contiguous},
    )
    have = whole_tensors(tmp_path / "mf")
    for kind in ("weight", "bias"):
        q, k, v = (tensors[f"model.layers.0.self_attn.{name}_proj.{kind}"] for name in "qkv")
        want = torch.cat([q, k, v]) if contiguous else grouped(q, k, v)
        assert torch.equal(have[f"decoder.layers.0.self_attention.linear_qkv.{kind}"], want)
    assert same(tensors, back(tmp_path / "mf", tmp_path / "out", **{ATTENTION: contiguous})[0])


def notes_of(result: Any) -> str:
    return " ".join(note.text for note in result.notes)


def test_plan_and_notes_name_the_flags_of_source_and_target(tmp_path: Path) -> None:
    folder, _ = make_llama(tmp_path)
    source = {"format": "mindformers", "path": str(folder), MLP: False, "architecture": {"num_attention_heads": 4}}
    target = {"format": "mindformers", "path": str(tmp_path / "out"), ATTENTION: True}
    plan = make_plan({"source": source, "target": target})
    said = " ".join(note.text for note in plan.notes)
    assert f"read as trained with {MLP} False and {ATTENTION} False" in said
    assert f"written for training with {MLP} True and {ATTENTION} True" in said
    have = json.dumps(plan.facts)
    assert '"interleaved_mlp": false' in have
    assert '"contiguous_attention": true' in have


def test_tensors_of_no_model_have_no_flags(tmp_path: Path) -> None:
    folder, _ = make_llama(tmp_path, tensor_parallel_size=2)
    job = {"format": "mindformers", "path": str(folder)}
    plan = make_plan({"model_type": "tensors", "source": job, "target": {"format": "mindformers", "path": str(tmp_path / "out")}})
    assert not [note for note in plan.notes if MLP in note.text]


def test_a_configuration_that_says_a_flag_is_believed_and_may_not_be_contradicted(tmp_path: Path) -> None:
    folder, tensors = make_llama(tmp_path, **{MLP: False})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, MLP: False}))
    assert same(tensors, back(folder, tmp_path / "out")[0])
    assert same(tensors, back(folder, tmp_path / "stated", **{MLP: False})[0])
    with pytest.raises(JobError, match=rf"source\.{MLP} is True, .*config\.json says False"):
        back(folder, tmp_path / "refused", **{MLP: True})
