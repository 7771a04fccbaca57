"""LoRA: what the checkpoint says is what counts, what is no plain LoRA is refused by its name, and a PEFT adapter merges into its base."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.dialects.checkpoint import Found
from convsvc.engine.driver import RunResult
from convsvc.errors import JobError, PlanError, SourceError
from convsvc.formats.base import StoredTensor
from convsvc.plan.adapter_names import Adapters, Pair
from convsvc.plan.adapters import locate_adapters
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.match import Inventory, Located
from convsvc.plan.planner import make_plan
from convsvc.tensors.blocks import Block, Laid, LogicalTensor
from tests.plan.adapted_ranks import add_adapters
from tests.plan.test_quantised import LAYOUT, QUANTISATION, rank_tensors, save, shapes, twins
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]
LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
R = 4


def weights(directory: Path) -> Tensors:
    return {name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def whole(*shape: int) -> torch.Tensor:
    """Whole numbers, so that sums are exact in any order."""
    return torch.randint(-4, 5, shape).float()


def base_model(path: Path) -> Path:
    """A tiny Llama of two layers in float32 whose weights are small whole numbers."""
    write_llama(path)
    save_file({name: whole(*tensor.shape) for name, tensor in load_file(path / "model.safetensors").items()}, path / "model.safetensors")
    return path


def write_peft(path: Path, base: Path, modules: dict[str, int], more: Tensors | None = None, **config: Any) -> Tensors:
    """A PEFT adapter directory with an A and a B of this rank for every module; the product B A of each."""
    path.mkdir()
    products: Tensors = {}
    saved: Tensors = {}
    for name, r in modules.items():
        rows, columns = weights(base)[f"{name}.weight"].shape
        a, b = whole(r, columns), whole(rows, r)
        saved |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        products[f"{name}.weight"] = b @ a
    save_file(saved | (more or {}), path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": R, "lora_alpha": 8, **config}))
    return products


def peft_job(base: Path, adapter: Path | None, target: Path, lora: dict[str, Any] | None = None, **layout: Any) -> dict[str, Any]:
    lora = {**(lora or {}), **({"path": str(adapter)} if adapter else {})}
    to = {"format": "mindspeed-llm", **layout} if layout else {"format": "huggingface", "config_dir": str(base)}
    return {"source": {"format": "huggingface", "path": str(base), "lora": lora}, "target": {**to, "path": str(target)}}


def merged(base: Path, adapter: Path, work: Path, **layout: Any) -> Tensors:
    """The merged model; by way of rank files where a layout is given."""
    convert(peft_job(base, adapter, work / "merged", **layout), engine="inline")
    if not layout:
        return weights(work / "merged")
    source = {"format": "mindspeed-llm", "path": str(work / "merged")}
    convert({"source": source, "target": {"format": "huggingface", "path": str(work / "back")}}, engine="inline")
    return weights(work / "back")


def same(have: Tensors, want: Tensors) -> bool:
    return have.keys() == want.keys() and all(torch.equal(have[name], tensor) for name, tensor in want.items())


def all_layers(*modules: str) -> list[str]:
    return [f"model.layers.{layer}.{module}" for layer in range(2) for module in modules]


LAYOUTS: dict[str, dict[str, int]] = {
    "Hugging Face": {},
    "tp 2": {"tensor_parallel_size": 2},
    "pp 2": {"pipeline_parallel_size": 2},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("modules", [LINEAR, ("self_attn.q_proj", "self_attn.v_proj"), ("mlp.up_proj",), ("self_attn.k_proj",)], ids=len)
def test_a_peft_adapter_is_merged_into_its_base_on_the_way_to_any_layout(modules: tuple[str, ...], layout: str, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    products = write_peft(tmp_path / "adapter", base, dict.fromkeys(all_layers(*modules), R))
    want = {name: tensor + 2 * products.get(name, torch.zeros(1)) for name, tensor in weights(base).items()}
    assert same(merged(base, tmp_path / "adapter", tmp_path, **LAYOUTS[layout]), want)


def test_a_weight_without_an_adapter_keeps_every_bit(tmp_path: Path) -> None:
    """Even its negative zeros, which adding nothing would make positive."""
    base = base_model(tmp_path / "base")
    tensors = weights(base)
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors[name] = torch.full_like(tensors[name], -0.0)
    save_file(tensors, base / "model.safetensors")
    write_peft(tmp_path / "adapter", base, dict.fromkeys(all_layers("self_attn.q_proj"), R))
    assert torch.signbit(merged(base, tmp_path / "adapter", tmp_path, tensor_parallel_size=2)[name]).all()


def test_ranks_and_alphas_of_their_own_and_rslora_are_kept_to(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    q, k, down = "self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"
    ranks = {name: 16 if name.endswith(k) else R for name in all_layers(q, k, down)}
    patterns = {"rank_pattern": {"k_proj": 16}, "alpha_pattern": {r".*0\.mlp.down_proj": 2, "layers.1.self_attn.q_proj": 6}}
    products = write_peft(tmp_path / "adapter", base, ranks, use_rslora=True, **patterns)
    scale = dict.fromkeys(products, 8 / 2) | {f"{name}.weight": 8 / 4 for name in all_layers(k)}
    scale |= {"model.layers.0.mlp.down_proj.weight": 1, "model.layers.1.self_attn.q_proj.weight": 3}
    want = {name: tensor + scale.get(name, 0) * products.get(name, torch.zeros(1)) for name, tensor in weights(base).items()}
    assert same(merged(base, tmp_path / "adapter", tmp_path, tensor_parallel_size=2), want)


@pytest.mark.parametrize("layout", [{}, LAYOUT], ids=["hf", "mcore"])
def test_some_experts_may_have_adapters_and_others_none(layout: dict[str, Any], tmp_path: Path) -> None:
    base = save(tmp_path / "base", {name: whole(*shape) for name, shape in shapes().items()}, None)
    experts = [f"model.layers.0.mlp.experts.{expert}.{name}" for expert, name in ((0, "gate_proj"), (3, "up_proj"), (2, "down_proj"))]
    products = write_peft(tmp_path / "adapter", base, dict.fromkeys([*experts, "model.layers.0.mlp.gate"], R))
    want = {name: tensor + 2 * products.get(name, torch.zeros(1)) for name, tensor in weights(base).items()}
    assert same(merged(base, tmp_path / "adapter", tmp_path, **layout), want)


def test_adapters_of_layers_that_are_left_out_are_left_out_and_said(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    products = write_peft(tmp_path / "adapter", base, dict.fromkeys(all_layers(*LINEAR), R))
    job = peft_job(base, tmp_path / "adapter", tmp_path / "out") | {"options": {"num_layers": 1}}
    result = convert(job, engine="inline")
    assert any(note.kind == "ignored" and note.text.startswith("7 LoRA adapter(s)") for note in result.notes)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(weights(tmp_path / "out")[name], weights(base)[name] + 2 * products[name])


def fused(tensors: Tensors, layer: int) -> Tensors:
    """A layer as Phi-3 stores it: q, k and v in one matrix, gate and up in another."""
    at = f"model.layers.{layer}."
    qkv = torch.cat([tensors.pop(f"{at}self_attn.{name}_proj.weight") for name in "qkv"])
    gate_up = torch.cat([tensors.pop(f"{at}mlp.{name}_proj.weight") for name in ("gate", "up")])
    return tensors | {f"{at}self_attn.qkv_proj.weight": qkv, f"{at}mlp.gate_up_proj.weight": gate_up}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_adapter_on_a_fused_matrix_reaches_all_that_is_in_it(layout: str, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    save_file(fused(fused(weights(base), 0), 1), base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    phi = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "pad_token_id": 0}
    (base / "config.json").write_text(json.dumps(config | phi))
    products = write_peft(tmp_path / "adapter", base, dict.fromkeys(all_layers("self_attn.qkv_proj", "mlp.gate_up_proj"), R))
    want = {name: tensor + 2 * products.get(name, torch.zeros(1)) for name, tensor in weights(base).items()}
    assert same(merged(base, tmp_path / "adapter", tmp_path, **LAYOUTS[layout]), want)


def test_an_adapter_is_merged_into_a_float8_base(tmp_path: Path) -> None:
    quantised, plain = twins()
    bases = save(tmp_path / "fp8", quantised, QUANTISATION), save(tmp_path / "bf16", plain, None)
    name = "model.layers.1.self_attn.q_proj"
    write_peft(tmp_path / "adapter", bases[1], {name: R})
    for base in bases:
        convert(peft_job(base, tmp_path / "adapter", tmp_path / f"{base.name}-out", **LAYOUT), engine="inline")
    one, other = (rank_tensors(tmp_path / f"{base.name}-out") for base in bases)
    assert all(same(tensors, other[rank]) for rank, tensors in one.items())


def test_an_adapter_on_the_head_is_merged(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    products = write_peft(tmp_path / "adapter", base, {"lm_head": R})
    want = weights(base)
    want["lm_head.weight"] = want["lm_head.weight"] + 2 * products["lm_head.weight"]
    assert same(merged(base, tmp_path / "adapter", tmp_path, tensor_parallel_size=2), want)


def test_what_was_trained_whole_takes_the_place_of_the_bases_and_is_said(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    head, norm = whole(64, 16), whole(16)
    more = {"base_model.model.lm_head.weight": head, "base_model.model.model.norm.modules_to_save.default.weight": norm}
    write_peft(tmp_path / "adapter", base, {}, more | {
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(R, 16),
        "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": torch.zeros(32, R),
    })  # fmt: skip
    result = convert(peft_job(base, tmp_path / "adapter", tmp_path / "out"), engine="inline")
    have = weights(tmp_path / "out")
    assert torch.equal(have["lm_head.weight"], head)
    assert torch.equal(have["model.norm.weight"], norm)
    assert any(note.kind == "changed" and "lm_head.weight" in note.text for note in result.notes)


def test_a_peft_models_own_names_are_understood(tmp_path: Path) -> None:
    """A state dict saved whole, adapters included: the job says alpha, the shapes say r."""
    base = base_model(tmp_path / "base")
    plain = weights(base)
    name = "model.layers.0.mlp.down_proj.weight"
    a, b = whole(R, 32), whole(16, R)
    renamed = {f"base_model.model.{key}": tensor for key, tensor in plain.items() if key != name}
    module = f"base_model.model.{name.removesuffix('.weight')}"
    sides = {f"{module}.lora_A.default.weight": a, f"{module}.lora_B.default.weight": b}
    save_file(renamed | {f"{module}.base_layer.weight": plain[name]} | sides, base / "model.safetensors")
    convert(peft_job(base, None, tmp_path / "out", {"alpha": 8}), engine="inline")
    assert same(weights(tmp_path / "out"), plain | {name: plain[name] + 2 * b @ a})


OTHER_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "DoRA"),
    "a bias in B": ({"lora_bias": True}, "lora_bias"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
    "fused experts": ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters"),
    "another tuner": ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
    "a field of tomorrow": ({"use_warp": True}, "the field use_warp"),
    "new layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "a rank that is no number": ({"r": "four"}, "r is 'four'"),
    "a pattern that takes for ever": ({"rank_pattern": {"(a+)+b": 3}}, "rank_pattern holds"),
    "a pattern that takes long": ({"alpha_pattern": {".*.*.*.*q_proj": 3}}, "alpha_pattern holds"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_an_adapter_that_is_no_plain_lora_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    config, words = OTHER_KINDS[kind]
    base = base_model(tmp_path / "base")
    write_peft(tmp_path / "adapter", base, {"model.layers.0.mlp.up_proj": R}, **config)
    with pytest.raises(SourceError) as caught:
        make_plan(peft_job(base, tmp_path / "adapter", tmp_path / "out"))
    assert words in str(caught.value)


def up(ending: str) -> str:
    return f"base_model.model.model.layers.0.mlp.up_proj.{ending}"


TENSORS: dict[str, tuple[Tensors, str]] = {
    "DoRA": ({up("lora_magnitude_vector"): torch.ones(32)}, "DoRA"),
    "a bias in B": ({up("lora_B.bias"): torch.ones(32)}, "lora_bias"),
    "an embedding": ({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(R, 64)}, "an adapter on an embedding"),
    "an embedding as a linear layer": (
        {f"base_model.model.model.embed_tokens.lora_{side}.weight": torch.ones(shape) for side, shape in (("A", (R, 16)), ("B", (64, R)))},
        "model.embed_tokens.weight: an embedding",
    ),
    "a norm": (
        {f"base_model.model.model.norm.lora_{side}.weight": torch.ones(shape) for side, shape in (("A", (R, 16)), ("B", (16, R)))},
        "no matrix of a linear layer",
    ),
    "a module of another model": (
        {f"base_model.model.model.layers.0.mlp.gate.lora_{side}.weight": torch.ones(R, R) for side in "AB"},
        "for modules the model does not have",
    ),
    "trained whole with another vocabulary": ({"base_model.model.lm_head.weight": torch.ones(66, 16)}, "expected [64, 16], found [66, 16]"),
    "trained whole and not there": ({"base_model.model.score.weight": torch.ones(2, 16)}, "the base has no such tensor"),
    "not gathered": ({up("lora_A.weight"): torch.ones(0)}, "DeepSpeed ZeRO-3"),
    "of another width": ({up("lora_A.weight"): torch.ones(R, 17)}, "expected [4, 16], found [4, 17]"),
    "of another rank": ({up("lora_A.weight"): torch.ones(3, 16)}, "another rank"),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_does_not_fit_is_refused_in_words(name: str, tmp_path: Path) -> None:
    tensors, words = TENSORS[name]
    base = base_model(tmp_path / "base")
    write_peft(tmp_path / "adapter", base, {"model.layers.0.mlp.up_proj": R}, tensors)
    with pytest.raises((PlanError, SourceError, JobError)) as caught:
        make_plan(peft_job(base, tmp_path / "adapter", tmp_path / "out"))
    assert words in str(caught.value)


def test_an_adapter_on_a_tied_head_is_refused(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    tensors = weights(base)
    write_peft(tmp_path / "adapter", base, {"lm_head": R})
    save_file({name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(PlanError, match="tied to the embedding"):
        make_plan(peft_job(base, tmp_path / "adapter", tmp_path / "out"))


@pytest.mark.parametrize("layout", [{}, {"tensor_parallel_size": 2}], ids=["hf", "mcore"])
def test_the_job_may_not_say_otherwise_than_adapter_config(layout: dict[str, int], tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    write_peft(tmp_path / "adapter", base, {"model.layers.0.mlp.up_proj": R})
    for lora, words in (({"alpha": 32}, "alpha: stated 32"), ({"r": 8}, "r: stated 8"), ({"use_rslora": True}, "use_rslora: stated True")):
        with pytest.raises(JobError) as caught:
            make_plan(peft_job(base, tmp_path / "adapter", tmp_path / "out", lora, **layout))
        assert words in str(caught.value)
    make_plan(peft_job(base, tmp_path / "adapter", tmp_path / "out", {"alpha": 8, "r": R, "use_rslora": False}, **layout))


def test_a_directory_that_is_no_adapter_is_named(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    with pytest.raises(SourceError, match="has no adapter_config"):
        make_plan(peft_job(base, base, tmp_path / "out"))


def test_a_peft_adapter_is_not_exported_as_one(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    write_peft(tmp_path / "adapter", base, {"model.layers.0.mlp.up_proj": R})
    job = peft_job(base, tmp_path / "adapter", tmp_path / "out")
    job["target"] = {"format": "huggingface", "path": str(tmp_path / "out"), "adapter_only": True}
    with pytest.raises(JobError, match="are one already"):
        make_plan(job)


# ------------------------------------------------------------------------------------------------------------- rank files


def tuned(work: Path, layout: dict[str, Any] | None = None, name: str = "ranks", **args: Any) -> Path:
    """Rank files of a tiny Llama with adapters in all of its layers, and these args beside the converter's."""
    base, ranks = work / "base", work / name
    if not base.exists():
        write_llama(base, layers=8)
    target = {"format": "mindspeed-llm", "path": str(ranks), **(layout or {"tensor_parallel_size": 2})}
    convert({"source": {"format": "huggingface", "path": str(base)}, "target": target}, engine="inline")
    assert add_adapters(ranks, R)
    edit(ranks, lambda model: model, **args)
    return ranks


def edit(ranks: Path, change: Callable[[Tensors], Tensors], **args: Any) -> None:
    """Change every model chunk, and add args."""
    for path in ranks.rglob("*.pt"):
        content = torch.load(path, weights_only=False)
        content |= {key: change(value) for key, value in content.items() if key.startswith("model")}
        for field, value in args.items():
            setattr(content["args"], field, value)
        torch.save(content, path)


def back(ranks: Path, target: Path, lora: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
    source = {"format": "mindspeed-llm", "path": str(ranks), **({} if lora is None else {"lora": lora})}
    return {"source": source, "target": {"format": "huggingface", "path": str(target), **options}}


def run(job: dict[str, Any]) -> RunResult:
    return convert(job, engine="inline")


def test_r_and_alpha_are_read_from_the_args_that_training_saved(tmp_path: Path) -> None:
    ranks = tuned(tmp_path, lora_r=R, lora_alpha=8)
    run(back(ranks, tmp_path / "a", {}))
    edit(ranks, lambda model: model, lora_r=None, lora_alpha=None)
    run(back(ranks, tmp_path / "b", {"r": R, "alpha": 8}))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    with pytest.raises(JobError, match=r"neither the job nor .* says the adapters' alpha"):
        make_plan(back(ranks, tmp_path / "c", {"r": R}))


def test_inspect_shows_the_adapters_of_a_whole_checkpoint(tmp_path: Path) -> None:
    about = inspect_checkpoint(str(tuned(tmp_path, lora_r=R, lora_alpha=8)))
    # 4 modules in each of 8 layers, on 2 tensor ranks.
    assert about["lora"] == {"adapters": 64, "r": R, "alpha": 8}
    assert about["complete"] is True


@pytest.mark.parametrize(("stated", "says"), [({"alpha": 32}, "alpha: stated 32, it is 8 in"), ({"r": 8}, "r: stated 8, it is 4 in")])
@pytest.mark.parametrize("export", [False, True], ids=["merged", "exported"])
def test_a_job_that_differs_from_the_args_is_an_error(export: bool, stated: dict[str, Any], says: str, tmp_path: Path) -> None:
    ranks = tuned(tmp_path, lora_r=R, lora_alpha=8)
    with pytest.raises(JobError) as caught:
        make_plan(back(ranks, tmp_path / "a", {"r": R, "alpha": 8, **stated}, adapter_only=export))
    assert any(re.search(says, fact) for fact in caught.value.facts)


def test_args_that_differ_from_the_adapters_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"lora_r of .* is 16; .* another rank"):
        make_plan(back(tuned(tmp_path, lora_r=16, lora_alpha=32), tmp_path / "a", {}))


def test_modules_without_adapters_are_a_note_and_every_adapter_is_used(tmp_path: Path) -> None:
    ranks = tuned(tmp_path, lora_r=R, lora_alpha=8)
    names = ("linear_qkv", "linear_fc1", "in_proj", "linear_q_up_proj")
    result = run(back(ranks, tmp_path / "a", {"target_modules": names}))
    said = [str(note) for note in result.notes]
    assert any(each.startswith("ignored: ") and "names in_proj, linear_q_up_proj" in each for each in said)
    assert any(each.startswith("advice: ") and "adapters of linear_fc2, linear_proj are used too" in each for each in said)
    run(back(ranks, tmp_path / "b", {}))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def apart(together: Path, adapters: Path) -> None:
    """The adapters of rank files in a checkpoint of their own."""
    shutil.copytree(together, adapters)
    edit(together, lambda model: {key.replace(".base_layer.", "."): each for key, each in model.items() if ".lora_" not in key})
    edit(adapters, lambda model: {key: each for key, each in model.items() if ".lora_" in key})


CUTS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "virtual stages and dualpipev": (
        {"pipeline_parallel_size": 2, "schedules_method": "dualpipev"},
        {"pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 2},
        "dualpipev",
    ),
    "another list of layers": (
        {"pipeline_parallel_size": 2, "num_layer_list": [3, 5]},
        {"pipeline_parallel_size": 2, "num_layer_list": [5, 3]},
        "layer_list",
    ),
    "noop layers": ({"pipeline_parallel_size": 2, "noop_layers": [0, 9]}, {"pipeline_parallel_size": 2, "noop_layers": [0, 5]}, "noop"),
    "a stage more": ({"pipeline_parallel_size": 2}, {"pipeline_parallel_size": 4}, "pp"),
    "the same in other words": ({"pipeline_parallel_size": 2}, {"pipeline_parallel_size": 2, "num_layer_list": [4, 4]}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_base_and_adapters_must_be_cut_alike(name: str, tmp_path: Path) -> None:
    base_cut, adapter_cut, fault = CUTS[name]
    base, adapters = tuned(tmp_path, base_cut, "one"), tuned(tmp_path, adapter_cut, "other")
    apart(base, tmp_path / "adapters of the base")
    apart(adapters, tmp_path / "adapters")
    job = back(base, tmp_path / "out", {"path": str(tmp_path / "adapters"), "alpha": 8})
    if fault is None:
        make_plan(job)
        return
    with pytest.raises(SourceError, match="not cut as their base") as caught:
        make_plan(job)
    assert any(fact.startswith(fault) or fault in fact for fact in caught.value.facts)


def test_a_rank_without_its_adapters_is_an_error(tmp_path: Path) -> None:
    base = tuned(tmp_path, {"tensor_parallel_size": 2})
    apart(base, tmp_path / "adapters")
    job = back(base, tmp_path / "out", {"path": str(tmp_path / "adapters"), "alpha": 8})
    make_plan(job)
    (path,) = (tmp_path / "adapters").rglob("mp_rank_01/*.pt")
    content = torch.load(path, weights_only=False)
    content["model"] = {key: each for key, each in content["model"].items() if "layers.3.mlp.linear_fc2" not in key}
    torch.save(content, path)
    with pytest.raises(PlanError, match="only part of the weight has an adapter") as caught:
        make_plan(job)
    assert "mp_rank_01" in caught.value.facts[0]


def test_a_peft_adapter_beside_rank_files_is_called_that(tmp_path: Path) -> None:
    ranks = tuned(tmp_path)
    write_peft(tmp_path / "adapter", tmp_path / "base", {"model.layers.0.mlp.up_proj": R})
    with pytest.raises(SourceError, match="is a PEFT adapter"):
        make_plan(back(ranks, tmp_path / "out", {"path": str(tmp_path / "adapter")}))


def test_adapters_are_not_cut_into_rank_files_for_themselves(tmp_path: Path) -> None:
    job = peft_job(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", tensor_parallel_size=2, adapter_only=True)
    with pytest.raises(JobError) as caught:
        make_plan(job)
    assert "merge them into the base" in str(caught.value)


def test_an_adapter_on_one_of_two_copies_is_refused() -> None:
    """A head that an MTP layer shares, say: merging would make the copies differ."""
    found = Found(0, StoredTensor("x", "F32", (8, 4), 0))
    tensors = [LogicalTensor(name, ("out", "in"), (8, 4)) for name in ("output_layer.weight", "mtp.head.weight")]
    kinds = tuple(Laid(each.name, (8, 4), (Block(each, (0, 0), (8, 4), 0, (4, 1)),)) for each in tensors)
    located = Inventory(kinds, tuple(Located(kind, "", ("", laid.name), found) for kind, laid in enumerate(kinds)))
    sides = (("", "a"), Found(0, StoredTensor("a", "F32", (2, 4), 0))), (("", "b"), Found(0, StoredTensor("b", "F32", (8, 2), 0)))
    adapters = Adapters({("", "output_layer.weight"): Pair(*sides, 2, 1.0)}, 2, 2, False, True)
    assert locate_adapters(located, adapters, {}).sides.entries
    with pytest.raises(PlanError) as caught:
        locate_adapters(located, adapters, {"mtp.head.weight": "output_layer.weight"})
    assert "shares its values with mtp.head.weight" in caught.value.facts[0]


def test_adapters_alone_say_what_they_are(tmp_path: Path) -> None:
    base = tuned(tmp_path)
    apart(base, tmp_path / "adapters")
    for lora in ({"alpha": 8}, None):
        with pytest.raises(SourceError, match="LoRA adapters and not the weights they are for") as caught:
            make_plan(back(tmp_path / "adapters", tmp_path / "out", lora))
        assert "source.lora.path" in str(caught.value)


@pytest.mark.parametrize(("ending", "words"), [("lora_magnitude_vector.default.weight", "DoRA"), ("lora_B.default.bias", "lora_bias")])
def test_rank_files_with_another_kind_of_adapter_are_refused_by_its_name(ending: str, words: str, tmp_path: Path) -> None:
    ranks = tuned(tmp_path)
    module = "decoder.layers.0.mlp.linear_fc2"
    edit(ranks, lambda model: model | {f"{module}.{ending}": torch.ones(16)})
    with pytest.raises(PlanError, match=f"not plain LoRA: {words}"):
        make_plan(back(ranks, tmp_path / "out", {"alpha": 8}))


@pytest.mark.parametrize("module", ["decoder.layers.0.input_layernorm", "embedding.word_embeddings"])
def test_rank_files_with_an_adapter_on_no_linear_layer_are_refused_in_words(module: str, tmp_path: Path) -> None:
    ranks = tuned(tmp_path)

    def adapted(model: Tensors) -> Tensors:
        rows, columns = (*model[f"{module}.weight"].shape, 1)[:2]
        return model | {f"{module}.lora_A.default.weight": torch.ones(R, columns), f"{module}.lora_B.default.weight": torch.ones(rows, R)}

    edit(ranks, adapted)
    with pytest.raises(PlanError, match="no linear layer of its own"):
        make_plan(back(ranks, tmp_path / "out", {"alpha": 8}))


def test_rank_files_saved_with_modules_trained_whole_take_these(tmp_path: Path) -> None:
    ranks = tuned(tmp_path, {"tensor_parallel_size": 1})
    norm = "decoder.final_layernorm"

    def saved(model: Tensors) -> Tensors:
        weight = model.pop(f"{norm}.weight")
        return model | {f"{norm}.original_module.weight": weight, f"{norm}.modules_to_save.default.weight": torch.full_like(weight, 7)}

    edit(ranks, saved)
    result = run(back(ranks, tmp_path / "out", {"alpha": 8}))
    assert weights(tmp_path / "out")["model.norm.weight"].eq(7).all()
    assert any("trained whole" in note.text for note in result.notes)


def test_rslora_is_exported_as_rslora(tmp_path: Path) -> None:
    ranks = tuned(tmp_path)
    run(back(ranks, tmp_path / "adapter", {"alpha": 8, "use_rslora": True}, adapter_only=True))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (R, 8, True)
    # And what was exported merges into the base as the rank files themselves do.
    run(back(ranks, tmp_path / "one", {"alpha": 8, "use_rslora": True}))
    run(peft_job(tmp_path / "base", tmp_path / "adapter", tmp_path / "other"))
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name].float(), tensor.float(), rtol=2**-7) for name, tensor in other.items())
