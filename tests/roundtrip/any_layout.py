"""Draws small models and legal layouts for them, with Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True, slots=True)
class Drawn:
    """A model: its config.json, and dtype-free shapes of its tensors as transformers names them.

    What a layout needs to know of it: how many layers, the `tps` that cut it evenly, experts (0 for none), MTP layers, and whether
    it has latent attention that `mla_mm_split` splits.
    """

    family: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    layers: int
    tps: tuple[int, ...] = (1, 2)
    experts: int = 0
    num_mtp: int = 0
    splits: bool = False


MODEL_TYPES = {"llama2": "llama", "qwen25": "qwen2", "qwen3": "qwen3", "qwen3-moe": "qwen3_moe"}


@st.composite
def models(draw: st.DrawFn) -> Drawn:
    """A model of up to six layers whose sizes tp 1, 2 and 4 divide, so that layouts rarely have to be thrown away."""
    family = draw(st.sampled_from(sorted(MODEL_TYPES)))
    groups = draw(st.sampled_from([2, 4]))
    config: dict[str, Any] = {
        "model_type": MODEL_TYPES[family],
        "hidden_size": draw(st.sampled_from([8, 12])),
        "num_hidden_layers": draw(st.integers(1, 6)),
        "num_key_value_heads": groups,
        "num_attention_heads": groups * draw(st.integers(1, 3)),
        "head_dim": draw(st.sampled_from([2, 4])),
        "intermediate_size": draw(st.sampled_from([4, 12])),
        "vocab_size": draw(st.sampled_from([16, 28])),
        "tie_word_embeddings": draw(st.booleans()),
        "rms_norm_eps": 1e-6,
    }
    if family == "qwen3-moe":
        layers = config["num_hidden_layers"]
        config |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": draw(st.sampled_from([4, 8]))}
        config["mlp_only_layers"] = draw(st.lists(st.integers(0, layers - 1), unique=True, max_size=layers - 1))
    tps = tuple(size for size in (1, 2, 4) if groups % size == 0)
    return Drawn(family, config, dict(shapes_of(family, config)), config["num_hidden_layers"], tps, config.get("num_experts", 0))


def shapes_of(family: str, config: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (vocab, hidden)), ("model.norm.weight", (hidden,))]
    if not config["tie_word_embeddings"]:
        shapes.append(("lm_head.weight", (vocab, hidden)))
    for layer in range(config["num_hidden_layers"]):
        rows = _attention(family, config) + _mlp(family, config, layer)
        shapes += [(f"model.layers.{layer}.{name}", shape) for name, shape in rows]
    return shapes


def _attention(family: str, config: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    hidden, width = config["hidden_size"], config["head_dim"]
    outputs = {
        "q": config["num_attention_heads"] * width,
        "k": config["num_key_value_heads"] * width,
        "v": config["num_key_value_heads"] * width,
    }
    rows: list[tuple[str, tuple[int, ...]]] = [(f"self_attn.{side}_proj.weight", (out, hidden)) for side, out in outputs.items()]
    rows += [
        ("self_attn.o_proj.weight", (hidden, outputs["q"])),
        ("input_layernorm.weight", (hidden,)),
        ("post_attention_layernorm.weight", (hidden,)),
    ]
    if family == "qwen25":
        rows += [(f"self_attn.{side}_proj.bias", (out,)) for side, out in outputs.items()]
    if family.startswith("qwen3"):
        rows += [(f"self_attn.{side}_norm.weight", (width,)) for side in "qk"]
    return rows


def _mlp(family: str, config: dict[str, Any], layer: int) -> list[tuple[str, tuple[int, ...]]]:
    hidden = config["hidden_size"]
    if family != "qwen3-moe" or layer in config["mlp_only_layers"]:
        return _glu("mlp.", hidden, config["intermediate_size"])
    experts = [
        row for expert in range(config["num_experts"]) for row in _glu(f"mlp.experts.{expert}.", hidden, config["moe_intermediate_size"])
    ]
    return [("mlp.gate.weight", (config["num_experts"], hidden)), *experts]


def _glu(prefix: str, hidden: int, ffn: int) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (f"{prefix}gate_proj.weight", (ffn, hidden)),
        (f"{prefix}up_proj.weight", (ffn, hidden)),
        (f"{prefix}down_proj.weight", (hidden, ffn)),
    ]


@st.composite
def layouts(draw: st.DrawFn, model: Drawn, holds_mtp: bool = False) -> dict[str, Any]:
    """A legal layout: the fields of a job's target. `holds_mtp`: the source holds MTP layers among its ranks, which are then kept."""
    tp = draw(st.sampled_from(model.tps))
    layout: dict[str, Any] = {"tensor_parallel_size": tp, "make_vocab_size_divisible_by": draw(st.sampled_from([None, 1, 16, 24]))}
    layout |= draw(_stages(model.layers))
    if model.experts:
        layout |= draw(_experts(tp))
    if model.splits:
        layout["mla_mm_split"] = draw(st.sampled_from([None, True]))
    layout["mtp_num_layers"] = draw(st.sampled_from([None, model.num_mtp]))
    # How Transformer Engine names an MTP layer is not known.
    with_mtp = holds_mtp or bool(layout["mtp_num_layers"])
    layout["transformer_impl"] = draw(st.sampled_from(["local"] if with_mtp else ["local", "transformer_engine"]))
    if with_mtp and "pipeline_model_parallel_layout" in layout:
        layout["pipeline_model_parallel_layout"] = layout["pipeline_model_parallel_layout"][:-1] + "m" * model.num_mtp + "L"
    return {name: value for name, value in layout.items() if value is not None}


@st.composite
def _stages(draw: st.DrawFn, layers: int) -> dict[str, Any]:
    """A pipeline: plain, by list, interleaved or V-shaped; noop layers fill it up where it does not come out even."""
    pp = draw(st.integers(1, 4))
    if pp > 1 and layers >= pp and draw(st.booleans()):
        cuts = sorted(draw(st.lists(st.integers(1, layers - 1), min_size=pp - 1, max_size=pp - 1, unique=True)))
        return {"pipeline_parallel_size": pp, "num_layer_list": [b - a for a, b in zip([0, *cuts], [*cuts, layers], strict=True)]}
    if pp > 1 and layers >= pp and draw(st.booleans()):
        return {"pipeline_parallel_size": pp, **draw(trained_stages(layers, pp))}
    kind = draw(st.sampled_from(["plain", "interleaved", "dualpipev"])) if pp > 1 else "plain"
    size = draw(st.integers(1, 2)) if kind == "interleaved" else 1
    step = pp * {"plain": 1, "interleaved": size, "dualpipev": 2}[kind]
    positions = -(-layers // step) * step
    if kind == "interleaved" and positions == step:  # one virtual stage is none
        positions += step
    noop = draw(st.lists(st.integers(0, positions - 1), unique=True, min_size=positions - layers, max_size=positions - layers))
    return {
        "pipeline_parallel_size": pp,
        "noop_layers": sorted(noop) or None,
        "num_layers_per_virtual_pipeline_stage": size if kind == "interleaved" else None,
        "schedules_method": "dualpipev" if kind == "dualpipev" else None,
    }


@st.composite
def trained_stages(draw: st.DrawFn, layers: int, pp: int) -> dict[str, Any]:
    """As Megatron's training states its stages: by a pattern, or with a first or a last stage of another length or less by one."""
    chunks = draw(st.integers(1, 2))
    cuts = sorted(draw(st.lists(st.integers(0, layers), min_size=pp * chunks - 1, max_size=pp * chunks - 1)))
    ways: list[dict[str, Any]] = [{"pipeline_model_parallel_layout": _pattern(layers, cuts)}]
    for first, last in ((1, None), (None, 2), (1, 1), (2, 1)):
        left, others = layers - (first or 0) - (last or 0), pp - (first is not None) - (last is not None)
        if others and left > 0 and left % others == 0:
            ways.append({"decoder_first_pipeline_num_layers": first, "decoder_last_pipeline_num_layers": last})
    for embedding, output in ((True, False), (False, True), (True, True)):
        per_stage, rest = divmod(layers + embedding + output, pp)
        if not rest:
            split = {"account_for_embedding_in_pipeline_split": embedding, "account_for_loss_in_pipeline_split": output}
            ways.append({**split, "num_virtual_stages_per_pipeline_rank": chunks if per_stage % chunks == 0 else None})
    return draw(st.sampled_from(ways))


def _pattern(layers: int, cuts: list[int]) -> str:
    stages = ["t" * (stop - start) for start, stop in zip([0, *cuts], [*cuts, layers], strict=True)]
    return "E" + "|".join(stages) + "L"


@st.composite
def _experts(draw: st.DrawFn, tp: int) -> dict[str, Any]:
    extend = tp > 1 and draw(st.booleans())
    return {
        "expert_parallel_size": draw(st.sampled_from([1, 4 // tp] if extend else [1, 2, 4])),
        "expert_tensor_parallel_size": None if extend else draw(st.sampled_from([None, 1, tp])),
        "moe_grouped_gemm": draw(st.booleans()),
        "moe_tp_extend_ep": extend or None,
    }
