"""The drop-ins for MindSpore Transformers' converters: flags become the right job, or one clear line; and what they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convsvc.cli.mindformers import job_of, main
from convsvc.spec import parse_job
from tests.dialects.mindformers.made import Tensors, make_llama, rewrite, run, same, whole_tensors
from tests.golden.outputs import read_megatron

GUIDE_UNIFY = """
    --mindspore_ckpt_dir output/checkpoint --src_strategy_dirs output/strategy --output_dir unified_trained_qwen3_60b_moe_ckpt
    --file_suffix 1000_1 --filter_out_param_prefix adam_ --has_redundancy False
"""
GUIDE_REVERSE = """
    --model qwen3 --reversed --input_path unified/unified_safe --output_path hf --num_layers 28 --num_attention_heads 16
    --num_query_groups 8 --kv_channels 128 --ffn_hidden_size 3072 --dtype bf16 --max_worker 16
"""
GUIDE_MEGATRON = """
    --model-type GPT --loader core_mf --saver core --target-tensor-parallel-size 2 --target-pipeline-parallel-size 1 --load-dir in
    --save-dir out --ms2torch-ckpt-path middle --num-layers 2 --seq-length 32 --padded-vocab-size 64 --true-vocab-size 64
    --hidden-size 16 --ffn-hidden-size 32 --num-attention-heads 4 --num-query-groups 2 --position-embedding-type rope
    --loader-transformer-impl local --normalization RMSNorm --swiglu
"""


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("mindformers: error: ")
    return lines[0]


def test_the_guides_unify_is_a_job_of_tensors() -> None:
    job = job_of(["unify", *GUIDE_UNIFY.split()])
    assert job == {
        "model_type": "tensors",
        "source": {
            "format": "mindformers",
            "path": "output/checkpoint",
            "strategy_path": "output/strategy",
            "file_suffix": "1000_1",
            "has_redundancy": False,
            "leave_out_prefix": "adam_",
        },
        "target": {"format": "mindformers", "path": "unified_trained_qwen3_60b_moe_ckpt/unified_safe"},
        "options": {"on_exists": "overwrite"},
    }
    assert parse_job(job)


def test_the_guides_reverse_states_the_sizes() -> None:
    job = job_of(["reverse", *GUIDE_REVERSE.split()])
    sizes = {"num_layers": 28, "num_attention_heads": 16, "num_query_groups": 8, "kv_channels": 128, "ffn_hidden_size": 3072}
    assert job["model_type"] == "qwen3"
    assert job["source"] == {"format": "mindformers", "path": "unified/unified_safe", "architecture": sizes}
    assert job["target"] == {"format": "huggingface", "path": "hf"}
    assert job["options"]["dtype"] == "bf16"
    assert parse_job(job)


def test_pairs_may_be_written_with_a_space_or_an_equals_sign_and_reversed_with_or_without_true() -> None:
    words = GUIDE_REVERSE.split()
    pairs = [f"{name}={value}" for name, value in zip(words[3::2], words[4::2], strict=True)]
    want = job_of(["reverse", *words])
    assert job_of(["reverse", *words[:3], *pairs]) == want
    for truth in (["--reversed", "True"], ["--reversed=True"], ["--reversed", "true"]):
        assert job_of(["reverse", *words[:2], *truth, *words[3:]]) == want
    for neither in ([], ["--reversed", "False"]):
        job = job_of(["reverse", *words[:2], *neither, *words[3:]])
        assert (job["source"], job["target"]["format"]) == ({"format": "huggingface", "path": "unified/unified_safe"}, "mindformers")


def test_the_guides_to_megatron_is_a_job_with_its_sizes() -> None:
    job = job_of(["to-megatron", *GUIDE_MEGATRON.split()])
    assert job["source"]["architecture"]["num_query_groups"] == 2
    assert (job["target"]["tensor_parallel_size"], job["target"]["make_vocab_size_divisible_by"]) == (2, 128)
    assert job["options"] == {"dtype": "bf16", "on_overflow": "note", "vocab_size": 64}
    assert parse_job(job)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "there are unify, reverse, to-megatron"),
        (["merge"], "'merge'"),
        (["unify", "--output_dir", "o"], "--mindspore_ckpt_dir"),
        (["unify", *GUIDE_UNIFY.split(), "--has_redundancy", "maybe"], "neither True nor False"),
        (["unify", *GUIDE_UNIFY.split(), "--format", "ckpt"], "'ckpt'"),
        (["unify", *GUIDE_UNIFY.split(), "--max_process_num", "0"], "at least 1"),
        (["reverse", *GUIDE_REVERSE.split(), "--num_head", "4"], "--num_head: there is no such size"),
        (["reverse", *GUIDE_REVERSE.split(), "--num_layers", "many"], "--num_layers"),
        (["reverse", *GUIDE_REVERSE.split(), "--num_layers"], "not --key value"),
        (["reverse", *GUIDE_REVERSE.split(), "--dtype", "int8"], "'int8'"),
        (["reverse", *GUIDE_REVERSE.split(), "--model", "nomodel"], "nomodel"),
        (["to-megatron", *GUIDE_MEGATRON.split(), "--position-embedding-type", "learned_absolute"], "learned_absolute"),
        (["to-megatron", *GUIDE_MEGATRON.split(), "--normalization", "LayerNorm"], "LayerNorm"),
        (["to-megatron", *GUIDE_MEGATRON.split(), "--saver", "llama"], "'llama'"),
        (["to-megatron", *GUIDE_MEGATRON.split(), "--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not argv:
        assert main(argv) == 0
        assert "convsvc mindformers unify" in capsys.readouterr().out
    else:
        assert says in refusal(argv, capsys)


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, Tensors]:
    return make_llama(tmp_path)


SIZES = ["--num_layers", "2", "--num_attention_heads", "4", "--num_query_groups", "2", "--kv_channels", "4", "--ffn_hidden_size", "32"]


def reverse(source: Path, target: Path, *more: str) -> list[str]:
    return ["reverse", "--model", "llama", "--reversed", "--input_path", str(source), "--output_path", str(target), *SIZES, *more]


def test_reverse_gives_hugging_faces_tensors_and_reverse_without_reversed_gives_them_back(
    whole: tuple[Path, Tensors], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, tensors = whole
    assert main(reverse(folder, tmp_path / "out")) == 0
    assert same(tensors, whole_tensors(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"].keys() == tensors.keys()
    there = ["reverse", "--model", "llama", "--input_path", str(tmp_path / "out"), "--output_path", str(tmp_path / "again"), *SIZES]
    assert main(there) == 0
    assert same(whole_tensors(folder), whole_tensors(tmp_path / "again"))
    assert (tmp_path / "again" / "param_name_map.json").is_file()
    said = refusal([*there[:-10], "--num_layers", "3"], capsys)
    assert "--num_layers 3" in said
    assert "says num_hidden_layers 2" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_layers", "1"), ("num_query_groups", "4"), ("kv_channels", "2"), ("ffn_hidden_size", "16"), ("hidden_size", "8")],
)
def test_numbers_that_contradict_the_checkpoint_are_refused(
    whole: tuple[Path, Tensors], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    (whole[0] / "config.json").unlink()
    said = refusal(reverse(whole[0], tmp_path / "out", f"--{name}", value), capsys)
    assert not (tmp_path / "out").exists()
    assert name in said or "num_attention_heads" in said


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path, Tensors]:
    """What training wrote of a Llama over tp 2, dp 2, redundancy removed: step 1000_1 and an older one, with Adam's moments."""
    folder, tensors = make_llama(tmp_path, tensor_parallel_size=2, data_parallel_size=2, remove_redundancy=True)
    for rank in range(4):
        first = next((folder / "checkpoint" / f"rank_{rank}").glob("*.safetensors"))
        held = load_file(first)
        moments = {f"{moment}.{name}": torch.rand(tensor.shape) for name, tensor in held.items() for moment in ("adam_m", "adam_v")}
        new = first.with_name(first.name.replace("-1_1.", "-1000_1."))
        new.write_bytes(first.read_bytes())
        rewrite(new, {**moments, "global_step": torch.tensor([1000])}, {"format": "ms", "remove_redundancy": "True"})
        rewrite(first, {name: tensor * 0 for name, tensor in held.items()}, {"format": "ms", "remove_redundancy": "True"})
    return folder / "checkpoint", folder / "strategy", tensors


def test_unify_as_in_the_guide_joins_the_weights_and_may_be_run_again(trained: tuple[Path, Path, Tensors], tmp_path: Path) -> None:
    checkpoint, strategy, tensors = trained
    argv = ["unify", "--mindspore_ckpt_dir", str(checkpoint), "--src_strategy_dirs", str(strategy), "--output_dir", str(tmp_path / "uni")]
    argv += ["--file_suffix", "1000_1", "--filter_out_param_prefix", "adam_", "--has_redundancy", "False"]
    for _ in range(2):
        assert main(argv) == 0
        have = whole_tensors(tmp_path / "uni" / "unified_safe")
        assert len(have) == len(tensors) - 2 * 3
        assert not [name for name in have if name.startswith("adam_") or name == "global_step"]
    assert main(reverse(tmp_path / "uni" / "unified_safe", tmp_path / "hf2")) == 0
    assert same(tensors, whole_tensors(tmp_path / "hf2"))


def test_to_megatron_says_that_no_intermediate_is_written_and_writes_none(
    whole: tuple[Path, Tensors], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["to-megatron", *GUIDE_MEGATRON.split(), "--load-dir", str(whole[0]), "--save-dir", str(tmp_path / "mg")]
    argv += ["--ms2torch-ckpt-path", str(tmp_path / "middle")]
    assert main(argv) == 0
    assert f"nothing is written at --ms2torch-ckpt-path {tmp_path / 'middle'}" in capsys.readouterr().err
    assert not (tmp_path / "middle").exists()
    assert set(read_megatron(tmp_path / "mg").ranks) == {"mp_rank_00", "mp_rank_01"}
    said = refusal([*argv[:-4], "--save-dir", str(tmp_path / "other"), "--num-query-groups", "4"], capsys)
    assert "num_query_groups" in said


def test_each_command_lets_the_service_work(trained: tuple[Path, Path, Tensors], service_url: str, tmp_path: Path) -> None:
    checkpoint, strategy, tensors = trained
    submit = ["--submit", service_url]
    unify = ["unify", "--mindspore_ckpt_dir", str(checkpoint), "--src_strategy_dirs", str(strategy), "--output_dir", str(tmp_path / "uni")]
    assert main([*unify, "--file_suffix", "1000_1", "--filter_out_param_prefix", "adam_", "--has_redundancy", "False", *submit]) == 0
    unified = tmp_path / "uni" / "unified_safe"
    assert main(reverse(unified, tmp_path / "back", *submit)) == 0
    assert same(tensors, whole_tensors(tmp_path / "back"))
    megatron = ["to-megatron", *GUIDE_MEGATRON.split(), "--load-dir", str(unified), "--save-dir", str(tmp_path / "mg"), *submit]
    assert main(megatron) == 0
    assert (tmp_path / "mg" / "latest_checkpointed_iteration.txt").exists()


def test_to_megatron_is_what_the_same_weights_from_hugging_face_become(whole: tuple[Path, Tensors], tmp_path: Path) -> None:
    argv = ["to-megatron", *GUIDE_MEGATRON.split(), "--load-dir", str(whole[0]), "--save-dir", str(tmp_path / "mg")]
    assert main(argv) == 0
    run(
        {"format": "huggingface", "path": str(tmp_path / "hf")},
        {"format": "mindspeed-llm", "path": str(tmp_path / "direct"), "tensor_parallel_size": 2, "make_vocab_size_divisible_by": 128},
    )
    want, have = read_megatron(tmp_path / "direct"), read_megatron(tmp_path / "mg")
    assert want.tensors == have.tensors
