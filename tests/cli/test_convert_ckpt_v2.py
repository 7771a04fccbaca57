"""The drop-in's flags become the right job, or one clear line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from convsvc.cli.convert_ckpt_v2 import MODEL_TYPES, job_of, main
from convsvc.errors import JobError
from convsvc.spec import parse_job

THERE = [
    "--load-model-type",
    "hf",
    "--save-model-type",
    "mg",
    "--load-dir",
    "/in",
    "--save-dir",
    "/out",
    "--model-type-hf",
    "qwen3-moe",
]
BACK = [
    "--load-model-type",
    "mg",
    "--save-model-type",
    "hf",
    "--load-dir",
    "/in",
    "--save-dir",
    "/out",
    "--model-type-hf",
    "qwen3-moe",
]
RESHARD = ["--load-model-type", "mg", "--save-model-type", "mg", "--load-dir", "/in", "--save-dir", "/out"]


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


EVERY_LAYOUT_FLAG = """
    --target-tensor-parallel-size 2 --target-pipeline-parallel-size 4 --target-expert-parallel-size 8
    --expert-tensor-parallel-size 1 --num-layers-per-virtual-pipeline-stage 3 --noop-layers 0,7 --moe-grouped-gemm
    --moe-tp-extend-ep --mla-mm-split --mtp-num-layers 1 --transformer-impl transformer_engine --save-layer-by-layer
    --num-layers 6 --first-k-dense-replace 0
"""


def test_every_layout_flag_reaches_the_target() -> None:
    job = job_of(THERE + EVERY_LAYOUT_FLAG.split())
    assert job == {
        "model_type": "qwen3-moe",
        "source": {"format": "huggingface", "path": "/in"},
        "target": {
            "format": "mindspeed-llm",
            "path": "/out",
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 4,
            "expert_parallel_size": 8,
            "expert_tensor_parallel_size": 1,
            "num_layers_per_virtual_pipeline_stage": 3,
            "noop_layers": [0, 7],
            "moe_grouped_gemm": True,
            "moe_tp_extend_ep": True,
            "mla_mm_split": True,
            "mtp_num_layers": 1,
            "transformer_impl": "transformer_engine",
        },
        "options": {"num_layers": 6, "first_k_dense_replace": 0, "on_loss": "note"},
    }
    assert parse_job(job).target.format == "mindspeed-llm"


def test_lists_and_schedules_are_read_as_the_source_tool_writes_them() -> None:
    target = job_of([*THERE, "--num-layer-list", "1,3,2,2", "--schedules-method", "dualpipev"])["target"]
    assert (target["num_layer_list"], target["schedules_method"]) == ([1, 3, 2, 2], "dualpipev")


def test_on_the_way_back_sizes_have_no_effect() -> None:
    sizes = "--target-tensor-parallel-size 4 --target-pipeline-parallel-size 8 --expert-tensor-parallel-size 1 --num-layers 2"
    assert job_of(BACK + sizes.split() + ["--first-k-dense-replace", "1", "--num-layer-list", "1,1"]) == job_of(BACK)


def test_on_the_way_back_conventions_are_stated_of_the_source() -> None:
    job = job_of([*BACK, "--moe-grouped-gemm", "--noop-layers", "6,7", "--mtp-num-layers", "1", "--schedules-method", "dualpipev"])
    stated = {"moe_grouped_gemm": True, "noop_layers": [6, 7], "mtp_num_layers": 1, "schedules_method": "dualpipev"}
    assert job["source"] == {"format": "mindspeed-llm", "path": "/in", **stated}
    assert job["target"] == {"format": "huggingface", "path": "/out"}


def test_mcore_to_mcore_states_nothing_of_the_source() -> None:
    job = job_of([*RESHARD, "--target-tensor-parallel-size", "2", "--noop-layers", "0"])
    assert job["source"] == {"format": "mindspeed-llm", "path": "/in"}
    assert (job["target"]["tensor_parallel_size"], job["target"]["noop_layers"]) == (2, [0])


def test_resharding_keeps_the_iteration_but_for_the_family_that_the_source_tool_reshards() -> None:
    assert "iteration" not in job_of(RESHARD)["target"]
    assert job_of([*RESHARD, "--model-type-hf", "mamba2"])["target"]["iteration"] == "1"


def test_lora_flags_describe_the_adapters_of_the_source() -> None:
    flags = "--lora-load /lora --lora-r 4 --lora-alpha 8 --lora-target-modules linear_qkv linear_proj"
    lora = {"path": "/lora", "r": 4, "alpha": 8.0, "target_modules": ["linear_qkv", "linear_proj"]}
    job = job_of(BACK + flags.split())
    assert job["source"]["lora"] == lora
    assert parse_job(job).source.format == "mindspeed-llm"


@pytest.mark.parametrize(("flags", "lora"), [("--lora-load /lora", {"path": "/lora"}), ("--lora-r 4", {"r": 4}), ("--save-lora-to-hf", {})])
def test_what_the_checkpoint_says_of_its_adapters_may_be_left_out(flags: str, lora: dict[str, object]) -> None:
    job = job_of([*BACK, *flags.split()])
    assert job["source"]["lora"] == lora
    assert parse_job(job).source.lora is not None


def test_adapters_are_exported_instead_of_merged() -> None:
    job = job_of([*BACK, "--save-lora-to-hf", "--lora-r", "4", "--lora-alpha", "8"])
    assert job["target"]["adapter_only"] is True
    assert parse_job(job).target.format == "huggingface"


def test_mamba2_states_the_sizes_its_checkpoints_do_not_hold() -> None:
    back = [*BACK[:-1], "mamba2", "--input-tp-rank", "2", "--input-pp-rank", "1", "--num-layers", "12", "--hidden-size", "64"]
    job = job_of(back)
    assert (job["source"]["tensor_parallel_size"], job["source"]["pipeline_parallel_size"]) == (2, 1)
    assert job["source"]["architecture"] == {"hidden_size": 64, "num_hidden_layers": 12}
    assert job["options"] == {"on_loss": "note"}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_model_type_of_the_source_tool_is_a_choice(model_type: str) -> None:
    assert job_of([*THERE[:-1], model_type])["model_type"] == model_type


def test_there_are_26_model_types() -> None:
    assert len(set(MODEL_TYPES)) == 26


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([*THERE, "--params-dtype", "bf16"], "unrecognized arguments: --params-dtype bf16"),
        ([*THERE, "--target-tensor", "2"], "unrecognized arguments: --target-tensor 2"),
        ([*THERE[:-1], "mixtral"], "'mixtral'"),
        ([*THERE, "--noop-layers", "6,6"], "names layer 6 twice"),
        ([*THERE, "--noop-layers", "6,x"], "'x' is not a whole number"),
        ([*THERE, "--target-tensor-parallel-size", "0"], "at least 1"),
        ([*THERE, "--lora-r", "4", "--lora-alpha", "8"], "--load-model-type mg"),
        ([*THERE, "--hf-cfg-dir", "/config"], "--save-model-type hf"),
        ([*THERE, "--mamba-state-dim", "16"], "--mamba-state-dim"),
        ([*THERE[:3], "hf", *THERE[4:]], "hf to hf"),
        (["--save-dir", "/out"], "--load-dir"),
        ([*BACK, "--save-lora-to-hf", "--moe-grouped-gemm", "--lora-r", "4", "--lora-alpha", "8"], "--moe-grouped-gemm"),
        ([*THERE, "--save-lora-to-hf"], "--save-lora-to-hf needs"),
        ([*BACK, "--hf-cfg-dir", "/nonexistent"], "/nonexistent"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refusal(argv, capsys)


def test_job_of_raises_a_job_error() -> None:
    with pytest.raises(JobError, match="unrecognized"):
        job_of([*THERE, "--no-such-flag"])


def test_help_shows_an_example_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "example: convert-ckpt-v2" in capsys.readouterr().out


def test_flags_without_effect_are_named_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    main([*BACK, "--target-tensor-parallel-size", "4", "--hf-cfg-dir", "/nonexistent"])
    assert "note: no effect, the checkpoint says how it is cut: --target-tensor-parallel-size" in capsys.readouterr().err


def test_reading_flags_imports_nothing_heavy() -> None:
    code = (
        "import sys; from convsvc.cli.convert_ckpt_v2 import job_of; "
        f"job_of({THERE!r}); print(sorted({{'torch', 'ray', 'fastapi', 'sqlalchemy', 'click'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
