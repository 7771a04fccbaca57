"""Any dialect to any other and back to Hugging Face is the identity, bit for bit, through real files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.rows import rows_of as rows_of_ranks
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.megatron.rank_tables import RANK_FILES
from convsvc.dialects.megatron.tables import key_rows
from convsvc.dialects.mindformers.tables import Flags, rows_of
from convsvc.errors import LayoutError
from convsvc.families import FAMILIES, Facts, Wanted
from convsvc.models.model import Model
from convsvc.models.scope import Scope
from tests.roundtrip.any_family import CONFIGS, SIBLINGS, any_family
from tests.roundtrip.any_layout import Drawn, layouts, trained_stages
from tests.roundtrip.test_any_layout import different, write_model

pytestmark = pytest.mark.not_for_transformers
Side = dict[str, Any]
Rows = Callable[[Scope, Model], object]
FLAGS = ("use_interleaved_weight_layout_mlp", "use_contiguous_weight_layout_attention")


@st.composite
def mindspeed_sides(draw: st.DrawFn, model: Drawn) -> Side:
    return {"format": "mindspeed-llm", **draw(layouts(model, holds_mtp=bool(model.num_mtp))), "mtp_num_layers": model.num_mtp}


@st.composite
def mindformers_sides(draw: st.DrawFn, model: Drawn) -> Side:
    """Whole, or cut over up to 16 ranks; by any flags."""
    side: Side = {"format": "mindformers", **{name: draw(st.booleans()) for name in FLAGS}, "stacked_experts": draw(st.booleans())}
    if draw(st.booleans()):
        return side
    pp = draw(st.integers(1, min(2, model.layers)))
    cut = draw(st.integers(0, model.layers)) if pp == 2 else 0
    dp = draw(st.sampled_from((1, 2)))
    side |= {
        "tensor_parallel_size": draw(st.sampled_from(model.tps)),
        "pipeline_parallel_size": pp,
        "data_parallel_size": dp,
        "expert_parallel_size": draw(st.sampled_from((1, dp))) if model.experts else 1,
        "optimizer_weight_shard_size": draw(st.sampled_from((1, dp))),
        "remove_redundancy": draw(st.booleans()),
    }
    return side | ({"num_layer_list": [cut, model.layers - cut]} if pp == 2 else {})


@st.composite
def dcp_sides(draw: st.DrawFn, model: Drawn) -> Side:
    """Whole tensors, or cut over up to five ranks, which need not divide anything."""
    return {"format": "dcp", "shards": draw(st.integers(1, 5)), "prefix": draw(st.sampled_from(("", "model.", "module.")))}


@st.composite
def megatron_sides(draw: st.DrawFn, model: Drawn) -> Side:
    """Stacked where layers can be, in chunks of a few rows or none; vocabularies padded to what divides nothing."""
    return {
        "format": "megatron",
        "layer_keys": draw(st.sampled_from(("auto", "per-layer"))),
        "chunk_size": draw(st.sampled_from(("0.1KB", "1KiB", "1MiB"))),
        "make_vocab_size_divisible_by": draw(st.sampled_from((None, 5, 64))),
        "iteration": draw(st.sampled_from(("release", "1", "4000"))),
    }


@st.composite
def fsdp_sides(draw: st.DrawFn, model: Drawn) -> Side:
    """Megatron-FSDP's keys, in chunks of a few rows or none."""
    side = draw(megatron_sides(model))
    return {**{name: value for name, value in side.items() if name != "layer_keys"}, "storage": "fsdp_dtensor"}


@st.composite
def rank_sides(draw: st.DrawFn, model: Drawn) -> Side:
    """NVIDIA's rank files at any layout that Megatron-LM has. tp need not divide what its own modules cut of latent attention."""
    tp, pp = draw(st.sampled_from(model.tps)), draw(st.integers(1, min(3, model.layers)))
    side: Side = {"format": "megatron", "storage": "torch", "tensor_parallel_size": tp, "pipeline_parallel_size": pp}
    side |= draw(trained_stages(model.layers, pp)) if pp > 1 else {}
    if "pipeline_model_parallel_layout" in side:
        side["pipeline_model_parallel_layout"] = side["pipeline_model_parallel_layout"][:-1] + "m" * model.num_mtp + "L"
    if model.experts and model.family != "nemotron-h":  # of which layers there are none has any
        side["expert_parallel_size"] = draw(st.sampled_from((1, 2)))
        side["expert_tensor_parallel_size"] = draw(st.sampled_from((None, 1)))
        side["moe_grouped_gemm"] = draw(st.booleans())
    words = (CONFIGS | SIBLINGS)[model.family]
    is_apart = any(name in words for name in ("kv_lora_rank", "linear_num_key_heads", "mamba_num_heads", "state_size", "ssm_state_size"))
    side["transformer_impl"] = "transformer_engine" if is_apart else draw(st.sampled_from(("local", "transformer_engine")))
    side["make_vocab_size_divisible_by"] = draw(st.sampled_from((1, 16, 24)))
    return {name: value for name, value in side.items() if value is not None} | {"mtp_num_layers": model.num_mtp}


def sides(model: Drawn) -> st.SearchStrategy[Side]:
    others = mindspeed_sides(model) | mindspore_or_dcp_sides(model)
    return others | megatron_sides(model) | fsdp_sides(model) if has_a_place(model, key_rows) else others


def mindspore_or_dcp_sides(model: Drawn) -> st.SearchStrategy[Side]:
    return mindformers_sides(model) | dcp_sides(model) if has_a_place(model, mindformers_rows) else dcp_sides(model)


def in_megatron(family: str) -> st.SearchStrategy[Drawn]:
    """Of a family that Megatron core knows, one model can hold what it has no names for (HyperCLOVA X: norms after its blocks)."""
    return any_family(family).filter(lambda model: has_a_place(model, key_rows))


def source_of(side: Side, path: Path) -> Side:
    """What a job says to read what was written for a target: what no file says, once more."""
    return {"format": side["format"], "path": str(path), **{name: side[name] for name in (*FLAGS, "storage") if name in side}}


def mindformers_rows(scope: Scope, model: Model) -> object:
    return rows_of(scope, model, Flags())


def rank_file_rows(scope: Scope, model: Model) -> object:
    return rows_of_ranks(scope, model, Settings(Parallel(), padded_vocab=0, transformer_engine=True), RANK_FILES)


def has_a_place(drawn: Drawn, rows: Rows) -> bool:
    """Whether the framework whose `rows` are given has names for all that the layers of a model hold."""
    return is_placed(FAMILIES[drawn.family].build(Facts(drawn.config, "drawn"), Wanted(num_mtp=drawn.num_mtp)), rows)


def is_placed(model: Model, rows: Rows) -> bool:
    try:
        return all(rows(scope, model) for scope in model.scopes)
    except LayoutError:
        return False


def simplest(family: str) -> Model | None:
    """Two layers of a family, by the first of all choices; none where a word a layer would have to be drawn."""
    values = {name: value[0] if isinstance(value, tuple) else value for name, value in (CONFIGS | SIBLINGS)[family].items()}
    if values.get("compress_ratios"):
        return None
    values |= {"num_attention_heads": values.get("num_attention_heads", 4), "num_layers": 2, "num_hidden_layers": 2}
    facts = Facts({name: value for name, value in values.items() if value is not None}, "drawn")
    return FAMILIES[family].build(facts, Wanted())


SIMPLEST = {family: model for family in sorted(CONFIGS | SIBLINGS) if (model := simplest(family)) is not None}
IN_MEGATRON = [family for family, model in SIMPLEST.items() if is_placed(model, key_rows)]
IN_RANKS = [family for family in IN_MEGATRON if is_placed(SIMPLEST[family], rank_file_rows)]
KNOWN = [family for family, model in SIMPLEST.items() if is_placed(model, mindformers_rows)]


def test_the_families_of_the_framework_have_their_places() -> None:
    assert {"qwen3", "qwen3-moe", "deepseek3", "llama2", "qwen25", "mixtral"} <= set(KNOWN)


def test_the_families_of_megatron_core_have_their_places() -> None:
    assert {"qwen3", "qwen3-moe", "deepseek3", "deepseek2-lite", "llama2", "qwen25", "mixtral", "glm45", "mamba2"} <= set(IN_MEGATRON)
    assert {"qwen3-next", "qwen3.5", "qwen3.5-moe"} <= set(IN_MEGATRON)
    # Biases of a mixer's projections, and an MTP layer's own copies, have no place in either; the indexer of sparse attention only in keys.
    assert set(IN_MEGATRON) - set(IN_RANKS) == {"deepseek32", "glm5"}


@pytest.mark.parametrize("family", IN_MEGATRON)
@settings(max_examples=1, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_there_and_back_through_global_keys_is_the_identity(family: str, data: st.DataObject) -> None:
    model = data.draw(in_megatron(family))
    others = megatron_sides(model) | fsdp_sides(model) | dcp_sides(model)
    side, other = data.draw(megatron_sides(model)), data.draw(others | rank_sides(model) if family in IN_RANKS else others)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tensors = with_equal_copies(write_model(model, root / "hf"), model, root / "hf")
        source: Side = {"format": "huggingface", "path": str(root / "hf")}
        for name, each in (("first", side), ("second", other)):
            run(source, {**each, "path": str(root / name)}, verify="roundtrip")
            source = source_of(each, root / name)
        run(source, {"format": "huggingface", "path": str(root / "back")}, verify="roundtrip")
        have = {name: tensor for file in sorted((root / "back").glob("*.safetensors")) for name, tensor in load_file(file).items()}
        assert not different(without_copies(tensors), without_copies(have))


@pytest.mark.parametrize("family", IN_MEGATRON)
@settings(max_examples=1, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_there_and_back_through_megatron_fsdps_keys_is_the_identity(family: str, data: st.DataObject) -> None:
    model = data.draw(in_megatron(family))
    side = data.draw(fsdp_sides(model))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tensors = with_equal_copies(write_model(model, root / "hf"), model, root / "hf")
        run({"format": "huggingface", "path": str(root / "hf")}, {**side, "path": str(root / "fsdp")}, verify="roundtrip")
        run(source_of(side, root / "fsdp"), {"format": "huggingface", "path": str(root / "back")}, verify="digest")
        have = {name: tensor for file in sorted((root / "back").glob("*.safetensors")) for name, tensor in load_file(file).items()}
        assert not different(without_copies(tensors), without_copies(have))


@pytest.mark.parametrize("family", KNOWN)
@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_there_through_two_dialects_and_back_is_the_identity(family: str, data: st.DataObject) -> None:
    model = data.draw(any_family(family))
    first, second = data.draw(mindspore_or_dcp_sides(model)), data.draw(sides(model))
    if data.draw(st.booleans()):
        first, second = second, first
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tensors = with_equal_copies(write_model(model, root / "hf"), model, root / "hf")
        source: Side = {"format": "huggingface", "path": str(root / "hf")}
        for name, side in (("first", first), ("second", second)):
            run(source, {**side, "path": str(root / name)}, verify="roundtrip")
            source = source_of(side, root / name)
        run(source, {"format": "huggingface", "path": str(root / "back")}, verify="roundtrip")
        have = {name: tensor for file in sorted((root / "back").glob("*.safetensors")) for name, tensor in load_file(file).items()}
        # Which of an MTP layer's copies were stored nobody remembers: published checkpoints have both.
        assert not different(without_copies(tensors), without_copies(have))


def run(source: Side, target: Side, **options: Any) -> None:
    convert({"source": source, "target": target, "options": options}, engine="inline")


def with_equal_copies(tensors: dict[str, torch.Tensor], model: Drawn, folder: Path) -> dict[str, torch.Tensor]:
    """MTP layers' copies of embedding and head hold what the model's do: mindformers keeps one of each. What is stored less 1 is near 1."""
    head = "lm_head.weight" if "lm_head.weight" in tensors else "model.embed_tokens.weight"
    originals = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": head}
    for name, tensor in tensors.items():
        if name.endswith("linear_attn.norm.weight") and tensor.is_floating_point():
            # Megatron stores it less 1, which is exact near 1 alone.
            tensors[name] = torch.linspace(0.5, 2, tensor.numel()).to(tensor.dtype)
        for ending, original in originals.items():
            if name.startswith("model.layers.") and name.endswith(ending) and original in tensors:
                tensors[name] = tensors[original].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def without_copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    endings = ("embed_tokens.weight", "shared_head.head.weight")
    return {name: each for name, each in tensors.items() if not (name.startswith("model.layers.") and name.endswith(endings))}
