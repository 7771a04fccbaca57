"""What a script does that somebody writes in an hour: load everything, slice, torch.save rank by rank. Nothing is checked and no
optimiser's or framework's need is met: it is here for its time and memory.

    python -m benchmarks.naive SOURCE TARGET TP EP
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Weights = dict[str, torch.Tensor]


def convert(source: Path, target: Path, tp: int, ep: int) -> None:
    """Hugging Face to mcore rank files, grouped gemm for experts."""
    config = json.loads((source / "config.json").read_text())
    weights: Weights = {}
    for path in sorted(source.glob("*.safetensors")):
        weights |= load_file(path)
    for ep_rank in range(ep):
        for tp_rank in range(tp):
            rank = [_layer(weights, config, layer, (tp_rank, tp), (ep_rank, ep)) for layer in range(config["num_hidden_layers"])]
            model = {f"decoder.layers.{n}.{name}": tensor for n, layer in enumerate(rank) for name, tensor in layer.items()}
            model["embedding.word_embeddings.weight"] = weights["model.embed_tokens.weight"].chunk(tp)[tp_rank].clone()
            model["output_layer.weight"] = weights["lm_head.weight"].chunk(tp)[tp_rank].clone()
            model["decoder.final_layernorm.weight"] = weights["model.norm.weight"]
            folder = target / (f"mp_rank_{tp_rank:02d}" + (f"_{ep_rank:03d}" if ep > 1 else ""))
            folder.mkdir(parents=True)
            torch.save({"model": model}, folder / "model_optim_rng.pt")


def _layer(weights: Weights, config: dict[str, Any], layer: int, tp: tuple[int, int], ep: tuple[int, int]) -> Weights:
    prefix = f"model.layers.{layer}."
    here = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    made = {"input_layernorm.weight": here["input_layernorm.weight"], "pre_mlp_layernorm.weight": here["post_attention_layernorm.weight"]}
    made |= {f"self_attention.{x}_layernorm.weight": here[f"self_attn.{x}_norm.weight"] for x in "qk"}
    made["self_attention.linear_qkv.weight"] = _qkv(here, config).chunk(tp[1])[tp[0]].clone()
    made["self_attention.linear_proj.weight"] = here["self_attn.o_proj.weight"].chunk(tp[1], 1)[tp[0]].clone()
    return made | (_experts(here, config, tp, ep) if "num_experts" in config else _dense(here, tp))


def _qkv(here: Weights, config: dict[str, Any]) -> torch.Tensor:
    groups, hidden = config["num_key_value_heads"], config["hidden_size"]
    parts = [here[f"self_attn.{x}_proj.weight"].view(groups, -1, hidden) for x in "qkv"]
    return torch.cat(parts, 1).reshape(-1, hidden)


def _dense(here: Weights, tp: tuple[int, int]) -> Weights:
    gate, up = (here[f"mlp.{x}_proj.weight"].chunk(tp[1])[tp[0]] for x in ("gate", "up"))
    return {
        "mlp.linear_fc1.weight": torch.cat([gate, up]),
        "mlp.linear_fc2.weight": here["mlp.down_proj.weight"].chunk(tp[1], 1)[tp[0]].clone(),
    }


def _experts(here: Weights, config: dict[str, Any], tp: tuple[int, int], ep: tuple[int, int]) -> Weights:
    count = config["num_experts"] // ep[1]
    first, second = [], []
    for expert in range(ep[0] * count, (ep[0] + 1) * count):
        gate, up, down = (here[f"mlp.experts.{expert}.{x}_proj.weight"] for x in ("gate", "up", "down"))
        first.append(torch.cat([part.chunk(tp[1])[tp[0]] for part in (gate, up)]).t())
        second.append(down.chunk(tp[1], 1)[tp[0]].t())
    hidden = config["hidden_size"]
    experts = {"weight1": torch.stack(first).reshape(hidden, -1), "weight2": torch.stack(second).reshape(-1, hidden)}
    return {f"mlp.experts.{name}": tensor for name, tensor in experts.items()} | {"mlp.router.weight": here["mlp.gate.weight"]}


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
