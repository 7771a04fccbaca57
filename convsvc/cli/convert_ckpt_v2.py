"""The drop-in for MindSpeed-LLM's `convert_ckpt_v2.py`: its flags, our conversion.

    convert-ckpt-v2 --load-model-type hf --save-model-type mg --load-dir /hf --save-dir /mcore \\
        --model-type-hf qwen3 --target-tensor-parallel-size 2

The flags become a job, which runs here or, with `--submit URL`, on the service. Exit status 0, or 2 with one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from convsvc.cli.drop_in import Parser, count, flag, given, guarded, numbers, run_here, size, submit
from convsvc.errors import JobError

# The source tool's own list, in its order.
MODEL_TYPES = (
    "qwen3", "qwen3-moe", "deepseek2", "deepseek2-lite", "deepseek3", "deepseek32", "deepseek4", "deepseek4_base", "gemma2",
    "glm45-air", "glm45", "glm5", "llama2", "qwen25", "bailing_mini", "qwen3-next", "qwen2-moe", "seed-oss", "magistral", "phi3.5",
    "phi3.5-moe", "plm", "mamba2", "longcat", "minimax_m2", "HYV3",
)  # fmt: skip
FORMATS = {"hf": "huggingface", "mg": "mindspeed-llm"}
# How a checkpoint was made. On the way back the source tool must be told again; here they are only compared with what the
# checkpoint says of itself.
CONVENTIONS = (
    "noop_layers", "moe_grouped_gemm", "moe_tp_extend_ep", "mla_mm_split", "mtp_num_layers", "schedules_method", "transformer_impl",
)  # fmt: skip
# The source tool accepts these on the way back and takes the checkpoint's own values (convert_mg2hf.py:66-110).
IGNORED_ON_THE_WAY_BACK = (
    "target_tensor_parallel_size", "target_pipeline_parallel_size", "target_expert_parallel_size", "expert_tensor_parallel_size",
    "num_layers_per_virtual_pipeline_stage", "num_layer_list", "num_layers", "first_k_dense_replace",
)  # fmt: skip
MAMBA_SIZES = ("hidden_size", "mamba_state_dim", "mamba_num_groups", "mamba_head_dim")
MAMBA_ONLY = (*MAMBA_SIZES, "input_tp_rank", "input_pp_rank")


def main(argv: Sequence[str] | None = None) -> int:
    """Convert as `argv` (default: the command line) says. Returns 0, or 2 after one line on stderr."""
    return guarded("convert-ckpt-v2", lambda: _convert(sys.argv[1:] if argv is None else argv))


def _convert(argv: Sequence[str]) -> int:
    args = parse_flags(argv)
    job = job_from(args)
    note_ignored(args)
    if args.submit:
        return submit(job, args.submit)
    if args.hf_cfg_dir and not os.path.isdir(args.hf_cfg_dir):
        raise JobError(f"--hf-cfg-dir {args.hf_cfg_dir}: there is no such directory")
    return run_here(job)


def job_of(argv: Sequence[str]) -> dict[str, Any]:
    """The job that the flags describe. Pure: looks at no disk.

    >>> job = job_of(["--load-model-type", "mg", "--save-model-type", "hf", "--load-dir", "/in", "--save-dir", "/out"])
    >>> job["source"], job["target"]
    ({'format': 'mindspeed-llm', 'path': '/in'}, {'format': 'huggingface', 'path': '/out'})

    Raises JobError for an unknown flag, a wrong value, or flags that contradict each other.
    """
    return job_from(parse_flags(argv))


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The flags as the source tool spells them; what was not given is None."""
    return _parser().parse_args(list(argv))


def job_from(args: argparse.Namespace) -> dict[str, Any]:
    load, save = args.load_model_type, args.save_model_type
    if load == save == "hf":
        raise JobError("converting hf to hf is not supported", do="give mg for --load-model-type or --save-model-type")
    _refuse_foreign_flags(args)
    job: dict[str, Any] = {
        "source": {"format": FORMATS[load], "path": args.load_dir, **_source_fields(args)},
        "target": {"format": FORMATS[save], "path": args.save_dir, **_target_fields(args)},
    }
    if args.model_type_hf:
        job = {"model_type": args.model_type_hf, **job}
    return {**job, "options": _options(args)}


def note_ignored(args: argparse.Namespace) -> None:
    """Say which flags have no effect, as the checkpoint's own args decide."""
    if args.save_model_type != "hf" or args.model_type_hf == "mamba2":
        return
    flags = [flag(name) for name in IGNORED_ON_THE_WAY_BACK if getattr(args, name) is not None]
    if flags:
        print(f"note: no effect, the checkpoint says how it is cut: {' '.join(flags)}", file=sys.stderr)


def _source_fields(args: argparse.Namespace) -> dict[str, Any]:
    architecture = _architecture(args)
    if args.load_model_type == "hf":
        return architecture
    sizes = {"tensor_parallel_size": args.input_tp_rank, "pipeline_parallel_size": args.input_pp_rank}
    stated = {name: getattr(args, name) for name in CONVENTIONS} if args.save_model_type == "hf" else {}
    return given({**sizes, **stated, **architecture, "lora": _lora(args)})


def _architecture(args: argparse.Namespace) -> dict[str, Any]:
    """What a mamba2 checkpoint does not say: the source tool saves no args."""
    if args.model_type_hf != "mamba2":
        return {}
    sizes = given({name: getattr(args, name) for name in MAMBA_SIZES})
    if args.load_model_type == "mg" and args.num_layers is not None:
        sizes["num_hidden_layers"] = args.num_layers
    return {"architecture": sizes} if sizes else {}


def _target_fields(args: argparse.Namespace) -> dict[str, Any]:
    if args.save_model_type == "hf":
        return given({"config_dir": args.hf_cfg_dir, "adapter_only": args.save_lora_to_hf or None})
    sizes = {
        "tensor_parallel_size": args.target_tensor_parallel_size or 1,
        "pipeline_parallel_size": args.target_pipeline_parallel_size or 1,
        "expert_parallel_size": args.target_expert_parallel_size or 1,
        "expert_tensor_parallel_size": args.expert_tensor_parallel_size,
        "num_layers_per_virtual_pipeline_stage": args.num_layers_per_virtual_pipeline_stage,
        "num_layer_list": args.num_layer_list,
    }
    # The one family that the source tool reshards is at 1 then, wherever training has come to.
    iteration = "1" if args.load_model_type == "mg" and args.model_type_hf == "mamba2" else None
    return given({**sizes, **{name: getattr(args, name) for name in CONVENTIONS}, "iteration": iteration})


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What the source tool accepts is accepted: what is lost is said, as padding rows that training has drawn at random are."""
    reduced = {} if args.load_model_type == "mg" else {"num_layers": args.num_layers, "first_k_dense_replace": args.first_k_dense_replace}
    return given({**reduced, "on_loss": "note"})


def _lora(args: argparse.Namespace) -> dict[str, Any] | None:
    stated = (args.lora_load, args.lora_r, args.lora_alpha, args.save_lora_to_hf or None, args.lora_target_modules or None)
    if all(each is None for each in stated):
        return None
    modules = args.lora_target_modules or None
    return given({"path": args.lora_load, "r": args.lora_r, "alpha": args.lora_alpha, "target_modules": modules})


def _refuse_foreign_flags(args: argparse.Namespace) -> None:
    if args.save_lora_to_hf and args.moe_grouped_gemm:
        raise JobError("--save-lora-to-hf and --moe-grouped-gemm cannot go together", do="leave out one: grouped experts have no adapters")
    if args.save_lora_to_hf and args.save_model_type != "hf":
        raise JobError("--save-lora-to-hf needs --save-model-type hf")
    if args.load_model_type == "hf" and (args.lora_load or args.lora_r or args.lora_alpha or args.lora_target_modules):
        raise JobError("LoRA flags need --load-model-type mg", do="a PEFT adapter is merged by a job: source.lora.path of convsvc convert")
    if args.save_model_type == "mg" and args.hf_cfg_dir:
        raise JobError("--hf-cfg-dir needs --save-model-type hf: an mcore checkpoint holds no config files")
    flags = [flag(name) for name in MAMBA_ONLY if getattr(args, name) is not None]
    if flags and args.model_type_hf != "mamba2":
        raise JobError(f"{' '.join(flags)}: for --model-type-hf mamba2 only", do="leave it out; the sizes are read from the checkpoint")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="convert-ckpt-v2",
        allow_abbrev=False,
        description="Convert a checkpoint between Hugging Face (hf) and MindSpeed-LLM mcore (mg); the flags of convert_ckpt_v2.py.",
        epilog="example: convert-ckpt-v2 --load-model-type hf --save-model-type mg --load-dir /hf --save-dir /mcore "
        "--model-type-hf qwen3 --target-tensor-parallel-size 2 --target-pipeline-parallel-size 2",
    )
    for add in (_add_places, _add_layout, _add_model, _add_lora, _add_mamba):
        add(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--load-model-type", choices=["hf", "mg"], default="hf", help="what --load-dir holds (default hf)")
    add("--save-model-type", choices=["mg", "hf"], default="mg", help="what to write (default mg)")
    add("--load-dir", required=True, help="the checkpoint to read")
    add("--save-dir", required=True, help="the directory to write")
    add(
        "--model-type-hf",
        choices=MODEL_TYPES,
        metavar="MODEL",
        help=f"the model family (detected if left out): {', '.join(MODEL_TYPES)}",
    )
    add("--hf-cfg-dir", help="copy config and tokenizer files from here (to hf)")
    add("--submit", metavar="URL", help="run on the convsvc service at URL instead of here")


def _add_layout(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target-tensor-parallel-size", type=size, metavar="N")
    add("--target-pipeline-parallel-size", type=size, metavar="N")
    add("--target-expert-parallel-size", type=size, metavar="N")
    add("--expert-tensor-parallel-size", type=size, metavar="N", help="1, or the tensor parallel size (the default)")
    add("--num-layers-per-virtual-pipeline-stage", type=size, metavar="N")
    add("--num-layer-list", type=numbers, metavar="N,N,...", help="layers of each pipeline stage, e.g. 1,3,2,2")
    add("--noop-layers", type=_distinct_numbers, metavar="N,N,...", help="layer numbers that hold nothing, e.g. 0,7")
    add("--schedules-method", choices=["dualpipev"])
    add("--moe-grouped-gemm", action="store_true", default=None)
    add("--moe-tp-extend-ep", action="store_true", default=None)
    add("--mla-mm-split", action="store_true", default=None)
    add("--transformer-impl", choices=["local", "transformer_engine"])
    add("--save-layer-by-layer", action="store_true", help="accepted; output is always streamed")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mtp-num-layers", type=count, metavar="N", help="multi-token-prediction layers")
    add("--num-layers", type=size, metavar="N", help="convert only this many layers (debugging)")
    add("--first-k-dense-replace", type=count, metavar="N", help="with --num-layers: how many of them are dense")


def _add_lora(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--lora-load", help="an mcore checkpoint with adapters to merge; without it they lie in --load-dir")
    add("--lora-r", type=size, metavar="N")
    add("--lora-alpha", type=float, metavar="N")
    add("--lora-target-modules", nargs="+", default=[], metavar="NAME")
    add("--save-lora-to-hf", action="store_true", help="write the adapters for PEFT instead of merging them (to hf)")


def _add_mamba(parser: argparse.ArgumentParser) -> None:
    for name in MAMBA_ONLY:
        parser.add_argument(flag(name), type=size, metavar="N", help="mamba2 only")


def _distinct_numbers(text: str) -> list[int]:
    found = numbers(text)
    twice = sorted({number for number in found if found.count(number) > 1})
    if twice:
        raise argparse.ArgumentTypeError(f"{text!r} names layer {twice[0]} twice")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
