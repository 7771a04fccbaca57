"""Whose rank files lie in a directory, where nobody says it: Megatron-LM's and MindSpeed-LLM's have one form of directory."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import convsvc
from convsvc.conversion import convert
from convsvc.dialects.mcore.whose import whose
from convsvc.dialects.megatron.rank_tables import RANK_FILES
from convsvc.dialects.mindspeed_llm.tables import TABLES
from convsvc.errors import ConvsvcError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan
from convsvc.roots import RootedPath
from tests.dialects.dcp.made import in_safetensors, same
from tests.dialects.megatron.test_integrity import write_model
from tests.dialects.megatron.test_megatron import MLA, MOE
from tests.golden.corpus import cases, manifest
from tests.golden.megatron_inputs import write_megatron
from tests.tiny_checkpoints import write_llama

DENSE = MOE | {"model_type": "qwen3", "num_experts": 0}
NEXT = MOE | {
    "model_type": "qwen3_next", "num_hidden_layers": 4, "full_attention_interval": 4, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 4, "linear_value_head_dim": 4, "linear_conv_kernel_dim": 4,
    "shared_expert_intermediate_size": 4,
    "num_nextn_predict_layers": 0,
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "dense": (DENSE, "qwen3"),
    "experts": (MOE, "qwen3-moe"),
    "latent": (MLA, "deepseek3"),
    "delta nets": (NEXT, "qwen3-next"),
}
NVIDIA: dict[str, dict[str, Any]] = {
    "transformer engine": {"format": "megatron", "storage": "torch"},
    "local": {"format": "megatron", "storage": "torch", "transformer_impl": "local"},
    "grouped": {"format": "megatron", "storage": "torch", "moe_grouped_gemm": True},
    "with mtp": {"format": "megatron", "storage": "torch", "mtp_num_layers": 1, "pipeline_parallel_size": 2},
}
MINDSPEED: dict[str, dict[str, Any]] = {
    "local": {"format": "mindspeed-llm"},
    "transformer engine": {"format": "mindspeed-llm", "transformer_impl": "transformer_engine"},
    "grouped": {"format": "mindspeed-llm", "moe_grouped_gemm": True, "transformer_impl": "transformer_engine"},
    "with mtp": {"format": "mindspeed-llm", "mtp_num_layers": 1, "pipeline_parallel_size": 2},
}


def has_place(kind: str, form: str, of: str) -> bool:
    """Delta nets are Transformer Engine's alone in Megatron-LM; MTP layers are deepseek3's here, grouped experts qwen3-moe's."""
    if form in ("with mtp", "grouped"):
        return kind == ("latent" if form == "with mtp" else "experts")
    return not (kind == "delta nets" and form == "local" and of == "megatron")


FORMS = [
    pytest.param(kind, target, id=f"{kind}, {target['format']}, {form}")
    for kind in KINDS
    for forms in (NVIDIA, MINDSPEED)
    for form, target in forms.items()
    if has_place(kind, form, target["format"])
]


def written(kind: str, target: dict[str, Any], root: Path) -> Path:
    config, family = KINDS[kind]
    write_model(config, family, root / "hf")
    source = {"format": "huggingface", "path": str(root / "hf")}
    convert({"source": source, "target": {**target, "path": str(root / "ranks")}}, engine="inline")
    return root / "ranks"


def advised(said: dict[str, Any]) -> list[str]:
    return [note["text"] for note in said["notes"] if "these rank files are read as" in note["text"]]


def with_args(root: Path, names: Iterable[str] | None) -> None:
    """Every file with so many of its args, as somebody else saves them; with none at all for None."""
    for path in root.rglob("model_optim_rng.pt"):
        content = torch.load(path, weights_only=False)
        if names is None:
            del content["args"]
        else:
            kept = {name: value for name, value in vars(content["args"]).items() if name in names}
            content["args"] = Namespace(**kept)
        torch.save(content, path)


# What Megatron-LM reads back with --use-checkpoint-args; all frameworks on it save these.
PLAIN = (
    "num_layers", "hidden_size", "ffn_hidden_size", "moe_ffn_hidden_size", "num_attention_heads", "num_query_groups",
    "group_query_attention", "kv_channels", "num_experts", "moe_router_topk", "padded_vocab_size",
    "tensor_model_parallel_size", "pipeline_model_parallel_size",
    "kv_lora_rank", "q_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim", "moe_layer_freq", "mtp_num_layers",
    "moe_shared_expert_intermediate_size", "untie_embeddings_and_output_weights", "multi_latent_attention",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "target"), FORMS)
def test_what_one_of_the_two_has_written_is_seen_as_its_own(kind: str, target: dict[str, Any], tmp_path: Path) -> None:
    ranks = written(kind, target, tmp_path)
    said = inspect_checkpoint(str(ranks))
    assert (said["format"], said.get("storage")) == (target["format"], target.get("storage"))
    assert said["complete"], said
    assert not advised(said)
    answer = convsvc.compare(str(ranks), str(tmp_path / "hf"))
    if kind != "delta nets":  # whose norm less 1 bf16 does not hold for weights near 0
        assert answer["same"], answer
    assert not answer["only_a"], answer
    assert not answer["only_b"], answer


@pytest.mark.parametrize(
    ("kind", "form", "sure"),
    [("dense", "transformer engine", False), ("experts", "grouped", False), ("latent", "local", True)],
)
@pytest.mark.parametrize("args", [PLAIN, None], ids=["args of both", "no args"])
def test_transformer_engines_names_are_nvidias_where_no_argument_says_otherwise(
    kind: str, form: str, sure: bool, args: tuple[str, ...] | None, tmp_path: Path
) -> None:
    """Where both would read it, the choice is told, and how to say the other."""
    ranks = written(kind, NVIDIA[form], tmp_path)
    with_args(ranks, args)
    found = whose(RootedPath(str(ranks)), RANK_FILES, TABLES)
    assert found is not None
    assert (found.megatron, found.reason is not None) == (True, sure)
    if args is not None:
        said = inspect_checkpoint(str(ranks), model_type=KINDS[kind][1])
        assert (said["format"], said["storage"]) == ("megatron", "torch")
        assert ["source.format mindspeed-llm" in text for text in advised(said)] == [True] * (not sure)


def test_names_of_megatrons_own_modules_without_a_word_are_mindspeeds_and_that_is_told(tmp_path: Path) -> None:
    ranks = written("dense", NVIDIA["local"], tmp_path)
    with_args(ranks, PLAIN)
    said = inspect_checkpoint(str(ranks), model_type="qwen3")
    assert said["format"] == "mindspeed-llm"
    assert ['source.format megatron with source.storage "torch"' in text for text in advised(said)] == [True]


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_rank_files_laid_out_anew_are_of_the_targets_framework(kind: str, tmp_path: Path) -> None:
    """The args that one framework alone has do not come along."""
    place = written(kind, MINDSPEED["transformer engine"], tmp_path)
    for number, target in enumerate((NVIDIA["transformer engine"], MINDSPEED["local"], NVIDIA["local"])):
        source = {name: value for name, value in inspect_checkpoint(str(place)).items() if name in ("format", "storage", "path")}
        convert({"source": source, "target": {**target, "path": str(tmp_path / str(number))}}, engine="inline")
        place = tmp_path / str(number)
        assert inspect_checkpoint(str(place))["format"] == target["format"]
    source = {"format": "megatron", "storage": "torch", "path": str(place)}
    convert({"source": source, "target": {"format": "huggingface", "path": str(tmp_path / "back")}}, engine="inline")
    assert same(in_safetensors(tmp_path / "hf"), in_safetensors(tmp_path / "back"))


def test_every_checkpoint_of_mindspeeds_own_converter_is_its_own(tmp_path: Path) -> None:
    """The corpus' of Transformer Engine's names, and one of every family."""
    chosen = {case.id: case for case in cases() if case.direction == "hf2mg" and "transformer-impl" in case.args}
    for case in cases():
        if case.direction == "hf2mg" and not any(each.family == case.family for each in chosen.values()):
            chosen[case.id] = case
    told = 0
    for name in chosen:
        try:
            found = manifest(name)
        except KeyError:  # the converter refused the case
            continue
        if "args" not in found:  # mamba2's alone
            continue
        write_megatron(found, {}, tmp_path / name, tmp_path / "lora")
        owner = whose(RootedPath(str(tmp_path / name)), RANK_FILES, TABLES)
        assert owner is not None, name
        assert (owner.megatron, owner.reason is None) == (False, False), name
        told += 1
    assert told > 20


def test_mtp_layers_may_be_called_as_newer_cores_call_them(tmp_path: Path) -> None:
    """Core 0.19's module is mtp_model_layer, in rank files without the old name that its global keys keep."""
    ranks = written("latent", NVIDIA["with mtp"], tmp_path)
    renamed = 0
    for path in ranks.rglob("model_optim_rng.pt"):
        content = torch.load(path, weights_only=False)
        names = {name: name.replace(".transformer_layer.", ".mtp_model_layer.") for name in content["model"]}
        renamed += sum(name != new for name, new in names.items())
        content["model"] = {names[name]: tensor for name, tensor in content["model"].items()}
        torch.save(content, path)
    assert renamed
    said = inspect_checkpoint(str(ranks))
    assert (said["format"], said["complete"]) == ("megatron", True), said
    answer = convsvc.compare(str(ranks), str(tmp_path / "hf"))
    assert answer["same"], answer


def test_a_file_that_is_damaged_or_of_neither_is_nobodys(tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000001" / "mp_rank_00"
    folder.mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("1")
    (folder / "model_optim_rng.pt").write_bytes(b"no torch file")
    assert whose(RootedPath(str(tmp_path)), RANK_FILES, TABLES) is None
    torch.save(
        {"model": {"encoder.blocks.0.weight": torch.zeros(2)}, "args": Namespace(ckpt_format="torch")}, folder / "model_optim_rng.pt"
    )
    assert whose(RootedPath(str(tmp_path)), RANK_FILES, TABLES) is None


def test_rank_files_in_a_mistaken_format_are_told_of_both(tmp_path: Path) -> None:
    write_llama(tmp_path / "hf")
    target = {"format": "megatron", "storage": "torch", "path": str(tmp_path / "ranks")}
    convert({"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": target}, engine="inline")
    with pytest.raises(ConvsvcError) as raised:
        make_plan({"source": {"format": "megatron", "path": str(tmp_path / "ranks")}, "target": target | {"path": str(tmp_path / "other")}})
    assert re.search(r'"mindspeed-llm", "megatron" with source.storage "torch"', str(raised.value))
