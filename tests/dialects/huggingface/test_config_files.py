"""The config.json of a Hugging Face target: it follows from the job, describes the weights, and agrees with what they were trained with."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.dialects.huggingface.copied_files import goes_along
from convsvc.errors import ConvsvcError, JobError, PlanError, SourceError
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from tests.families.latent_models import CONFIGS, write_model
from tests.golden.outputs import load_rank_file
from tests.tiny_checkpoints import SIZES, write_llama

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": False, **SIZES,
}  # fmt: skip
RANK_FILE = "iter_0000001/mp_rank_00/model_optim_rng.pt"
# What a training run saves, of the layout that is converted here.
TRAINED: dict[str, Any] = {
    "num_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "group_query_attention": True, "num_query_groups": 2, "kv_channels": 4,
    "ffn_hidden_size": 32, "padded_vocab_size": 64, "untie_embeddings_and_output_weights": True, "norm_epsilon": 1e-6, "swiglu": True,
    "rotary_base": 10000, "rotary_percent": 1.0, "position_embedding_type": "rope", "use_rope_scaling": False,
    "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "expert_model_parallel_size": 1, "max_position_embeddings": 128,
    "bf16": True, "transformer_impl": "local",
}  # fmt: skip


def to_ranks(source: Path, target: Path, **options: Any) -> Path:
    job = {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "mindspeed-llm", "path": str(target)}}
    convert({**job, "options": options}, engine="inline")
    return target


def to_huggingface(source: Path, target: Path, source_format: str = "mindspeed-llm", **more: Any) -> dict[str, Any]:
    """Convert; answers the new config.json."""
    convert(job_to_huggingface(source, target, source_format, **more), engine="inline")
    return dict(json.loads((target / "config.json").read_text()))


def job_to_huggingface(source: Path, target: Path, source_format: str = "mindspeed-llm", **more: Any) -> dict[str, Any]:
    config_dir = more.pop("config_dir", None)
    place = {"format": "huggingface", "path": str(target)} | ({"config_dir": str(config_dir)} if config_dir else {})
    return {"source": {"format": source_format, "path": str(source)}, "target": place, **more}


def names_in(target: Path) -> set[str]:
    return {name for file in target.glob("*.safetensors") for name in load_file(file)}


def notes_of(plan: Plan, kind: str) -> str:
    return "\n".join(note.text for note in plan.notes if note.kind == kind)


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    path = write_llama(tmp_path / "hf")
    configure(path, rms_norm_eps=1e-6, rope_theta=10000.0, torch_dtype="bfloat16")
    return path


@pytest.fixture
def trained(hf: Path, tmp_path: Path) -> Path:
    """Rank files with Megatron's names only, as training saves them."""
    return retrain(to_ranks(hf, tmp_path / "trained"))


def configure(path: Path, **fields: Any) -> None:
    config = json.loads((path / "config.json").read_text()) | fields
    (path / "config.json").write_text(json.dumps(config))


def retrain(path: Path, **args: Any) -> Path:
    return save_args(path, TRAINED | args)


def save_args(path: Path, args: dict[str, Any]) -> Path:
    content = load_rank_file(path / RANK_FILE)
    # Out of the file, which is mapped.
    model = {name: tensor.clone() for name, tensor in content["model"].items()}
    torch.save({**content, "model": model, "args": Namespace(**args)}, path / RANK_FILE)
    return path


def another(path: Path, **fields: Any) -> Path:
    """A directory with nothing but a configuration."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(LLAMA | {"rms_norm_eps": 1e-6, "rope_theta": 10000.0} | fields))
    return path


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        pytest.param({"hidden_size": 4096, "num_hidden_layers": 80}, "hidden_size: config.json says 4096, the weights have 16", id="width"),
        pytest.param({"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}, "num_attention_heads: config", id="2 heads"),
        pytest.param({"attention_bias": True}, "missing   model.layers.0.self_attn.q_proj.bias", id="biases"),
        pytest.param({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, "self_attn.q_norm.weight", id="another family"),
        pytest.param({"intermediate_size": 48}, "intermediate_size: config.json says 48", id="feed-forward"),
    ],
)  # fmt: skip
def test_a_configuration_of_another_model_is_refused_with_both_values(
    fields: dict[str, Any], told: str, trained: Path, tmp_path: Path
) -> None:
    config_dir = another(tmp_path / "other", **fields)
    with pytest.raises(PlanError, match="does not describe the weights") as refusal:
        make_plan({**job_to_huggingface(trained, tmp_path / "out", config_dir=config_dir), "model_type": "llama2"})
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("args", "fields", "told"),
    [
        ({"rotary_base": 1_000_000}, {}, "rotary_base 1000000"),
        ({"norm_epsilon": 1e-5}, {}, "norm_epsilon 1e-05"),
        ({"rotary_percent": 0.5}, {}, "rotary_percent 0.5"),
        ({"apply_layernorm_1p": True}, {}, "apply_layernorm_1p True"),
        ({"rotary_interleaved": True}, {}, "rotary_interleaved True"),
        ({}, {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope_theta 500000.0"),
    ],
)
def test_what_training_computed_with_and_a_configuration_must_agree(
    args: dict[str, Any], fields: dict[str, Any], told: str, hf: Path, trained: Path, tmp_path: Path
) -> None:
    retrain(trained, **args)
    configure(hf, **fields)
    with pytest.raises(JobError, match="contradicts the source") as refusal:
        make_plan({**job_to_huggingface(trained, tmp_path / "out", config_dir=hf), "model_type": "llama2"})
    assert told in str(refusal.value)


def test_args_that_contradict_themselves_are_refused_whatever_they_become(hf: Path, tmp_path: Path) -> None:
    ranks = to_ranks(hf, tmp_path / "ranks")
    save_args(ranks, vars(load_rank_file(ranks / RANK_FILE)["args"]) | {"rotary_base": 500000})
    with pytest.raises(SourceError, match="contradict themselves") as refusal:
        make_plan(
            {
                "source": {"format": "mindspeed-llm", "path": str(ranks)},
                "target": {"format": "mindspeed-llm", "path": str(tmp_path / "out")},
            }
        )
    assert "rope_theta 10000.0, rotary_base 500000" in str(refusal.value)


def test_a_head_of_its_own_unties_the_configuration(hf: Path, trained: Path, tmp_path: Path) -> None:
    configure(hf, tie_word_embeddings=True)
    plan = make_plan({**job_to_huggingface(trained, tmp_path / "out", config_dir=hf), "model_type": "llama2"})
    assert "tie_word_embeddings True -> False" in notes_of(plan, "changed")
    config = to_huggingface(trained, tmp_path / "out", config_dir=hf, model_type="llama2")
    assert config["tie_word_embeddings"] is False
    assert "lm_head.weight" in names_in(tmp_path / "out")


def test_the_configuration_says_how_many_rows_of_a_padded_vocabulary_are_words(hf: Path, tmp_path: Path) -> None:
    tensors = load_file(hf / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name][50:] = 0
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    trained = retrain(to_ranks(hf, tmp_path / "trained"))
    config = to_huggingface(trained, tmp_path / "out", config_dir=another(tmp_path / "base", vocab_size=50), model_type="llama2")
    assert config["vocab_size"] == 50
    assert len(load_file(next((tmp_path / "out").glob("*00001-of*")))["model.embed_tokens.weight"]) == 50


def test_a_vocabulary_that_the_source_says_is_written_into_the_configuration(hf: Path, tmp_path: Path) -> None:
    config = to_huggingface(to_ranks(hf, tmp_path / "ranks"), tmp_path / "out", config_dir=another(tmp_path / "base", vocab_size=50))
    assert config["vocab_size"] == 64


def test_a_cast_is_in_the_configuration_and_in_saved_args(hf: Path, tmp_path: Path) -> None:
    ranks = to_ranks(hf, tmp_path / "ranks", dtype="fp32")
    assert load_rank_file(ranks / RANK_FILE)["args"].torch_dtype == "float32"
    assert to_huggingface(ranks, tmp_path / "out", config_dir=hf)["torch_dtype"] == "float32"
    assert to_huggingface(ranks, tmp_path / "half", config_dir=hf, options={"dtype": "fp16"})["torch_dtype"] == "float16"


def test_saved_args_do_not_hold_an_epsilon_that_nothing_says(tmp_path: Path) -> None:
    ranks = to_ranks(write_llama(tmp_path / "silent"), tmp_path / "ranks")
    assert not {"norm_epsilon", "rotary_base"} & set(vars(load_rank_file(ranks / RANK_FILE)["args"]))


def test_without_a_configuration_one_is_derived_and_what_nothing_says_is_told(hf: Path, trained: Path, tmp_path: Path) -> None:
    job = {**job_to_huggingface(trained, tmp_path / "out"), "model_type": "llama2"}
    plan = make_plan(job)
    assert "config.json is derived" in notes_of(plan, "filled")
    convert(job, engine="inline")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    wanted = json.loads((hf / "config.json").read_text()) | {"head_dim": 4, "hidden_act": "silu", "max_position_embeddings": 128}
    wanted |= {"attention_bias": False, "mlp_bias": False}
    assert config == wanted
    retrain(trained, norm_epsilon=None)
    assert "nothing says rms_norm_eps" in notes_of(make_plan({**job, "options": {"on_exists": "overwrite"}}), "advice")


def test_between_hugging_face_directories_the_sources_own_files_go_along(hf: Path, tmp_path: Path) -> None:
    (hf / "generation_config.json").write_text("{}")
    assert to_huggingface(hf, tmp_path / "out", "huggingface") == json.loads((hf / "config.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"config.json", "generation_config.json"}
    with pytest.raises(JobError, match="contradicts the source"):
        make_plan(job_to_huggingface(hf, tmp_path / "two", "huggingface", config_dir=another(tmp_path / "other", rope_theta=5e5)))


def test_what_is_not_about_plain_full_weights_is_not_copied_beside_them(hf: Path, tmp_path: Path) -> None:
    foreign = [
        "adapter_config.json",
        "hf_quant_config.json",
        "quantize_config.json",
        "trainer_state.json",
        "optimizer.pt",
        "all_results.json",
    ]
    for name in foreign:
        (hf / name).write_text("{}")
    plan = make_plan(job_to_huggingface(hf, tmp_path / "out", "huggingface"))
    assert not {file.path for file in plan.side_files} & set(foreign)
    assert all(name in notes_of(plan, "ignored") for name in foreign)


@pytest.mark.parametrize(
    ("name", "goes"),
    [
        ("tokenizer.json", True), ("tokenizer.model", True), ("chat_template.jinja", True), ("modeling_x.py", True), ("LICENSE", True),
        ("adapter_model.safetensors.index.json", False), ("pytorch_model.bin.index.json", False), ("training_args.bin", False),
        ("quantization_config.json", False), ("tokenizer.bin", False),
    ],
)  # fmt: skip
def test_a_files_name_says_whether_it_goes_along(name: str, goes: bool) -> None:
    assert goes_along(name) is goes


REDUCED = {"num_layers": 3, "first_k_dense_replace": 1}
# Three dense layers, of which one stays: the source's layers 0, 3 and 4.
DENSE_FIRST = CONFIGS["deepseek3"] | {
    "num_hidden_layers": 5, "first_k_dense_replace": 3, "num_nextn_predict_layers": 0, "n_group": 1, "topk_group": 1, "rope_theta": 10000.0,
}  # fmt: skip


@pytest.mark.parametrize("way", ["huggingface", "and back, with the original's configuration", "and back, with none"])
def test_a_reduced_model_counts_its_layers_from_0_and_its_configuration_says_so(way: str, tmp_path: Path) -> None:
    tensors = write_model("deepseek3", tmp_path / "hf", DENSE_FIRST)
    if way == "huggingface":
        config = to_huggingface(tmp_path / "hf", tmp_path / "out", "huggingface", options=REDUCED)
    else:
        to_ranks(tmp_path / "hf", tmp_path / "ranks", **REDUCED)
        config = to_huggingface(tmp_path / "ranks", tmp_path / "out", **({"config_dir": tmp_path / "hf"} if "original" in way else {}))
    assert (config["num_hidden_layers"], config["first_k_dense_replace"]) == (3, 1)
    assert {name.split(".")[2] for name in names_in(tmp_path / "out") if ".layers." in name} == {"0", "1", "2"}
    written = {name: tensor for file in (tmp_path / "out").glob("*.safetensors") for name, tensor in load_file(file).items()}
    for new, old in enumerate((0, 3, 4)):
        assert torch.equal(written[f"model.layers.{new}.self_attn.o_proj.weight"], tensors[f"model.layers.{old}.self_attn.o_proj.weight"])


def test_mtp_layers_move_up_with_the_others(tmp_path: Path) -> None:
    write_model("deepseek3", tmp_path / "hf", DENSE_FIRST | {"num_nextn_predict_layers": 1})
    config = to_huggingface(tmp_path / "hf", tmp_path / "out", "huggingface", options=REDUCED)
    assert config["num_nextn_predict_layers"] == 1
    assert "model.layers.3.eh_proj.weight" in names_in(tmp_path / "out")


def test_lists_of_layers_are_those_of_the_layers_that_stay(tmp_path: Path) -> None:
    lists = {"indexer_types": ["full", "full", "full", "shared", "full"], "num_hidden_layers": 5, "first_k_dense_replace": 3}
    write_model("glm5", tmp_path / "hf", CONFIGS["glm5"] | lists | {"num_nextn_predict_layers": 0})
    for job in (
        job_to_huggingface(tmp_path / "hf", tmp_path / "out", "huggingface", options=REDUCED),
        job_to_huggingface(to_ranks(tmp_path / "hf", tmp_path / "ranks", **REDUCED), tmp_path / "out", config_dir=tmp_path / "hf"),
    ):
        plan = make_plan(job)
        (text,) = [file.text for file in plan.side_files if file.path == "config.json"]
        assert json.loads(text or "")["indexer_types"] == ["full", "shared", "full"]


def test_a_configuration_that_cannot_be_read_as_one_is_named(trained: Path, tmp_path: Path) -> None:
    config_dir = another(tmp_path / "odd", num_attention_heads=5)
    with pytest.raises(ConvsvcError, match=r"odd/config\.json is not the configuration of a llama2 model"):
        make_plan({**job_to_huggingface(trained, tmp_path / "out", config_dir=config_dir), "model_type": "llama2"})


def test_a_reduced_model_s_list_of_layers_does_not_contradict_the_configuration_of_all(tmp_path: Path) -> None:
    """The list that came with the weights is the one that is written."""
    source = write_llama(tmp_path / "hf", layers=4)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]}))
    ranks = to_ranks(source, tmp_path / "ranks", num_layers=3)
    config = to_huggingface(ranks, tmp_path / "out", config_dir=source)
    assert (config["num_hidden_layers"], config["layer_types"]) == (3, ["full_attention"] * 3)
